package postgres

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// endTimeout bounds how long the close of a connection waits for the server to
// end its session, and how long Close waits for the last of them.
const endTimeout = 2 * time.Second

// sessions are those of a store that have locks which outlive a transaction. The
// server gives such a lock back at the end of the session, some time after it was
// told: until then the store is taken for whoever opens it next.
type sessions struct {
	dial    pgconn.DialFunc
	locking workers // a session that has a lock is a call that is under way
}

// connect dials as pgx would have.
func (s *sessions) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := s.dial(ctx, network, addr)
	if err != nil {
		return nil, err //nolint:wrapcheck // pgx explains it
	}
	return &session{Conn: conn, of: s}, nil
}

// lock is called before a connection asks for a lock, which it may get without
// our knowing. False means that the store was closed.
func (s *sessions) lock(conn *pgx.Conn) bool {
	over := conn.PgConn().Conn()
	if secure, ok := over.(*tls.Conn); ok {
		over = secure.NetConn()
	}
	c, ok := over.(*session)
	if !ok || c.locks.Load() {
		return true
	}
	if !s.locking.add() {
		return false
	}
	c.locks.Store(true)
	return true
}

// wait returns when the server has ended all sessions that had locks, or does not
// do so in time, also where ctx has ended.
func (s *sessions) wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	_ = s.locking.wait(ctx)
}

// session is a connection whose Close waits for the end of its session where that
// has a lock: the server closes its end when it has given back all locks.
type session struct {
	net.Conn

	of    *sessions
	locks atomic.Bool
	once  sync.Once
}

// Close implements net.Conn.
func (c *session) Close() error {
	c.once.Do(c.waitForEnd)
	return c.Conn.Close() //nolint:wrapcheck // as net.Conn has it
}

func (c *session) waitForEnd() {
	if !c.locks.Load() {
		return
	}
	defer c.of.locking.done()
	// Without Terminate, as after a failure, this is what ends the session.
	if half, ok := c.Conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	if c.SetReadDeadline(time.Now().Add(endTimeout)) == nil {
		_, _ = io.Copy(io.Discard, c.Conn)
	}
}
