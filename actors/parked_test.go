package actors_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func withLock(c *actors.Config) { c.Kinds = append(c.Kinds, grains.Lock{}) }

func (r *rig) lock(key string) handles.Lock { return handles.NewLock(r, key) }

// Parked returns how many calls wait for a wake-up in the key's shard.
func (r *rig) Parked(key string) int { return r.ParkedAt(r.shardOf(key)) }

func (r *rig) awaitParked(key string, n int) {
	for r.Parked(key) != n { //nolint:revive // each look is a turn of the shard itself
	}
}

func (r *rig) hold(t *testing.T, key, owner string, ttl time.Duration) uint64 {
	t.Helper()
	g, err := r.lock(key).Grant(t.Context(), handles.LockOptions{Owner: owner, TTL: ttl, Wait: -1})
	if err != nil || !g.Held {
		t.Fatalf("%s does not get the lock: %+v, %v", owner, g, err)
	}
	return g.Token
}

// grant is what a waiting Acquire got.
type grant struct {
	handles.LockGrant
	err error
}

// beginWait asks for a lock on a goroutine of its own.
func (r *rig) beginWait(ctx context.Context, key, owner string) <-chan grant {
	got := make(chan grant, 1)
	go func() {
		g, err := r.lock(key).Grant(ctx, handles.LockOptions{Owner: owner, TTL: time.Minute, Wait: time.Hour})
		got <- grant{g, err}
	}()
	return got
}

func (r *rig) queue(t *testing.T, key string) []string {
	t.Helper()
	info, err := r.lock(key).Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.Queue
}

