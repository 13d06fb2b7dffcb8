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
	conns sync.Map // *conn to nothing: those that are open
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
			counted := &conn{TCPConn: c, of: l}
			l.conns.Store(counted, nil)
			return counted, nil
		}
		l.open.Add(-1)
		_ = c.Close()
	}
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

// conn counts its own end.
type conn struct {
	*net.TCPConn
	of   *listener
	once sync.Once
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.of.open.Add(-1)
		c.of.conns.Delete(c)
	})
	return c.TCPConn.Close() //nolint:wrapcheck // both servers look at its type
}
