package frameconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
)

// The kinds of records.
const (
	kindFrame = 1
	kindEnd   = 2
	kindPing  = 3
	kindPong  = 4
)

// lingerTime bounds how long the end of a stream waits for the other end to
// take it: a connection that is closed with something unread would take back
// what is still on its way.
const lingerTime = time.Second

// Config has the bounds of a connection. Zero is none.
type Config struct {
	// MaxFrame is the largest frame that is taken, in bytes; it must be set.
	MaxFrame int
	// WriteTimeout is how long the other end may take nothing of 64 KiB that
	// it is sent; it may be half as long again. Then the connection is cut.
	WriteTimeout time.Duration
	// KeepAlive is the silence after which a client is pinged; it is cut off
	// when it stays silent for as long again. A client that takes what it is
	// sent is not silent. A client has its own ways.
	KeepAlive time.Duration
}

// OnIdle sets a function that Recv calls when a client has been silent for
// KeepAlive. It must be set before the first Recv.
func (f *Conn) OnIdle(idle func()) { f.idle = idle }

// Conn is one end of a stream over a connection of its own. It implements
// frame.Stream; what Recv returns is good until the next call.
type Conn struct {
	conn      net.Conn
	keepAlive time.Duration
	node      bool            // this is the node's end
	ctx       context.Context //nolint:containedctx // as frame.Stream has it
	cancel    context.CancelFunc
	ending    atomic.Bool
	idle      func() // may be nil

	out writer

	receiving sync.Mutex // guards what follows
	in        reader
	asked     time.Time // when it was pinged; before heard: not since then
	pings     int       // that were not answered
}

var _ frame.Stream = (*Conn)(nil)

func newConn(c net.Conn, cfg Config) *Conn {
	f := &Conn{conn: c}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.in = reader{conn: c, limit: cfg.MaxFrame, heard: time.Now()}
	if s, ok := c.(syscall.Conn); ok {
		f.in.raw, _ = s.SyscallConn() // it is read without it elsewhere
	}
	f.out = writer{conn: c, timeout: cfg.WriteTimeout, began: f.in.heard}
	return f
}

// Dial begins a stream as a client, on a connection on which nothing was said.
// It fails with [ErrNotSpoken] where the other end speaks something else, or
// nothing before ctx ends or timeout is over. The connection is closed on
// failure.
func Dial(ctx context.Context, c net.Conn, timeout time.Duration, cfg Config) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err := c.SetDeadline(time.Now().Add(timeout))
	if err == nil {
		_, err = c.Write(preface())
	}
	if err == nil {
		err = readAnswer(c)
	}
	if err == nil && stop() {
		err = c.SetDeadline(time.Time{})
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("frameconn: begin a stream with %s: %w", c.RemoteAddr(), err)
	}
	return newConn(c, cfg), nil
}

func readAnswer(c net.Conn) error {
	var first [1]byte
	if _, err := c.Read(first[:]); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSpoken, err)
	}
	if first[0] != First {
		return fmt.Errorf("%w: it says %q", ErrNotSpoken, first[:])
	}
	return ReadPreface(c)
}

// Answer begins a stream as a node, on a connection whose preface was read.
func Answer(c net.Conn, cfg Config) (*Conn, error) {
	f := newConn(c, cfg)
	f.node, f.keepAlive = true, cfg.KeepAlive
	if err := f.rearm(f.in.heard); err != nil {
		f.Close()
		return nil, err
	}
	if err := f.out.chunk(preface()); err != nil {
		f.Close()
		return nil, fmt.Errorf("frameconn: answer %s: %w", c.RemoteAddr(), err)
	}
	return f, nil
}

// Context implements frame.Stream.
func (f *Conn) Context() context.Context { return f.ctx }

// Send implements frame.Stream. Any goroutine may call it.
func (f *Conn) Send(b []byte) error { return f.out.record(kindFrame, b) }

// Bounded says that Send takes no longer than the other end may take nothing.
func (f *Conn) Bounded() bool { return f.out.timeout > 0 }

// Close implements frame.Stream.
func (f *Conn) Close() {
	f.cancel()
	_ = f.conn.Close()
}