func TestWaitersAreServedInOrder(t *testing.T) {
	t.Parallel()
	const n = 64
	r := newRig(t, newFaultStore(), withLock)
	last := r.hold(t, "l", "first", time.Minute)
	var waits []<-chan grant
	for i := range n {
		waits = append(waits, r.beginWait(t.Context(), "l", strconv.Itoa(i)))
		r.awaitParked("l", i+1)
	}
	for i, w := range waits {
		if err := r.lock("l").Release(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		g := <-w
		if g.err != nil || !g.Held || g.Token <= last {
			t.Fatalf("waiter %d: %+v after token %d", i, g, last)
		}
		last = g.Token
		if left := r.Parked("l"); left != n-1-i {
			t.Fatalf("%d wait after grant %d", left, i)
		}
	}
}

func TestWaiterThatGivesUpLeavesAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withLock)
	token := r.hold(t, "l", "holder", time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	gone := r.beginWait(ctx, "l", "gone")
	r.awaitParked("l", 1)
	behind := r.beginWait(t.Context(), "l", "behind")
	r.awaitParked("l", 2)
	cancel()
	if g := <-gone; !errors.Is(g.err, context.Canceled) {
		t.Errorf("%+v", g)
	}
	r.awaitParked("l", 1)
	if q := r.queue(t, "l"); len(q) != 1 || q[0] != "behind" {
		t.Errorf("queue %q", q)
	}
	if err := r.lock("l").Release(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if g := <-behind; g.err != nil || !g.Held {
		t.Errorf("%+v", g)
	}
}

// TestTwoWaitsOfOneOwner: only the last of them takes the place with it.
func TestTwoWaitsOfOneOwner(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withLock)
	token := r.hold(t, "l", "holder", time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	one := r.beginWait(ctx, "l", "same")
	r.awaitParked("l", 1)
	two := r.beginWait(t.Context(), "l", "same")
	r.awaitParked("l", 2)
	cancel()
	<-one
	r.awaitParked("l", 1)
	if q := r.queue(t, "l"); len(q) != 1 {
		t.Errorf("queue %q", q)
	}
	if err := r.lock("l").Release(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if g := <-two; g.err != nil || !g.Held {
		t.Errorf("%+v", g)
	}
}

// TestGrantIsSeenWhenItIsDurable: the release that wakes a waiter and the
// waiter's own answer are one commit, and neither leaves before it.
func TestGrantIsSeenWhenItIsDurable(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withLock)
	token := r.hold(t, "l", "holder", time.Minute)
	next := r.beginWait(t.Context(), "l", "next")
	r.awaitParked("l", 1)
	r.Barrier(r.shardOf("l"))
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	go func() { _ = r.lock("l").Release(context.Background(), token) }()
	r.awaitParked("l", 0)
	select {
	case g := <-next:
		t.Errorf("answered before the commit: %+v", g)
	case <-store.began:
	}
	store.set(func(f *faultStore) { f.hold = nil })
	close(hold)
	if g := <-next; g.err != nil || !g.Held {
		t.Errorf("%+v", g)
	}
}

// TestWaitersKeepTheirOrderOverAReload, also those whose place was not durable.
func TestWaitersKeepTheirOrderOverAReload(t *testing.T) {
	t.Parallel()
	const n = 20
	store := newFaultStore()
	r := newRig(t, store, withLock)
	token := r.hold(t, "l", "holder", time.Minute)
	var waits []<-chan grant
	for i := range n {
		if i == n/2 {
			store.set(func(f *faultStore) {
				f.verdict = func(actors.Batch) actors.Status { return actors.Unclear }
			})
		}
		waits = append(waits, r.beginWait(t.Context(), "l", strconv.Itoa(i)))
		if i < n/2 {
			r.awaitParked("l", i+1)
		}
		if i == n/2 {
			store.set(func(f *faultStore) { f.verdict = nil })
			r.awaitParked("l", i+1)
		}
		r.awaitParked("l", i+1)
	}
	r.Crash(r.shardOf("l"))
	r.awaitParked("l", n)
	for i, name := range r.queue(t, "l") {
		if name != strconv.Itoa(i) {
			t.Fatalf("place %d has %s", i, name)
		}
	}
	if err := r.lock("l").Release(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if g := <-waits[0]; g.err != nil || !g.Held || g.Token <= token {
		t.Errorf("%+v", g)
	}
}

func TestWaitersOfANodeThatStops(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(*rig) error{
		"stop":     func(r *rig) error { return r.Stop(context.Background()) },
		"end wait": func(r *rig) error { r.EndWaits(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, newFaultStore(), withLock)
			r.hold(t, "l", "holder", time.Minute)
			w := r.beginWait(t.Context(), "l", "w")
			r.awaitParked("l", 1)
			if err := stop(r); err != nil {
				t.Fatal(err)
			}
			if g := <-w; !errors.Is(g.err, failure.Stopping) {
				t.Errorf("%+v", g)
			}
			_, err := r.lock("l").Grant(t.Context(), handles.LockOptions{Owner: "x", Wait: time.Hour})
			if !errors.Is(err, failure.Stopping) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// TestRefusedPlaceIsTold: the store refuses the commit of a place in the queue.
func TestRefusedPlaceIsTold(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withLock)
	r.hold(t, "l", "holder", time.Minute)
	store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return actors.Refused } })
	if g := <-r.beginWait(t.Context(), "l", "w"); !errors.Is(g.err, failure.Overloaded) {
		t.Errorf("%+v", g)
	}
	store.set(func(f *faultStore) { f.verdict = nil })
	if q := r.queue(t, "l"); len(q) != 0 {
		t.Errorf("queue %q", q)
	}
}

func TestParkedCallsAreBounded(t *testing.T) {
	t.Parallel()
	const limit = 8
	r := newRig(t, newMemory(), withLock, func(c *actors.Config) { c.ParkLimit = limit })
	token := r.hold(t, "l", "holder", time.Minute)
	for i := range limit {
		r.beginWait(t.Context(), "l", strconv.Itoa(i))
		r.awaitParked("l", i+1)
	}
	var e *failure.Error
	if g := <-r.beginWait(t.Context(), "l", "more"); !errors.As(g.err, &e) || e.Reason != failure.Overloaded || e.RetryAfter <= 0 {
		t.Errorf("%+v", g)
	}
	if q := r.queue(t, "l"); len(q) != limit {
		t.Errorf("queue %q", q)
	}
	// One who is woken in vain, and parks again, has its place already.
	if err := r.lock("l").Release(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	r.awaitParked("l", limit-1)
}

// TestSubmittedWaits end by their tickets and by their deadlines.
func TestSubmittedWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withLock)
	r.hold(t, "l", "holder", time.Minute)
	submit := func(owner string, deadline time.Time) (end, *actors.Ticket) {
		done := make(end, 1)
		ticket := r.Submit(r.shardOf("l"), &actors.Operation{
			Kind: "lock", Key: "l", Method: "Acquire",
			Command: &quernv1.LockServiceAcquireRequest{
				Key: "l", Owner: owner, Ttl: durationpb.New(time.Minute), Wait: durationpb.New(time.Hour),
			},
			Reply: &quernv1.LockServiceAcquireResponse{},
		}, deadline, done)
		return done, ticket
	}
	late, _ := submit("late", time.Now().Add(200*time.Millisecond))
	given, ticket := submit("given", time.Now().Add(time.Hour))
	r.awaitParked("l", 2)
	ticket.Cancel(true)
	ticket.Cancel(true)
	if err := <-given; !errors.Is(err, failure.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if err := <-late; !errors.Is(err, failure.DeadlineExceeded) {
		t.Errorf("late: %v", err)
	}
	if q := r.queue(t, "l"); len(q) != 0 {
		t.Errorf("queue %q", q)
	}
	// Given up before its turn: it has none.
	p := make(chan struct{})
	r.Block(r.shardOf("l"), p)
	given, ticket = submit("early", time.Time{})
	ticket.Cancel(true)
	close(p)
	if err := <-given; !errors.Is(err, failure.Canceled) {
		t.Errorf("given up early: %v", err)
	}
	if q := r.queue(t, "l"); len(q) != 0 {
		t.Errorf("queue %q", q)
	}
	var none *actors.Ticket
	none.Cancel(true)
}

// TestLeaseThatEndsPassesTheLockOn without anybody's call.
func TestLeaseThatEndsPassesTheLockOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withLock)
	token := r.hold(t, "l", "holder", 300*time.Millisecond)
	began := time.Now()
	g := <-r.beginWait(t.Context(), "l", "next")
	if g.err != nil || !g.Held || g.Token <= token {
		t.Errorf("%+v", g)
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("had after %v", took)
	}
}

