package actors_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/storage/memory"
)

// hand is a clock that the test sets.
type hand struct{ now atomic.Int64 }

func (h *hand) read() time.Duration  { return time.Duration(h.now.Load()) }
func (h *hand) set(to time.Duration) { h.now.Store(int64(to)) }

// leased is a runtime whose shards serve by leases.
type leased struct {
	*rig
	clock *hand
}

func newLeased(tb testing.TB, store actors.Store, change ...func(*actors.Config)) leased {
	tb.Helper()
	clock := &hand{}
	cfg := actors.Config{Store: store, Kinds: []actors.Kind{grains.Counter{}, grains.Lock{}}, Leased: true, Clock: clock.read}
	for _, f := range change {
		f(&cfg)
	}
	rt, err := actors.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if err := rt.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := rt.Stop(ctx); err != nil {
			tb.Errorf("stop: %v", err)
		}
	})
	return leased{&rig{rt, store.Info().Shards, store}, clock}
}

// serve raises the epoch at the store and gives the lease of a key's shard.
func (r leased) serve(tb testing.TB, key string, epoch uint64, until time.Duration) {
	tb.Helper()
	shard := r.shardOf(key)
	raised, err := r.Raise(tb.Context(), []actors.Raise{{Shard: shard, Epoch: epoch}})
	if err != nil || !raised[0].OK {
		tb.Fatalf("raise to %d: %+v, %v", epoch, raised, err)
	}
	r.Serve(actors.Lease{Shard: shard, Epoch: epoch, Time: raised[0].Time, Until: until})
}

// TestLease: a shard answers from Serve on, while the clock is below the end.
func TestLease(t *testing.T) {
	t.Parallel()
	for _, store := range []actors.Store{newFaultStore(), memory.New(64)} {
		r := newLeased(t, store)
		a := r.counter("a")
		if _, err := a.Add(t.Context(), 1); !errors.Is(err, failure.NotOwner) {
			t.Errorf("before Serve: %v", err)
		}
		r.serve(t, "a", 7, 2*time.Second)
		if got, err := a.Add(t.Context(), 1); got != 1 || err != nil || r.epoch("a") != 7 {
			t.Errorf("served: %d, %v, epoch %d", got, err, r.epoch("a"))
		}
		r.clock.set(2 * time.Second)
		if got, err := a.Get(t.Context()); !errors.Is(err, failure.NotOwner) {
			t.Errorf("a read at the end of trust: %d, %v", got, err)
		}
		r.Extend([]uint32{r.shardOf("a")}, 3*time.Second)
		if got, err := a.Add(t.Context(), 1); got != 2 || err != nil {
			t.Errorf("extended: %d, %v", got, err)
		}
		r.clock.set(3 * time.Second)
		if got, err := a.Add(t.Context(), 1); failure.OutcomeOf(err) != failure.Unknown {
			t.Errorf("a write at the end of trust: %d, %v", got, err)
		}
		if got, err := a.Add(t.Context(), 1); !errors.Is(err, failure.NotOwner) {
			t.Errorf("a write after it: %d, %v", got, err)
		}
		r.Revoke(r.shardOf("a"), 7)
		r.Extend([]uint32{r.shardOf("a")}, 9*time.Second)
		if got, err := a.Get(t.Context()); !errors.Is(err, failure.NotOwner) {
			t.Errorf("revoked: %d, %v", got, err)
		}
		r.serve(t, "a", 8, 9*time.Second)
		if got, err := a.Get(t.Context()); got != 3 || err != nil {
			t.Errorf("served again: %d, %v", got, err)
		}
		if err := r.Drain(t.Context(), r.shardOf("a"), 8); err != nil {
			t.Error(err)
		}
		if got, err := a.Get(t.Context()); !errors.Is(err, failure.Moving) {
			t.Errorf("drained: %d, %v", got, err)
		}
		r.Revoke(r.shardOf("a"), 8)
		if got, err := a.Get(t.Context()); !errors.Is(err, failure.NotOwner) {
			t.Errorf("drained and revoked: %d, %v", got, err)
		}
	}
}
