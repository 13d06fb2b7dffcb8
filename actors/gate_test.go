package actors_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
)

// answer is what an operation that runs on its own goroutine got.
type answer struct {
	value int64
	err   error
}

// errGone stands for the answer of a goroutine that ended without one.
var errGone = errors.New("the goroutine ended without an answer")

// begin runs op on a goroutine of its own.
func begin(op func() (int64, error)) <-chan answer {
	got := make(chan answer, 1)
	go func() {
		a := answer{0, errGone}
		// A turn that this goroutine ran may end it.
		defer func() { got <- a }()
		a.value, a.err = op()
	}()
	return got
}

func add(r *rig, key string) func() (int64, error) {
	return func() (int64, error) { return r.counter(key).Add(context.Background(), 1) }
}

func get(r *rig, key string) func() (int64, error) {
	return func() (int64, error) { return r.counter(key).Get(context.Background()) }
}

// await returns when n operations wait in the key's shard, all of them after
// their turn.
func await(r *rig, key string, n int) {
	for r.Waiting(key) < n { //nolint:revive // each look is a turn of the shard itself
	}
}

// awaitIdle returns when no goroutine runs the shard of a key: a caller whose
// call waits may run others' turns until then.
func awaitIdle(r *rig, key string) {
	for !r.IdleAt(r.shardOf(key)) {
		runtime.Gosched()
	}
}

func unanswered(t *testing.T, what string, c <-chan answer) {
	t.Helper()
	select {
	case got := <-c:
		t.Errorf("%s was answered before the commit: %+v", what, got)
	default:
	}
}

func TestNothingLeavesBeforeTheCommit(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	if _, err := r.counter("a").Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := r.counter("b").Add(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })

	first := begin(add(r, "a"))
	<-store.began
	second := begin(add(r, "a"))
	read := begin(get(r, "a"))
	refused := begin(func() (int64, error) {
		_, swapped, err := r.counter("a").CompareAndSet(context.Background(), 99, 1)
		if swapped {
			err = errors.New("swapped")
		}
		return 0, err
	})
	await(r, "a", 4)
	unanswered(t, "the add", first)
	unanswered(t, "the second add", second)
	unanswered(t, "the read", read)
	unanswered(t, "the refusal", refused)
	// Another key's readers see what is durable, and do not wait.
	if got, err := r.counter("b").Get(t.Context()); err != nil || got != 5 {
		t.Errorf("clean key: got %d, %v", got, err)
	}

	close(hold)
	if got := <-first; got != (answer{2, nil}) {
		t.Errorf("first add: %+v", got)
	}
	if got := <-second; got != (answer{3, nil}) {
		t.Errorf("second add: %+v", got)
	}
	if got := <-read; got.err != nil || got.value < 2 {
		t.Errorf("read: %+v", got)
	}
	if got := <-refused; got.err != nil {
		t.Errorf("refusal: %+v", got)
	}
}

func drainSignals(c chan struct{}) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

func TestRefusedCommitUndoes(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	if _, err := r.counter("a").Add(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return actors.Refused } })
	_, err := r.counter("a").Add(t.Context(), 1)
	if !errors.Is(err, failure.Overloaded) || failure.OutcomeOf(err) != failure.NotDone {
		t.Fatalf("got %v", err)
	}
	if got, err := r.counter("a").Get(t.Context()); err != nil || got != 7 {
		t.Errorf("read while refused: %d, %v", got, err)
	}
	for range 100 {
		if _, err := r.counter("a").Add(t.Context(), 1); !errors.Is(err, failure.Overloaded) {
			t.Fatalf("got %v", err)
		}
	}
	if n := r.RingAt(r.shardOf("a")); n > 1 {
		t.Errorf("refused adds left %d places in memory", n)
	}
	// A read behind a write that is refused sees what is durable.
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	write := begin(add(r, "a"))
	<-store.began
	read := begin(get(r, "a"))
	await(r, "a", 2)
	store.set(func(f *faultStore) { f.hold = nil })
	close(hold)
	if got := <-write; !errors.Is(got.err, failure.Overloaded) {
		t.Errorf("write: %+v", got)
	}
	if got := <-read; got != (answer{7, nil}) {
		t.Errorf("read behind it: %+v", got)
	}
	store.set(func(f *faultStore) { f.verdict = nil })
	if got, err := r.counter("a").Add(t.Context(), 1); err != nil || got != 8 {
		t.Errorf("after it: %d, %v", got, err)
	}
}

// TestUnclearCommitReloads: half of the unclear commits have landed. Whoever
// comes next sees what is true.
func TestUnclearCommitReloads(t *testing.T) {
	t.Parallel()
	for _, landed := range []bool{true, false} {
		t.Run(strconv.FormatBool(landed), func(t *testing.T) {
			t.Parallel()
			store := newFaultStore()
			r := newRig(t, store)
			if _, err := r.counter("a").Add(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
			drainSignals(store.began)
			hold := make(chan struct{})
			store.set(func(f *faultStore) {
				f.hold = hold
				f.verdict = func(actors.Batch) actors.Status { return actors.Unclear }
				f.land = func(actors.Batch, actors.Status) bool { return landed }
			})
			first := begin(add(r, "a"))
			<-store.began
			later := begin(add(r, "a")) // has its turn on a state that is in doubt
			await(r, "a", 2)
			before := r.epoch("a")
			store.set(func(f *faultStore) { f.verdict, f.hold = nil, nil })
			close(hold)
			for _, c := range []<-chan answer{first, later} {
				if got := <-c; !errors.Is(got.err, failure.OutcomeUnknown) || failure.OutcomeOf(got.err) != failure.Unknown {
					t.Errorf("got %+v", got)
				}
			}
			want := int64(7)
			if landed {
				want = 8
			}
			if got, err := r.counter("a").Get(t.Context()); err != nil || got != want {
				t.Errorf("got %d, %v; want %d", got, err, want)
			}
			if after := r.epoch("a"); after <= before {
				t.Errorf("epoch went from %d to %d", before, after)
			}
		})
	}
}

func TestFencedShardAnswersNotOwner(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	if _, err := r.counter("a").Add(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	raised, err := store.Raise(t.Context(), []actors.Raise{{Shard: r.shardOf("a"), Epoch: 1 << 40, Incarnation: [16]byte{1}}})
	if err != nil || !raised[0].OK {
		t.Fatal(raised, err)
	}
	for range 2 {
		if _, err := r.counter("a").Add(t.Context(), 1); !errors.Is(err, failure.NotOwner) {
			t.Errorf("got %v", err)
		}
	}
}

// TestOneCommitForManyAdds: adds that pile up behind a commit go together.
func TestOneCommitForManyAdds(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	first := begin(add(r, "a"))
	<-store.began
	const more = 1000
	var wg sync.WaitGroup
	for range more {
		wg.Go(func() {
			if _, err := r.counter("a").Add(context.Background(), 1); err != nil {
				t.Error(err)
			}
		})
	}
	await(r, "a", more+1)
	close(hold)
	wg.Wait()
	<-first
	store.mu.Lock()
	defer store.mu.Unlock()
	if store.commits != 2 {
		t.Errorf("%d commits, want 2", store.commits)
	}
}