// TestManyLeasesThatEndTogether: 10,000 of one shard end in the same second and
// are all cleared away, while the shard serves others.
func TestManyLeasesThatEndTogether(t *testing.T) {
	t.Parallel()
	const n = 10_000
	r := newRig(t, newMemory(), withLock)
	var group sync.WaitGroup
	for w := range 8 {
		group.Go(func() {
			for i := w; i < n; i += 8 {
				key := fmt.Sprintf("{l}%d", i)
				g, err := r.lock(key).Grant(t.Context(), handles.LockOptions{Owner: "o", TTL: time.Second, Wait: -1})
				if err != nil || !g.Held {
					t.Errorf("%s: %+v, %v", key, g, err)
					return
				}
			}
		})
	}
	group.Wait()
	worst := time.Duration(0)
	for left := 1; left > 0; {
		began := time.Now()
		if _, err := r.counter("{l}c").Add(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(began))
		left = r.TimersAt(r.shardOf("{l}"))
		runtime.Gosched()
	}
	t.Logf("the longest add took %v", worst)
}

// TestHeldLocksAreNotEvicted, nor are more taken than the memory allows.
func TestHeldLocksAreNotEvicted(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withLock, func(c *actors.Config) { c.ResidentLimit, c.WaitLimit = 64, 16 })
	refused := 0
	for i := range 100 {
		g, err := r.lock(fmt.Sprintf("{l}%d", i)).Grant(t.Context(), handles.LockOptions{Owner: "o", Wait: -1})
		switch {
		case errors.Is(err, failure.Overloaded):
			refused++
		case err != nil || !g.Held:
			t.Fatalf("%+v, %v", g, err)
		}
	}
	if refused < 70 || refused == 100 {
		t.Errorf("%d of 100 were refused", refused)
	}
	info, err := r.lock("{l}0").Get(t.Context())
	if err != nil || info.Holds != 1 {
		t.Errorf("%+v, %v", info, err)
	}
}
