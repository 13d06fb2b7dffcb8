package actors_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

func TestOnceCountsOnce(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	first := newRig(t, store)
	for range 3 {
		if got, err := first.counter("a").Once("id").Add(t.Context(), 5); got != 5 || err != nil {
			t.Errorf("got %d, %v; want 5", got, err)
		}
	}
	if _, err := first.counter("a").Once("id").Add(t.Context(), 6); !errors.Is(err, failure.IDReused) {
		t.Errorf("another request under the id: %v", err)
	}
	if _, err := first.counter("a").Once("id").Set(t.Context(), 5); !errors.Is(err, failure.IDReused) {
		t.Errorf("another method under the id: %v", err)
	}
	// An id is scoped to its key.
	if got, err := first.counter("b").Once("id").Add(t.Context(), 1); got != 1 || err != nil {
		t.Errorf("got %d, %v; want 1", got, err)
	}
	if got, err := first.counter("a").Get(t.Context()); got != 5 || err != nil {
		t.Errorf("got %d, %v; want 5", got, err)
	}
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := newRig(t, store)
	if got, err := second.counter("a").Once("id").Add(t.Context(), 5); got != 5 || err != nil {
		t.Errorf("after a restart: got %d, %v; want 5", got, err)
	}
}

// TestOnceKeepsRefusals: a refusal is an answer, and stays one although the
// reason for it is gone.
func TestOnceKeepsRefusals(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	limit := int64(3)
	refused := func(r *rig) error {
		_, err := r.counter("a").Once("id").AddBounded(t.Context(), 10, handles.AddOptions{Max: &limit})
		return err
	}
	before := refused(r)
	if !errors.Is(before, failure.Limit) {
		t.Fatal(before)
	}
	if _, err := r.counter("a").Set(t.Context(), -100); err != nil {
		t.Fatal(err)
	}
	r.Crash(r.shardOf("a"))
	if after := refused(r); after == nil || after.Error() != before.Error() {
		t.Errorf("got %v, want %v", after, before)
	}
}

func TestOnceInFlightWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	if _, err := r.counter("a").Once("other").Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	once := func() (int64, error) { return r.counter("a").Once("id").Add(context.Background(), 10) }
	first := begin(once)
	<-store.began
	second := begin(once)
	await(r, "a", 2)
	unanswered(t, "the repeat", second)
	close(hold)
	for _, c := range []<-chan answer{first, second} {
		if got := <-c; got != (answer{11, nil}) {
			t.Errorf("got %+v", got)
		}
	}
}

// TestOnceAfterAnUnclearCommit: the repeat finds out what happened.
func TestOnceAfterAnUnclearCommit(t *testing.T) {
	t.Parallel()
	for _, landed := range []bool{true, false} {
		store := newFaultStore()
		r := newRig(t, store)
		store.set(func(f *faultStore) {
			f.verdict = func(actors.Batch) actors.Status { return actors.Unclear }
			f.land = func(actors.Batch, actors.Status) bool { return landed }
		})
		if _, err := r.counter("a").Once("id").Add(t.Context(), 10); failure.OutcomeOf(err) != failure.Unknown {
			t.Fatal(err)
		}
		store.set(func(f *faultStore) { f.verdict = nil })
		for range 2 {
			if got, err := r.counter("a").Once("id").Add(t.Context(), 10); got != 10 || err != nil {
				t.Errorf("landed %v: got %d, %v; want 10", landed, got, err)
			}
		}
	}
}

func TestOnceTableIsBoundedAndForgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFaultStore()
		store.began = make(chan struct{}, 100_000)
		r := newRig(t, store)
		once := func(i int) (int64, error) {
			return r.counter("a").Once(strconv.Itoa(i)).Add(t.Context(), 1)
		}
		for i := range actors.OnceLimit {
			if got, err := once(i); got != int64(i+1) || err != nil {
				t.Fatal(got, err)
			}
		}
		if _, err := once(actors.OnceLimit); !errors.Is(err, failure.Overloaded) {
			t.Errorf("a full table of young ids: %v", err)
		}
		if got, err := once(17); got != 18 || err != nil {
			t.Errorf("a kept id: %d, %v", got, err)
		}
		time.Sleep(11 * time.Minute) //nolint:forbidigo // in a bubble
		if got, err := once(actors.OnceLimit); got != actors.OnceLimit+1 || err != nil {
			t.Errorf("a full table of old ids: %d, %v", got, err)
		}
		if n := r.records(t, "a"); n != actors.OnceLimit+2 { // the state, the answers, their timer
			t.Errorf("%d records", n)
		}
		time.Sleep(25 * time.Hour) //nolint:forbidigo // in a bubble
		r.Barrier(r.shardOf("a"))
		if n := r.records(t, "a"); n != 1 {
			t.Errorf("%d records after all ids ran out, want the state alone", n)
		}
		// An id that ran out is new.
		if got, err := once(17); got != actors.OnceLimit+2 || err != nil {
			t.Errorf("an id that ran out: %d, %v", got, err)
		}
		r.stopInBubble(t)
	})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFaultStore()
		r := newRig(t, store)
		for _, key := range []string{"short", "long", "none"} {
			if _, err := r.counter(key).Add(t.Context(), 5); err != nil {
				t.Fatal(err)
			}
		}
		if found, err := r.counter("short").Expire(t.Context(), time.Minute); !found || err != nil {
			t.Fatal(found, err)
		}
		if found, err := r.counter("long").Expire(t.Context(), time.Hour); !found || err != nil {
			t.Fatal(found, err)
		}
		if found, err := r.counter("absent").Expire(t.Context(), time.Hour); found || err != nil {
			t.Errorf("absent: %v, %v", found, err)
		}
		time.Sleep(59 * time.Second) //nolint:forbidigo // in a bubble
		if got, ttl, err := r.counter("short").GetTTL(t.Context()); got != 5 || ttl != time.Second || err != nil {
			t.Errorf("before: %d, %v, %v", got, ttl, err)
		}
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble
		if got, ttl, err := r.counter("short").GetTTL(t.Context()); got != 0 || ttl != 0 || err != nil {
			t.Errorf("after: %d, %v, %v", got, ttl, err)
		}
		// Nobody touches the other one: it is cleared away all the same.
		if n := r.records(t, "long"); n == 0 {
			t.Error("no record of the running one")
		}
		time.Sleep(time.Hour) //nolint:forbidigo // in a bubble
		r.Barrier(r.shardOf("long"))
		for _, key := range []string{"short", "long"} {
			if n := r.records(t, key); n != 0 {
				t.Errorf("%s: %d records are left", key, n)
			}
		}
		if got, err := r.counter("none").Get(t.Context()); got != 5 || err != nil {
			t.Errorf("without expiry: %d, %v", got, err)
		}
		r.stopInBubble(t)
	})
}

// records counts what the store holds of the key's shard.
func (r *rig) records(t *testing.T, key string) (n int) {
	t.Helper()
	err := r.store.Scan(t.Context(), r.shardOf(key), nil, nil, func(_, _ []byte) bool {
		n++
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// stopInBubble ends the runtime before the bubble's end, and sleeps out the
// engine's dead-letter throttle, whose ticker ends with its next tick.
func (r *rig) stopInBubble(t *testing.T) {
	t.Helper()
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	time.Sleep(2 * time.Second) //nolint:forbidigo // in a bubble
}

// TestOnceIDUsedAgainAfterItRanOut: the turn that removes an id's old answer
// keeps its new one, in the same commit.
func TestOnceIDUsedAgainAfterItRanOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFaultStore()
		r := newRig(t, store)
		once := func() (int64, error) { return r.counter("a").Once("id").Add(t.Context(), 1) }
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // in a bubble; between two sweeps
		if got, err := once(); got != 1 || err != nil {
			t.Fatal(got, err)
		}
		time.Sleep(24*time.Hour + time.Millisecond) //nolint:forbidigo // in a bubble; before the next sweep
		if got, err := once(); got != 2 || err != nil {
			t.Fatalf("an id that ran out: %d, %v; want 2", got, err)
		}
		r.Crash(r.shardOf("a"))
		if got, err := once(); got != 2 || err != nil {
			t.Errorf("its repeat: %d, %v; want 2", got, err)
		}
		r.stopInBubble(t)
	})
}
