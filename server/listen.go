package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// writeChunk is how much of a write shares one deadline: a client that reads
// slowly, but reads, is not cut off for the size of its reply.
const writeChunk = 64 << 10

// listener bounds and counts the connections that it accepted.
type listener struct {
	*net.TCPListener
	limit int64
	// writeTimeout bounds the time for which a client takes none of what it is
	// sent. Zero is no bound.
	writeTimeout time.Duration
	// all counts the connections of every listener of the server.
	all *descriptors

	open   atomic.Int64
	framed atomic.Int64 // of the open ones: those of frameconn
	conns  sync.Map     // *conn to nothing: those that are open
}

// listen binds an address for a server. purpose and flag are for the error.
func listen(ctx context.Context, addr, purpose, flag string, cfg *Config, all *descriptors) (*listener, error) {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("server: listen for %s on %s (another address: %s): %w", purpose, addr, flag, err)
	}
	tcp, ok := lis.(*net.TCPListener)
	if !ok {
		_ = lis.Close()
		return nil, fmt.Errorf("server: listen for %s on %s: not a TCP listener: %T", purpose, addr, lis)
	}
	return &listener{
		TCPListener: tcp, limit: all.share(cfg.MaxConns), writeTimeout: cfg.WriteTimeout, all: all,
	}, nil
}

// Accept implements net.Listener. A connection above the limit is closed at
// once, before a byte of it is read.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return nil, err //nolint:wrapcheck // both servers look at its type
		}
		if l.enter() {
			counted := &conn{Conn: c, tcp: c, of: l}
			l.conns.Store(counted, nil)
			return counted, nil
		}
		_ = c.Close()
	}
}

// enter counts a connection, unless there are too many.
func (l *listener) enter() bool {
	if l.open.Add(1) <= l.limit && l.all.take() {
		return true
	}
	l.open.Add(-1)
	return false
}

func (l *listener) leave() {
	l.open.Add(-1)
	l.all.give()
}

// closeConns closes what is still open, among it the connections that gRPC does
// not know yet, since they have not sent their preface.
func (l *listener) closeConns() {
	l.conns.Range(func(c, _ any) bool {
		if c, ok := c.(*conn); ok {
			_ = c.Close()
		}
		return true
	})
}

// conn counts its own end and ends where its client does not read. It shows
// no more of the TCP connection than it must: net/http would write past Write
// through its ReadFrom.
type conn struct {
	net.Conn
	tcp  *net.TCPConn
	of   *listener
	once sync.Once

	ready *readyReader // of ReadOnReady
	// peeked was read of the connection to see what it is.
	peeked []byte
	// taken: it is not the listener's server that it belongs to.
	taken atomic.Bool
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.peeked) > 0 {
		n := copy(p, c.peeked)
		c.peeked = c.peeked[n:]
		return n, nil
	}
	return c.Conn.Read(p) //nolint:wrapcheck // both servers look at its type
}

// SetDeadline implements net.Conn. gRPC ends its deadline for the handshake also
// on a connection that was taken from it.
func (c *conn) SetDeadline(t time.Time) error {
	if c.taken.Load() {
		return nil
	}
	return c.Conn.SetDeadline(t) //nolint:wrapcheck // both servers look at its type
}

// Write implements net.Conn. A client that takes nothing for the listener's
// writeTimeout loses its connection: the servers above would keep its reader.
func (c *conn) Write(p []byte) (n int, err error) {
	for {
		part := p[n:min(len(p), n+writeChunk)]
		if c.of.writeTimeout > 0 {
			if err := c.SetWriteDeadline(time.Now().Add(c.of.writeTimeout)); err != nil {
				return n, err //nolint:wrapcheck // both servers look at its type
			}
		}
		m, err := c.Conn.Write(part)
		n += m
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = c.Close()
		}
		if err != nil || n == len(p) {
			return n, err //nolint:wrapcheck // as above
		}
	}
}

// CloseWrite tells the client that nothing follows. net/http ends connections
// with it whose request it has not read.
func (c *conn) CloseWrite() error {
	return c.tcp.CloseWrite() //nolint:wrapcheck // net/http's own
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.of.leave()
		c.of.conns.Delete(c)
	})
	return c.Conn.Close() //nolint:wrapcheck // both servers look at its type
}
