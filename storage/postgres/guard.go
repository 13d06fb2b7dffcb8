package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// How a lone store proves its lock. A proof that does not come in time is a
// loss, which is noticed at most proofEvery + proofTimeout after it happened.
// Whoever takes the lock after an owner that did not say goodbye waits
// takeoverDelay, so that an owner that lives has noticed by then, and one that
// does not run has lost its trust: that lasts for a tenth less, from the start of
// the last proof, for clocks that do not run at one rate.
const (
	proofEvery    = 500 * time.Millisecond
	proofTimeout  = 2 * time.Second
	takeoverDelay = proofEvery + proofTimeout + 500*time.Millisecond
	trustTime     = takeoverDelay - takeoverDelay/10
)

// guard holds the lock of a lone store, on a connection of its own.
type guard struct {
	store *Store
	owner [16]byte  // tells this process from those before it
	conn  *pgx.Conn // belongs to run
	group sync.WaitGroup
	doubt chan struct{} // see suspect

	mu   sync.Mutex
	held chan struct{} // closed while the lock is held
}

func newGuard(s *Store) *guard {
	g := &guard{store: s, held: make(chan struct{}), doubt: make(chan struct{}, 1)}
	_, _ = rand.Read(g.owner[:]) // never fails (documented since Go 1.24)
	return g
}

// start takes the lock and waits out an owner that ended without a word.
func (g *guard) start(ctx context.Context) error {
	ctx, cancel := g.store.bounded(ctx)
	defer cancel()
	if err := g.take(ctx); err != nil {
		return err
	}
	if err := g.prove(ctx); err != nil {
		closeConn(ctx, g.conn)
		return g.store.explain(err)
	}
	close(g.held)
	g.group.Go(func() { g.run(g.store.quit) })
	return nil
}

func (g *guard) take(ctx context.Context) error {
	s := g.store
	ctx, cancel := context.WithTimeout(ctx, s.options.LockWait+takeoverDelay+s.options.Timeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return s.explain(err)
	}
	if err := g.lock(ctx, conn); err != nil {
		closeConn(ctx, conn)
		return err
	}
	g.conn = conn
	return nil
}

func (g *guard) lock(ctx context.Context, conn *pgx.Conn) error {
	s := g.store
	if err := s.afterConnect(ctx, conn); err != nil {
		return s.explain(err)
	}
	// Only while it waits for the lock may a statement take so long.
	wait := fmt.Sprint(s.options.LockWait.Milliseconds())
	if _, err := conn.Exec(ctx, `SELECT set_config('lock_timeout', $1, false), set_config('statement_timeout', '0', false)`, wait); err != nil {
		return s.explain(err)
	}
	key := s.advisory("lone node")
	if shared, err := g.shared(ctx, conn, key); err != nil {
		return s.explain(err)
	} else if shared {
		return fmt.Errorf("%w: schema %q of server %s is in use by the nodes of a cluster: join it with Consul, or name another schema in the URL, as ?schema=NAME", ErrTaken, s.schema, s.where())
	}
	if !s.sessions.lock(conn) {
		return ErrClosed
	}
	_, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, key)
	if sqlState(err) == codeLockNotAvailable {
		return fmt.Errorf("%w: schema %q of server %s%s: stop that node, or name another schema in the URL, as ?schema=NAME; several nodes on one store need Consul", ErrTaken, s.schema, s.where(), g.holder(ctx, conn))
	}
	if err != nil {
		return s.explain(err)
	}
	return g.succeed(ctx, conn)
}

// shared reports whether members of a cluster have the lock. Whoever waited for it
// behind them would keep out those who come after: the server lets nobody pass.
func (g *guard) shared(ctx context.Context, conn *pgx.Conn, key int64) (has bool, err error) {
	const query = `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock'
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND classid::bigint = ($1::bigint >> 32) & 4294967295 AND objid::bigint = $1::bigint & 4294967295)`
	err = conn.QueryRow(ctx, query, key).Scan(&has)
	return has, err
}

