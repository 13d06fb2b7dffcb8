package actors_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
)

// TestOneLookPerBatch: a bundle shares its looks at the clock, one for each 64
// turns or one for the commit that lets it go.
func TestOneLookPerBatch(t *testing.T) {
	t.Parallel()
	bothStores(t, func(t *testing.T, store actors.Store) {
		t.Helper()
		const bundles, size = 50, 128
		looks := atomic.Int64{}
		r := newLeased(t, store, func(c *actors.Config) {
			c.Clock = func() time.Duration { looks.Add(1); return 0 }
		})
		r.serve(t, "a", 1, forLong)
		if _, err := r.counter("a").Add(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		looks.Store(0)
		for range bundles {
			b := r.gather("a", size, time.Time{})
			r.SubmitBundle(r.shardOf("a"), &b.bundle)
			for _, done := range b.ends {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
		}
		if n, most := looks.Load(), int64(bundles*size/64); n == 0 || n > most {
			t.Errorf("%d looks at the clock for %d operations, at most %d were meant", n, bundles*size, most)
		}
	})
}

// TestLeaseCostsNoAllocation: neither a call nor what it shares with others.
func TestLeaseCostsNoAllocation(t *testing.T) { //nolint:paralleltest // it counts the process's allocations
	if raced {
		t.Skip("counts allocations; make test-unraced runs it")
	}
	lone, under := newRig(t, newMemory()), newLeased(t, newMemory(), func(c *actors.Config) { c.Clock = nil })
	under.serve(t, "a", 1, 1<<62)
	count := func(r *rig) float64 {
		a := r.counter("a")
		return testing.AllocsPerRun(2000, func() {
			if _, err := a.Add(t.Context(), 1); err != nil {
				t.Error(err)
			}
		})
	}
	if without, with := count(lone), count(under.rig); with > without {
		t.Errorf("%v allocations a call under a lease, %v without", with, without)
	}
}
