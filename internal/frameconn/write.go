package frameconn

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// writeChunk is how much of a record shares one deadline: who reads slowly, but
// reads, is not cut off for its size.
const writeChunk = 64 << 10

// writer sends records, one after the other.
type writer struct {
	conn    net.Conn
	timeout time.Duration // 0 is none
	began   time.Time
	// moved is when something of a frame was written last, in nanoseconds
	// since began.
	moved atomic.Int64
	// ponging: a ping was not answered yet.
	ponging atomic.Bool

	mu sync.Mutex // guards what follows
	// due is the deadline that the connection has. It is moved once in a
	// while only, since that costs as much as a short write.
	due    time.Time
	failed error
	ended  bool // nothing may follow
}

// record sends a record whose rest is b; it does not keep b.
func (w *writer) record(kind byte, b []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.failed != nil:
		return w.failed
	case w.ended:
		return net.ErrClosed
	}
	w.ended = kind == kindEnd
	chunk := getBuffer(min(headerSize+len(b), writeChunk))
	(*chunk)[0] = kind
	binary.BigEndian.PutUint32((*chunk)[1:], uint32(len(b))) //nolint:gosec // the callers' frames are below that
	n := copy((*chunk)[headerSize:min(len(*chunk), writeChunk)], b)
	err := w.chunk((*chunk)[:headerSize+n])
	putBuffer(chunk)
	for ; err == nil && n < len(b); n += writeChunk {
		w.moved.Store(int64(time.Since(w.began)))
		err = w.chunk(b[n:min(n+writeChunk, len(b))])
	}
	if kind == kindFrame && err == nil {
		w.moved.Store(int64(time.Since(w.began)))
	}
	if err != nil {
		w.failed = fmt.Errorf("frameconn: send: %w", err)
		_ = w.conn.Close() // a record was perhaps cut off: nothing can follow it
	}
	return w.failed
}

// progress is when something of a frame was written last.
func (w *writer) progress() time.Time { return w.began.Add(time.Duration(w.moved.Load())) }

// chunk needs mu.
func (w *writer) chunk(b []byte) error {
	if now := time.Now(); w.timeout > 0 && w.due.Sub(now) < w.timeout {
		w.due = now.Add(w.timeout + w.timeout/2)
		if err := w.conn.SetWriteDeadline(w.due); err != nil {
			return err //nolint:wrapcheck // explained by record
		}
	}
	_, err := w.conn.Write(b)
	return err //nolint:wrapcheck // explained by record
}
