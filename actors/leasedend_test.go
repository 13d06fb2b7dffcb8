package actors_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/storage/memory"
)

const forLong = time.Hour

// begun is a leased shard in which something of each kind is under way: a commit
// that hangs, with a write, a read and a session behind it; a call that waits for
// a lock, one that waits for a load, and a watch.
type begun struct {
	leased

	store               *faultStore
	commit              chan struct{}
	write, read, load   <-chan answer
	session             <-chan error
	wait                <-chan grant
	watch               *observer
	shard               uint32
	readStart, readGone chan struct{}
}

func newBegun(t *testing.T) *begun {
	t.Helper()
	store := newFaultStore()
	b := &begun{leased: newLeased(t, store), store: store, commit: make(chan struct{}), readStart: make(chan struct{}, 8), readGone: make(chan struct{})}
	b.shard = b.shardOf("{x}")
	b.serve(t, "{x}", 5, forLong)
	b.hold(t, "{x}lock", "holder", time.Minute)
	b.wait = b.beginWait(t.Context(), "{x}lock", "waiter")
	b.awaitParked("{x}", 1)
	b.mustOpen(t, "{x}") // so that they are counted
	b.watch = b.observe(t, "{x}a", 0)
	b.watch.until(t, 0)
	for !b.CleanAt(b.shard) { //nolint:revive // each look is a turn of the shard itself
	}
	store.set(func(f *faultStore) { f.hold = b.commit })
	drainSignals(store.began)
	b.write = begin(add(b.rig, "{x}a"))
	<-store.began
	await(b.rig, "{x}", 1)
	b.read = begin(get(b.rig, "{x}a"))
	await(b.rig, "{x}", 2)
	opened := make(chan error, 1)
	b.session = opened
	b.OpenSession(b.shard, func(_ string, _ uint64, err error) { opened <- err })
	await(b.rig, "{x}", 3)
	store.set(func(f *faultStore) {
		f.read = func(uint32) error { b.readStart <- struct{}{}; <-b.readGone; return nil }
	})
	b.load = begin(get(b.rig, "{x}never"))
	<-b.readStart
	return b
}

// TestRevoke: all that is under way is answered at once, though the store hangs.
func TestRevoke(t *testing.T) {
	t.Parallel()
	b := newBegun(t)
	b.Revoke(b.shard, 5)
	if got := <-b.write; !errors.Is(got.err, failure.OutcomeUnknown) {
		t.Errorf("a write that was begun: %+v", got)
	}
	if err := <-b.session; !errors.Is(err, failure.OutcomeUnknown) {
		t.Errorf("a session that was begun: %v", err)
	}
	if got := <-b.read; !errors.Is(got.err, failure.NotOwner) {
		t.Errorf("a read that was begun: %+v", got)
	}
	if got := <-b.load; !errors.Is(got.err, failure.NotOwner) {
		t.Errorf("a call that waits for a load: %+v", got)
	}
	if got := <-b.wait; !errors.Is(got.err, failure.NotOwner) {
		t.Errorf("a call that waits for a lock: %+v", got)
	}
	if err := <-b.watch.end; !errors.Is(err, failure.NotOwner) {
		t.Errorf("a watch: %v", err)
	}
	if n := b.WaitingAt(b.shard); n != 0 {
		t.Errorf("%d calls still wait", n)
	}
	b.store.set(func(f *faultStore) { f.hold, f.read = nil, nil })
	close(b.commit)
	close(b.readGone)
	b.serve(t, "{x}", 6, forLong)
	if q := b.queue(t, "{x}lock"); !slices.Equal(q, []string{"waiter"}) {
		t.Errorf("places in the queue: %q", q)
	}
}

