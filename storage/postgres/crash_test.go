package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
	"github.com/quern-io/quern/storage/storagetest"
)

// waiting says whether a session waits for an advisory lock.
func waiting(t *testing.T, url string) bool {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Error(err)
		return true
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	var waits bool
	err = conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)`).Scan(&waits)
	return err == nil && waits
}

// chance returns a source of random numbers, whose seed is printed and can be
// given again as QUERN_POSTGRES_SEED.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("QUERN_POSTGRES_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed: QUERN_POSTGRES_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// writer writes a shard as its owner would: what is acknowledged must be there,
// what is unclear is there as a whole or not at all, for good once the epoch was
// raised.
type writer struct {
	store    actors.Store
	shard    uint32
	epoch    uint64
	value    int // the last that is known to be there
	done     *atomic.Int64
	statuses [4]int
}

// run writes until ctx ends, and returns what is wrong.
func (w *writer) run(ctx context.Context) error {
	background := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		next := w.value + 1
		b := batch(w.shard, w.epoch)
		for i := range 20 {
			b.Records = append(b.Records, actors.Record{Key: fmt.Appendf(nil, "key\x00%d", i), Value: []byte(strconv.Itoa(next))})
		}
		v := w.store.Commit(background, []actors.Batch{b})[0]
		w.statuses[v.Status]++
		switch v.Status {
		case actors.Done:
			w.value = next
			w.done.Add(1)
		case actors.Refused: // the next round shows that nothing was written
			if err := w.expect(background, w.value, w.value); err != nil {
				return fmt.Errorf("after a refusal (%w): %w", v.Err, err)
			}
		case actors.Fenced:
			return v.Err
		case actors.Unclear:
			if err := w.reload(background, next); err != nil {
				return err
			}
		}
	}
	return w.expect(background, w.value, w.value)
}

// reload raises the epoch as after an unclear commit.
func (w *writer) reload(ctx context.Context, next int) error {
	for {
		raised, err := w.store.Raise(ctx, []actors.Raise{{Shard: w.shard, From: w.epoch, Epoch: w.epoch + 1, Incarnation: self}})
		if errors.Is(err, postgres.ErrUnavailable) {
			continue
		}
		if err != nil || !raised[0].OK {
			return fmt.Errorf("raise: %+v, %w", raised, err)
		}
		w.epoch++
		return w.expect(ctx, w.value, next)
	}
}

// expect reads the whole shard: all values are the same, one of the two.
func (w *writer) expect(ctx context.Context, low, high int) error {
	for {
		values := map[string]int{}
		err := w.store.Scan(ctx, w.shard, nil, nil, func(_, value []byte) bool {
			values[string(value)]++
			return true
		})
		if errors.Is(err, postgres.ErrUnavailable) {
			continue
		}
		if err != nil {
			return err
		}
		for _, want := range []int{low, high} {
			if values[strconv.Itoa(want)] == 20 || want == 0 && len(values) == 0 {
				w.value = want
				return nil
			}
		}
		return fmt.Errorf("shard %d has %v, want 20 times %d or %d", w.shard, values, low, high)
	}
}

// storm has every shard of a store written while faults happens, and checks.
func storm(t *testing.T, url string, rounds int, fault func()) {
	t.Helper()
	o := postgres.Options{URL: url, Patience: 200 * time.Millisecond, Timeout: 2 * time.Second}
	s := open(t, o)
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all sync.WaitGroup
	var done atomic.Int64
	var mu sync.Mutex
	var statuses [4]int
	for shard := range uint32(storagetest.Shards) {
		w := &writer{store: s, shard: shard, epoch: 1, done: &done}
		raise(t, s, actors.Raise{Shard: shard, Epoch: 1})
		all.Go(func() {
			if err := w.run(ctx); err != nil {
				t.Errorf("shard %d: %v", shard, err)
			}
			mu.Lock()
			defer mu.Unlock()
			for i, n := range w.statuses {
				statuses[i] += n
			}
		})
	}
	for range rounds {
		before := done.Load()
		eventually(t, func() bool { return done.Load() > before+20 })
		fault()
	}
	before := done.Load()
	eventually(t, func() bool { return done.Load() > before })
	cancel()
	all.Wait()
	t.Logf("done %d, fenced %d, refused %d, unclear %d", statuses[0], statuses[1], statuses[2], statuses[3])
	if statuses[actors.Unclear] == 0 {
		t.Log("no commit was unclear in this run")
	}
}

// TestKillServer kills the server under load, again and again.
func TestKillServer(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	chance := chance(t)
	storm(t, server.URL(), 6, func() {
		moment(t, chance)
		if err := errors.Join(server.Kill(), server.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
	})
}

// moment waits for a random time, so that a fault hits anywhere.
func moment(t *testing.T, chance *rand.Rand) {
	t.Helper()
	timer := time.NewTimer(time.Duration(chance.Int64N(int64(20 * time.Millisecond))))
	defer timer.Stop()
	<-timer.C
}

// TestEndSessions ends all of the store's sessions under load.
func TestEndSessions(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	chance := chance(t)
	storm(t, server.URL(), 15, func() {
		moment(t, chance)
		admin(t, server, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'quern' AND pid <> pg_backend_pid()`)
	})
}

// TestSilentServer stops the server while a commit is under way: that is Unclear
// in time, and when the server goes on its raise waits for the old transaction.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	var resume func()
	o := postgres.Hasty(postgres.Options{URL: server.URL(), Timeout: time.Second})
	s := open(t, postgres.WithRowLock(o, postgres.RowLock, func() {
		if resume == nil {
			resume = server.Pause()
		}
	}))
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	raise(t, s, actors.Raise{Shard: 1, Epoch: 1})
	wantCommit(t, s, batch(1, 1, "k", "v"), actors.Unclear, postgres.ErrUnavailable)
	if _, err := s.Raise(t.Context(), []actors.Raise{{Shard: 1, From: 1, Epoch: 2, Incarnation: self}}); err == nil {
		t.Error("a silent server raised an epoch")
	}
	silent := s.Commit(t.Context(), []actors.Batch{batch(2, 1, "k", "v")})[0]
	if silent.Status != actors.Refused || !errors.Is(silent.Err, postgres.ErrUnavailable) {
		t.Errorf("a commit to a silent server: %+v", silent)
	}
	hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Read(hasty, 1, nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	resume()
	eventually(t, func() bool {
		raised, err := s.Raise(t.Context(), []actors.Raise{{Shard: 1, From: 1, Epoch: 2, Incarnation: self}})
		return err == nil && raised[0].OK
	})
	first := get(t, s, 1, "k")
	wantCommit(t, s, batch(1, 1, "k", "late"), actors.Fenced, postgres.ErrFenced)
	wantCommit(t, s, batch(1, 2, "l", "w"), actors.Done, nil)
	if again := get(t, s, 1, "k"); again != first {
		t.Errorf("after the raise %q, later %q", first, again)
	}
}
