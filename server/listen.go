package server

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// listener bounds and counts the connections that it accepted.
type listener struct {
	*net.TCPListener
	limit int64
	open  atomic.Int64
}

// listen binds an address. purpose and flag are for the error.
func listen(ctx context.Context, addr, purpose, flag string, limit int) (*listener, error) {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("server: listen for %s on %s (another address: %s): %w", purpose, addr, flag, err)
	}
	tcp, ok := lis.(*net.TCPListener)
	if !ok {
		_ = lis.Close()
		return nil, fmt.Errorf("server: listen for %s on %s: not a TCP listener: %T", purpose, addr, lis)
	}
	return &listener{TCPListener: tcp, limit: int64(limit)}, nil
}

// Accept implements net.Listener. A connection above the limit is closed at
// once, before a byte of it is read.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return nil, err //nolint:wrapcheck // both servers look at its type
		}
		if l.open.Add(1) <= l.limit {
			return &conn{TCPConn: c, open: &l.open}, nil
		}
		l.open.Add(-1)
		_ = c.Close()
	}
}

// conn counts its own end.
type conn struct {
	*net.TCPConn
	open *atomic.Int64
	once sync.Once
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() { c.open.Add(-1) })
	return c.TCPConn.Close() //nolint:wrapcheck // both servers look at its type
}