// TestDrain: no new turns; what was begun is answered, and then nothing is.
func TestDrain(t *testing.T) {
	t.Parallel()
	b := newBegun(t)
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Drain(short, b.shard, 5); !errors.Is(err, context.Canceled) {
		t.Errorf("a drain that has no time: %v", err)
	}
	if _, err := b.counter("{x}a").Get(t.Context()); !errors.Is(err, failure.Moving) {
		t.Errorf("a call that comes: %v", err)
	} else if e, _ := errors.AsType[*failure.Error](err); e.RetryAfter < 20*time.Millisecond || e.RetryAfter > 100*time.Millisecond {
		t.Errorf("it is to come back after %v", e.RetryAfter)
	}
	if got := <-b.load; !errors.Is(got.err, failure.Moving) {
		t.Errorf("a call that waits for a load: %+v", got)
	}
	if got := <-b.wait; !errors.Is(got.err, failure.Moving) {
		t.Errorf("a call that waits for a lock: %+v", got)
	}
	unanswered(t, "the write", b.write)
	drained := make(chan error, 1)
	go func() { drained <- b.Drain(context.Background(), b.shard, 5) }()
	b.Barrier(b.shard)
	select {
	case err := <-drained:
		t.Error("drained before the commit", err)
	default:
	}
	b.store.set(func(f *faultStore) { f.hold = nil })
	close(b.commit)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if got := <-b.write; got != (answer{1, nil}) {
		t.Errorf("the write: %+v", got)
	}
	if got := <-b.read; got != (answer{1, nil}) {
		t.Errorf("the read: %+v", got)
	}
	if err := <-b.session; err != nil {
		t.Errorf("the session: %v", err)
	}
	b.watch.until(t, 1)
	if err := <-b.watch.end; !errors.Is(err, failure.Moving) {
		t.Errorf("the watch: %v", err)
	}
	if _, serves := b.Epoch(b.shard); serves || !b.CleanAt(b.shard) {
		t.Error("it is still owned, or dirty")
	}
	close(b.readGone)
	if n := b.Withheld(); n != 0 {
		t.Errorf("%d replies were withheld", n)
	}
}

// TestRevokeWhileDraining: the node that gives a shard away loses it.
func TestRevokeWhileDraining(t *testing.T) {
	t.Parallel()
	b := newBegun(t)
	drained := make(chan error, 1)
	go func() { drained <- b.Drain(context.Background(), b.shard, 5) }()
	if got := <-b.load; !errors.Is(got.err, failure.Moving) {
		t.Errorf("a call that waits for a load: %+v", got)
	}
	b.Revoke(b.shard, 5)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if got := <-b.write; !errors.Is(got.err, failure.OutcomeUnknown) {
		t.Errorf("the write: %+v", got)
	}
	if got := <-b.read; !errors.Is(got.err, failure.NotOwner) {
		t.Errorf("the read: %+v", got)
	}
	if _, err := b.counter("{x}a").Get(t.Context()); !errors.Is(err, failure.NotOwner) {
		t.Errorf("a call that comes: %v", err)
	}
	close(b.commit)
	close(b.readGone)
}

// TestCommitAfterTheLease: what is durable too late is not told.
func TestCommitAfterTheLease(t *testing.T) {
	t.Parallel()
	b := newBegun(t)
	b.clock.set(forLong)
	b.store.set(func(f *faultStore) { f.hold = nil })
	close(b.commit)
	if got := <-b.write; !errors.Is(got.err, failure.OutcomeUnknown) {
		t.Errorf("the write: %+v", got)
	}
	if got := <-b.read; !errors.Is(got.err, failure.NotOwner) {
		t.Errorf("the read: %+v", got)
	}
	if err := <-b.session; !errors.Is(err, failure.OutcomeUnknown) {
		t.Errorf("the session: %v", err)
	}
	b.watch.nothing(t, "after the lease")
	if err := <-b.watch.end; !errors.Is(err, failure.NotOwner) {
		t.Errorf("the watch: %v", err)
	}
	close(b.readGone)
	if got := <-b.load; !errors.Is(got.err, failure.NotOwner) {
		t.Errorf("the call that waited for a load: %+v", got)
	}
	if b.Parked("{x}") != 1 {
		t.Error("the wait has ended, though the trust may be extended")
	}
	if b.Withheld() != 3 {
		t.Errorf("%d replies were withheld", b.Withheld())
	}
}

