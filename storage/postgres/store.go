package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/quern-io/quern/actors"
)

// Store is an actors.Store on a PostgreSQL server. All methods may be called
// concurrently.
type Store struct {
	options Options
	schema  string
	sql     statements
	pool    *pgxpool.Pool
	info    actors.StoreInfo
	cluster atomic.Pointer[[16]byte] // the id in info, for connections; nil before Open has read it
	claims  []claim                  // by shard
	line    atomic.Pointer[string]   // of the server on which the first epoch was raised
	guard   *guard                   // nil where the store is not lone
	closed  atomic.Bool
	// quit ends what is under way when Close has waited long enough.
	quit    context.Context //nolint:containedctx // the store's own, for its length
	cancel  context.CancelFunc
	working workers
	// sessions are the connections, those of the pool and the guard's.
	sessions sessions
	open     atomic.Int64 // 1 where the server answered at last, else 0
	retries  *metrics.Counter
}

var _ actors.Store = (*Store)(nil)

// Open connects, makes the tables where there are none, and returns when the
// store can be used. Several nodes may open a new schema at once. It fails with
// one of the errors above, or where ctx ends.
func Open(ctx context.Context, o Options) (*Store, error) {
	o = o.withDefaults()
	cfg, schema, err := o.parse()
	if err != nil {
		return nil, err
	}
	s := &Store{options: o, schema: schema, sql: newStatements(schema, o.hooks.rowLock)}
	s.working.init()
	s.quit, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.retries = o.Metrics.NewCounter("quern_store_retries_total")
	o.Metrics.NewGauge("quern_store_open", func() float64 { return float64(s.open.Load()) })
	cfg.ConnConfig.ValidateConnect, cfg.ConnConfig.OnNotice = s.validate, onNotice
	s.sessions.dial = cfg.ConnConfig.DialFunc
	s.sessions.locking.init()
	cfg.AfterConnect, cfg.ConnConfig.DialFunc = s.afterConnect, s.sessions.connect
	if s.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		s.cancel()
		return nil, fmt.Errorf("%w: %w", ErrURL, err)
	}
	if err := s.start(ctx); err != nil {
		s.end(ctx)
		return nil, err
	}
	return s, nil
}

func (s *Store) start(ctx context.Context) error {
	if err := s.do(ctx, s.setUp); err != nil {
		return err
	}
	s.cluster.Store(&s.info.ClusterID)
	s.claims = make([]claim, s.info.Shards)
	if !s.options.Lone {
		return nil
	}
	s.guard = newGuard(s)
	return s.guard.start(ctx)
}

// Info describes the store.
func (s *Store) Info() actors.StoreInfo { return s.info }

// do runs f on a connection, again on another one while that can help, for as
// long as Options.Patience. f must leave nothing behind that a second run would
// double.
func (s *Store) do(ctx context.Context, f func(ctx context.Context, conn *pgx.Conn) error) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.working.done()
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	patience := time.Now().Add(s.options.Patience)
	for wait := retryPause; ; wait = min(2*wait, retryPauseMax) {
		err := s.attempt(ctx, f)
		if err == nil {
			if s.open.Swap(1) == 0 {
				s.options.Logger.InfoContext(ctx, "the PostgreSQL server answers", slog.String("server", s.where()))
			}
			return nil
		}
		if ctx.Err() != nil || settled(err) || time.Now().After(patience) {
			return s.failed(ctx, err)
		}
		s.retries.Inc()
		if !pause(ctx, wait) {
			return s.failed(ctx, err)
		}
	}
}

// failed explains an error with which a call ends.
func (s *Store) failed(ctx context.Context, err error) error {
	if s.quit.Err() != nil {
		return ErrClosed
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	err = s.explain(err)
	if errors.Is(err, ErrUnavailable) && s.open.Swap(0) == 1 {
		s.options.Logger.WarnContext(ctx, "the PostgreSQL server does not answer", slog.Any("err", err))
	}
	return err
}

// attempt runs f once, on a connection that is thrown away where it fails.
func (s *Store) attempt(caller context.Context, f func(ctx context.Context, conn *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(caller, s.options.Timeout)
	defer cancel()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	err = f(ctx, conn.Conn())
	if conn.Conn().IsClosed() && caller.Err() == nil {
		// The others were likely lost with it.
		s.pool.Reset()
		if s.guard != nil {
			s.guard.suspect()
		}
	}
	return err
}

// begin admits a call, for which working.done must follow.
func (s *Store) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.closed.Load() || !s.working.add() {
		return ErrClosed
	}
	return nil
}

// bounded ends a call's context with the store, too.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.quit, cancel)
	return ctx, func() { stop(); cancel() }
}

func (s *Store) check(shard uint32) error {
	if shard >= s.info.Shards {
		return fmt.Errorf("%w: %d of %d", ErrShard, shard, s.info.Shards)
	}
	return nil
}

// Close waits for calls that are under way as long as ctx allows, ends the rest,
// lets go of all connections, and waits some seconds at most until the server has
// ended them: then the store is free for whoever opens it next. It returns nil, or
// that ctx ended first.
func (s *Store) Close(ctx context.Context) error {
	if s.closed.Swap(true) {
		return nil
	}
	err := s.working.wait(ctx)
	s.end(ctx)
	if err != nil {
		return fmt.Errorf("postgres: close: calls were still under way: %w", err)
	}
	return nil
}

func (s *Store) end(ctx context.Context) {
	s.cancel()
	if s.guard != nil {
		s.guard.stop()
	}
	s.pool.Close()
	s.sessions.wait(ctx)
	s.open.Store(0)
}

// pause waits for d; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
