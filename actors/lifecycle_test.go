package actors_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
)

func TestStopWithoutStart(t *testing.T) {
	t.Parallel()
	rt, err := actors.New(actors.Config{Store: newMemory(), Kinds: []actors.Kind{grains.Counter{}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := rt.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := rt.Start(t.Context()); err == nil {
		t.Error("started after Stop")
	}
}

func TestBadConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]actors.Config{
		"no store":       {},
		"negative limit": {Store: newMemory(), ResidentLimit: -1},
		"a kind twice":   {Store: newMemory(), Kinds: []actors.Kind{grains.Counter{}, grains.Counter{}}},
	} {
		if _, err := actors.New(cfg); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// TestStopLosesNothing stops a runtime under load: what was acknowledged is in
// the store, what was refused is not.
func TestStopLosesNothing(t *testing.T) {
	t.Parallel()
	for range 20 {
		store := newFaultStore()
		store.began = make(chan struct{}, 1_000_000)
		r := newRig(t, store)
		var acked, unknown atomic.Int64
		var wg sync.WaitGroup
		busy := make(chan struct{}, 8)
		for range cap(busy) {
			wg.Go(func() {
				for i := 0; ; i++ {
					if i == 50 {
						busy <- struct{}{}
					}
					_, err := r.counter("a").Add(context.Background(), 1)
					switch {
					case err == nil:
						acked.Add(1)
					case failure.OutcomeOf(err) == failure.Unknown:
						unknown.Add(1)
					case errors.Is(err, failure.Stopping):
						return
					default:
						t.Error(err)
						return
					}
				}
			})
		}
		for range cap(busy) {
			<-busy
		}
		if err := r.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		again := newRig(t, store)
		got, err := again.counter("a").Get(t.Context())
		if err != nil || got != acked.Load() || unknown.Load() != 0 {
			t.Fatalf("got %d, %v; acknowledged %d, unknown %d", got, err, acked.Load(), unknown.Load())
		}
	}
}

func TestStopWithAStoreThatHangs(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	cfg := actors.Config{Store: store, Kinds: []actors.Kind{grains.Counter{}}}
	rt, err := actors.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := &rig{rt, store.Info().Shards, store}
	claims := make([]actors.Claim, r.shards)
	for i := range claims {
		claims[i] = actors.Claim{Shard: uint32(i), Epoch: 1}
	}
	if err := rt.Activate(t.Context(), claims); err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	defer close(hold)
	store.set(func(f *faultStore) { f.hold = hold })
	hung := begin(add(r, "a"))
	<-store.began
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := rt.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop: %v", err)
	}
	if got := <-hung; failure.OutcomeOf(got.err) != failure.Unknown {
		t.Errorf("got %+v", got)
	}
	if _, err := r.counter("a").Add(t.Context(), 1); !errors.Is(err, failure.Stopping) {
		t.Errorf("after it: %v", err)
	}
}

// TestEpochRisesOverRestarts: also when the claim is far behind the store.
func TestEpochRisesOverRestarts(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	last := uint64(0)
	for range 3 {
		r := newRig(t, store)
		if epoch := r.epoch("a"); epoch <= last {
			t.Errorf("epoch %d after %d", epoch, last)
		} else {
			last = epoch
		}
		r.Crash(r.shardOf("a"))
		if _, err := r.counter("a").Add(t.Context(), 1); err != nil {
			t.Error(err)
		}
		if err := r.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