// TestStopWhileDraining: the end of the node ends the drain.
func TestStopWhileDraining(t *testing.T) {
	t.Parallel()
	b := newBegun(t)
	drained := make(chan error, 1)
	go func() { drained <- b.Drain(context.Background(), b.shard, 5) }()
	<-b.load
	stopped := make(chan error, 1)
	go func() { stopped <- b.Stop(context.Background()) }()
	close(b.readGone)
	close(b.commit)
	if got := <-b.write; got != (answer{1, nil}) {
		t.Errorf("the write: %+v", got)
	}
	if err := errors.Join(<-drained, <-stopped); err != nil {
		t.Error(err)
	}
}

// TestTurnOutlivesTheLease: the clock is looked at after the turns of a batch.
func TestTurnOutlivesTheLease(t *testing.T) {
	t.Parallel()
	bothStores(t, func(t *testing.T, store actors.Store) {
		t.Helper()
		p := probe{make(chan struct{}), make(chan struct{})}
		r := newLeased(t, store, withProbe(p))
		r.serve(t, "{x}", 1, time.Second)
		inTime := begin(func() (int64, error) {
			n, err := r.probe(context.Background(), "{x}", "block", "")
			return int64(n), err
		})
		<-p.entered
		r.clock.set(time.Second - 1)
		p.block <- struct{}{}
		if got := <-inTime; got != (answer{1, nil}) {
			t.Errorf("in time: %+v", got)
		}
		late := begin(func() (int64, error) {
			n, err := r.probe(context.Background(), "{x}", "block", "")
			return int64(n), err
		})
		<-p.entered
		r.clock.set(time.Second)
		p.block <- struct{}{}
		if got := <-late; !errors.Is(got.err, failure.OutcomeUnknown) {
			t.Errorf("late: %+v", got)
		}
	})
}

// told keeps what the owner of the leases hears.
type told struct {
	mu    sync.Mutex
	calls [][3]uint64 // guarded by mu
	more  chan struct{}
}

func (h *told) hear(c *actors.Config) {
	h.more = make(chan struct{}, 100)
	note := func(kind, epoch, known uint64) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.calls = append(h.calls, [3]uint64{kind, epoch, known})
		h.more <- struct{}{}
	}
	c.OnEpoch = func(_ uint32, epoch uint64) { note(0, epoch, 0) }
	c.OnFenced = func(_ uint32, epoch, known uint64) { note(1, epoch, known) }
}

func (h *told) next() [3]uint64 {
	<-h.more
	h.mu.Lock()
	defer h.mu.Unlock()
	first := h.calls[0]
	h.calls = h.calls[1:]
	return first
}

// TestUnclearInALease: the shard raises its own epoch, says so and goes on; what
// the owner then says of either epoch is meant for it.
func TestUnclearInALease(t *testing.T) {
	t.Parallel()
	for _, spoken := range []uint64{5, 6} {
		store, h := newFaultStore(), &told{}
		r := newLeased(t, store, h.hear)
		r.serve(t, "a", 5, forLong)
		store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return actors.Unclear } })
		if got, err := r.counter("a").Add(t.Context(), 1); !errors.Is(err, failure.OutcomeUnknown) {
			t.Errorf("%d, %v", got, err)
		}
		store.set(func(f *faultStore) { f.verdict = nil })
		if got := h.next(); got != [3]uint64{0, 6, 0} {
			t.Errorf("told %v", got)
		}
		if got, err := r.counter("a").Add(t.Context(), 1); got != 1 || err != nil || r.epoch("a") != 6 {
			t.Errorf("%d, %v under epoch %d", got, err, r.epoch("a"))
		}
		r.Revoke(r.shardOf("a"), 4)
		if got, err := r.counter("a").Get(t.Context()); got != 1 || err != nil {
			t.Errorf("after what was said of an epoch before: %d, %v", got, err)
		}
		r.Revoke(r.shardOf("a"), spoken)
		if got, err := r.counter("a").Get(t.Context()); !errors.Is(err, failure.NotOwner) {
			t.Errorf("revoked: %d, %v", got, err)
		}
	}
}