// succeed waits until the owner before has noticed, where it did not end its
// ownership itself.
func (g *guard) succeed(ctx context.Context, conn *pgx.Conn) error {
	s := g.store
	var alone bool
	if err := conn.QueryRow(ctx, s.sql.own, g.owner[:]).Scan(&alone); err != nil {
		return s.explain(err)
	}
	if alone {
		return nil
	}
	s.options.Logger.InfoContext(ctx, "the last node on this store was not stopped cleanly; waiting for it to notice", slog.Duration("delay", takeoverDelay))
	if !pause(ctx, takeoverDelay) {
		return ctx.Err()
	}
	return nil
}

// holder names the session that has the lock.
func (g *guard) holder(ctx context.Context, conn *pgx.Conn) string {
	var who string
	const query = `SELECT format(' (held by server process %s, %s from %s since %s)', a.pid, a.application_name, coalesce(host(a.client_addr), 'a local socket'), a.backend_start)
	FROM pg_locks l JOIN pg_stat_activity a USING (pid)
	WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND l.classid::bigint = ($1::bigint >> 32) & 4294967295 AND l.objid::bigint = $1::bigint & 4294967295 LIMIT 1`
	if err := conn.QueryRow(ctx, query, g.store.advisory("lone node")).Scan(&who); err != nil {
		return ""
	}
	return who
}

// run proves the lock again and again, and takes it back when it is lost.
func (g *guard) run(ctx context.Context) {
	defer g.release(ctx)
	for g.due(ctx) {
		err := g.prove(ctx)
		if err == nil || ctx.Err() != nil {
			continue
		}
		log := g.store.options.Logger
		log.ErrorContext(ctx, "lost the lock on the store; answering nothing until it is back", slog.Any("err", err))
		g.mu.Lock()
		g.held = make(chan struct{})
		g.mu.Unlock()
		g.store.options.OnLost(fmt.Errorf("%w: the lock was lost: %w", ErrUnavailable, err))
		closeConn(ctx, g.conn)
		g.conn = nil
		if !g.retake(ctx) {
			return
		}
		log.InfoContext(ctx, "the lock on the store is back")
		g.mu.Lock()
		close(g.held)
		g.mu.Unlock()
		g.suspect() // the owner is waiting for a proof
	}
}

// due waits until the lock is to be proven; false means that ctx ended.
func (g *guard) due(ctx context.Context) bool {
	timer := time.NewTimer(proofEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.doubt:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// suspect has the lock proven at once: another connection was lost.
func (g *guard) suspect() {
	select {
	case g.doubt <- struct{}{}:
	default:
	}
}

func (g *guard) retake(ctx context.Context) bool {
	var last string
	for wait := retryPause; ; wait = min(2*wait, retryPauseMax) {
		err := g.take(ctx)
		if err == nil {
			return true
		}
		if text := err.Error(); ctx.Err() == nil && text != last {
			last = text
			g.store.options.Logger.WarnContext(ctx, "the lock on the store is not to be had; trying again", slog.Any("err", err))
		}
		if !pause(ctx, wait) {
			return false
		}
	}
}

// prove asks the server whether the session has the lock still.
func (g *guard) prove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	var has bool
	until := g.store.options.Clock() + trustTime
	const query = `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid())`
	if err := g.conn.QueryRow(ctx, query).Scan(&has); err != nil {
		return err
	}
	if !has {
		return errors.New("postgres: the session has the lock no more")
	}
	g.store.options.OnProof(until)
	return nil
}

// wait returns when the lock is held.
func (g *guard) wait(ctx context.Context) error {
	g.mu.Lock()
	held := g.held
	g.mu.Unlock()
	select {
	case <-held:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-g.store.quit.Done():
		return ErrClosed
	}
}

// stop lets go of the lock and returns when everything has ended.
func (g *guard) stop() { g.group.Wait() }

// release says goodbye, so that the next owner need not wait.
func (g *guard) release(ctx context.Context) {
	if g.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), proofTimeout)
	defer cancel()
	_, _ = g.conn.Exec(ctx, g.store.sql.disown, g.owner[:]) // without it the next one waits a little
	closeConn(ctx, g.conn)
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // whatever it says, it is closed
}