// Recv implements frame.Stream. It fails with a *failure.Error where the other
// end has broken the protocol, or has ended the stream for a reason.
func (f *Conn) Recv() ([]byte, error) {
	f.receiving.Lock()
	defer f.receiving.Unlock()
	for {
		kind, rest, err := f.in.next()
		switch {
		case f.ending.Load():
			err = net.ErrClosed
		case f.node && errors.Is(err, io.EOF):
			err = ErrLeft
		case errors.Is(err, os.ErrDeadlineExceeded) && f.keepAlive > 0:
			err = f.silent(time.Now())
		case err == nil && kind == kindFrame:
			return rest, nil
		case err == nil:
			err = f.control(kind, rest)
		}
		if err != nil {
			return nil, err
		}
	}
}

// ErrLeft is the end of a client.
var ErrLeft = errors.New("frameconn: the client has left")

// control takes a record that is no frame.
func (f *Conn) control(kind byte, rest []byte) error {
	switch {
	case kind == kindEnd && !f.node:
		return ended(rest)
	case kind == kindPing && !f.node && len(rest) == 0:
		f.pong()
		return nil
	case kind == kindPong && f.node && len(rest) == 0 && f.pings > 0:
		f.pings--
		return nil
	default:
		return failure.New(failure.InvalidField, "a record of the kind %d with %d bytes, which has no place here", kind, len(rest))
	}
}

// ErrEnded is the end of a stream that the node has ended.
var ErrEnded = errors.New("frameconn: the node has ended the stream")

// ended says why the node has ended the stream.
func ended(rest []byte) error {
	e, err := frame.ReadEnd(rest)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrEnded, err)
	case e != nil:
		return fmt.Errorf("%w: %w", ErrEnded, e)
	default:
		return ErrEnded
	}
}

// pong answers a ping. The reader does not wait for it: the other end perhaps
// takes nothing before it is read.
func (f *Conn) pong() {
	if f.out.ponging.CompareAndSwap(false, true) {
		go func() {
			f.out.ponging.Store(false)
			_ = f.out.record(kindPong, nil) // Recv hears of what is wrong
		}()
	}
}

var errSilent = errors.New("frameconn: the client is silent")

// silent is what becomes of a client of which nothing was heard for a while. Who
// is being sent a frame, and takes it, is busy with that: the ping stands behind
// it.
func (f *Conn) silent(now time.Time) error {
	since := f.in.heard
	for _, t := range []time.Time{f.asked, f.out.progress()} {
		if t.After(since) {
			since = t
		}
	}
	if since.Add(f.keepAlive).After(now) {
		return f.rearm(since)
	}
	if f.asked.After(f.in.heard) {
		return errSilent
	}
	f.pings++
	if f.idle != nil {
		f.idle()
	}
	if err := f.out.record(kindPing, nil); err != nil {
		return err
	}
	f.asked = time.Now() // it may have waited for a frame
	return f.rearm(f.asked)
}

// rearm lets Recv look again when a client has been silent since then.
func (f *Conn) rearm(since time.Time) error {
	if f.keepAlive <= 0 {
		return nil
	}
	if err := f.conn.SetReadDeadline(since.Add(f.keepAlive)); err != nil {
		return fmt.Errorf("frameconn: %w", err)
	}
	if f.ending.Load() { // it has its own
		_ = f.conn.SetReadDeadline(time.Now().Add(lingerTime))
	}
	return nil
}

// Interrupt lets Recv fail, now and from now on.
func (f *Conn) Interrupt() {
	f.ending.Store(true)
	_ = f.conn.SetReadDeadline(time.Unix(1, 0)) // fails where it is closed, as Recv does
}

// End ends the stream for a reason, nil for none, and closes the connection when
// the client has taken that, or after a second.
func (f *Conn) End(e *failure.Error) {
	defer f.Close()
	f.ending.Store(true)
	if f.conn.SetReadDeadline(time.Now().Add(lingerTime)) != nil || f.out.record(kindEnd, frame.AppendEnd(nil, e)) != nil {
		return
	}
	if c, ok := f.conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() != nil {
		return
	}
	f.receiving.Lock()
	defer f.receiving.Unlock()
	f.in.discard()
}