// TestFencedInALease: another has raised the epoch, before a commit or before the
// shard raises it by itself.
func TestFencedInALease(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]actors.Status{"commit": actors.Done, "raise": actors.Unclear} {
		store, h, set := newFaultStore(), &told{}, metrics.NewSet()
		r := newLeased(t, store, h.hear, func(c *actors.Config) { c.Metrics = set })
		r.serve(t, "a", 5, forLong)
		r.serve(t, "other", 5, forLong)
		if raised, err := r.Raise(t.Context(), []actors.Raise{{Shard: r.shardOf("a"), Epoch: 9}}); err != nil || !raised[0].OK {
			t.Fatal(raised, err)
		}
		store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return first } })
		_, err := r.counter("a").Add(t.Context(), 1)
		if first == actors.Done && !errors.Is(err, failure.NotOwner) || err == nil {
			t.Errorf("%s: a write: %v", name, err)
		}
		want := [3]uint64{1, 5, 0} // a commit does not tell the epoch
		if first == actors.Unclear {
			want[2] = 9
		}
		if got := h.next(); got != want {
			t.Errorf("%s: told %v, want %v", name, got, want)
		}
		store.set(func(f *faultStore) { f.verdict = nil })
		if got, err := r.counter("a").Get(t.Context()); !errors.Is(err, failure.NotOwner) {
			t.Errorf("%s: fenced: %d, %v", name, got, err)
		}
		if got, err := r.counter("other").Add(t.Context(), 1); got != 1 || err != nil {
			t.Errorf("%s: another shard: %d, %v", name, got, err)
		}
		r.serve(t, "a", 10, forLong)
		if got, err := r.counter("a").Add(t.Context(), 1); got != 1 || err != nil {
			t.Errorf("%s: taken again: %d, %v", name, got, err)
		}
	}
}

// TestCrashInALease: on a store that others share the shard raises its epoch; on
// one of its own nobody else would know of it, so it gives the shard back.
func TestCrashInALease(t *testing.T) {
	t.Parallel()
	bothStores(t, func(t *testing.T, store actors.Store) {
		t.Helper()
		h := &told{}
		r := newLeased(t, store, h.hear)
		r.serve(t, "a", 5, forLong)
		r.Crash(r.shardOf("a"))
		got := h.next()
		_, err := r.counter("a").Get(t.Context())
		if store.Info().Durable {
			if got != [3]uint64{0, 6, 0} || err != nil {
				t.Errorf("told %v, %v", got, err)
			}
			return
		}
		if got != [3]uint64{1, 5, 5} || !errors.Is(err, failure.NotOwner) {
			t.Errorf("told %v, %v", got, err)
		}
		r.serve(t, "a", 6, forLong)
		if _, err := r.counter("a").Get(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestServeOutOfTurn: what comes too late, or under an epoch that was served
// before, is not served.
func TestServeOutOfTurn(t *testing.T) {
	t.Parallel()
	r := newLeased(t, newFaultStore())
	shard := r.shardOf("a")
	r.serve(t, "a", 5, forLong)
	r.Revoke(shard, 5)
	for _, epoch := range []uint64{4, 5} {
		r.Serve(actors.Lease{Shard: shard, Epoch: epoch, Until: forLong})
		if got, err := r.counter("a").Get(t.Context()); !errors.Is(err, failure.NotOwner) {
			t.Errorf("epoch %d again: %d, %v", epoch, got, err)
		}
		if err := r.Drain(t.Context(), shard, epoch); err != nil {
			t.Error(err)
		}
	}
	until := make(chan struct{})
	r.Block(shard, until)
	r.serve(t, "a", 6, forLong)
	r.Revoke(shard, 6)
	close(until)
	if got, err := r.counter("a").Get(t.Context()); !errors.Is(err, failure.NotOwner) {
		t.Errorf("revoked before its turn: %d, %v", got, err)
	}
	if err := r.Activate(t.Context(), []actors.Claim{{Shard: shard, Epoch: 7}}); err == nil {
		t.Error("a leased runtime takes claims")
	}
}

// TestMemoryKeepsWhatWasAcknowledged: the states of a tenure that was revoked are
// in the node's own store, under its epoch, when the next one begins; also where
// nothing was written.
func TestMemoryKeepsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	store := memory.New(64)
	r := newLeased(t, store)
	shard := r.shardOf("a")
	for round := range int64(20) {
		epoch := 2*uint64(round) + 1
		r.serve(t, "a", epoch, forLong)
		if got, err := r.counter("a").Add(t.Context(), 1); got != round+1 || err != nil {
			t.Fatalf("round %d: %d, %v", round, got, err)
		}
		r.Revoke(shard, epoch)
		r.serve(t, "a", epoch+1, forLong)
		if round%2 == 0 {
			r.Revoke(shard, epoch+1)
			if err := r.Drain(t.Context(), shard, epoch+1); err != nil { // only waits
				t.Error(err)
			}
		} else if err := r.Drain(t.Context(), shard, epoch+1); err != nil {
			t.Error(err)
		}
		if got := store.Written(shard); got != epoch+1 {
			t.Fatalf("the states are of epoch %d, served under %d", got, epoch+1)
		}
	}
}

// TestLeasedMetrics: what a lease costs is counted.
func TestLeasedMetrics(t *testing.T) {
	t.Parallel()
	r := newLeased(t, newFaultStore())
	r.serve(t, "a", 5, time.Second)
	if _, err := r.counter("a").Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r.clock.set(time.Second)
	_, _ = r.counter("a").Get(t.Context())
	r.Extend([]uint32{r.shardOf("a")}, forLong)
	if err := r.Drain(t.Context(), r.shardOf("a"), 5); err != nil {
		t.Error(err)
	}
	r.serve(t, "a", 6, forLong)
	if raised, err := r.Raise(t.Context(), []actors.Raise{{Shard: r.shardOf("a"), Epoch: 9}}); err != nil || !raised[0].OK {
		t.Fatal(raised, err)
	}
	_, _ = r.counter("a").Add(t.Context(), 1)
	if fenced, withheld, drains := r.LeaseCounts(); fenced != 1 || withheld != 1 || drains != 1 {
		t.Errorf("%d fenced, %d withheld, %d drains", fenced, withheld, drains)
	}
}

// TestHeartbeatAfterTheLease: a watch that has nothing new does not say so
// without a lease.
func TestHeartbeatAfterTheLease(t *testing.T) {
	t.Parallel()
	r := newLeased(t, newFaultStore())
	r.serve(t, "a", 5, time.Second)
	o := r.observe(t, "a", time.Millisecond)
	for e := range o.events {
		if e.beat {
			break
		}
	}
	r.clock.set(time.Second)
	select { // one may have been on its way
	case <-o.events:
	case err := <-o.end:
		o.end <- err
	}
	for {
		select {
		case <-o.events:
			t.Fatal("a heartbeat after the lease")
		case err := <-o.end:
			if !errors.Is(err, failure.NotOwner) {
				t.Error(err)
			}
			return
		}
	}
}

// TestTimersOutlastALapse: what falls due while the shard lacks trust is looked
// for again when the trust is back, in the same tenure.
func TestTimersOutlastALapse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const lease, span = 600 * time.Millisecond, 2 * time.Second
		r := newLeased(t, newFaultStore())
		r.serve(t, "k", 7, span)
		r.hold(t, "k", "holder", lease)
		wait := r.beginWait(t.Context(), "k", "waiter")
		r.awaitParked("k", 1)
		r.clock.set(span)
		if _, err := r.lock("k").Get(t.Context()); !errors.Is(err, failure.NotOwner) {
			t.Errorf("a read without trust: %v", err)
		}
		time.Sleep(2 * lease) //nolint:forbidigo // in a bubble
		r.Extend([]uint32{r.shardOf("k")}, time.Hour)
		began := time.Now()
		if g := <-wait; g.err != nil || !g.Held || time.Since(began) > time.Second {
			t.Errorf("the waiter: %+v after %v", g, time.Since(began))
		}
	})
}
