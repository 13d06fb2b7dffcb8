package handles_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// lockNode is one lock behind a network that delays and loses, on a node that
// crashes. It stands in for the runtime: it keeps parked calls, and gives the
// lock its due turns.
type lockNode struct {
	mu     sync.Mutex
	faults bool
	r      *rand.Rand
	lock   actors.State
	token  uint64
	parked map[string][]chan struct{}
	woken  []string
	life   chan struct{} // closed by a crash
	timer  *time.Timer
}

func newLockNode(seed uint64, faults bool) *lockNode {
	n := &lockNode{
		faults: faults, r: rand.New(rand.NewPCG(seed, 3)), lock: grains.Lock{}.New(),
		parked: map[string][]chan struct{}{}, life: make(chan struct{}),
	}
	n.timer = time.AfterFunc(time.Hour, n.due)
	return n
}

func (n *lockNode) turn(resumed bool) *actors.Turn {
	return actors.TestTurn{
		Key: "k", Now: time.Now().UnixMilli(), Resumed: resumed,
		Next: func() uint64 { n.token++; return n.token },
		Wake: func(owner string) { n.woken = append(n.woken, owner) },
	}.Turn()
}

// after ends a turn: it wakes who is to be woken, and sets the timer.
func (n *lockNode) after() {
	for _, owner := range n.woken {
		for _, c := range n.parked[owner] {
			close(c)
		}
		delete(n.parked, owner)
	}
	n.woken = nil
	if due := n.lock.Due(); due != 0 {
		n.timer.Reset(time.Until(time.UnixMilli(due)))
	}
}

func (n *lockNode) due() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expire()
}

func (n *lockNode) expire() {
	if due := n.lock.Due(); due != 0 && due <= time.Now().UnixMilli() {
		_, _ = n.lock.Apply(n.turn(false), nil, nil)
	}
	n.after()
}

// crash leaves the record alone.
func (n *lockNode) crash() {
	n.mu.Lock()
	defer n.mu.Unlock()
	record, err := n.lock.Append(nil)
	if err != nil {
		panic(err) //nolint:forbidigo // fails the test
	}
	n.lock = grains.Lock{}.New()
	if err := n.lock.Decode(record); err != nil {
		panic(err) //nolint:forbidigo // fails the test
	}
	close(n.life)
	n.life, n.parked, n.woken = make(chan struct{}), map[string][]chan struct{}{}, nil
	n.expire()
}

// calm ends the faults.
func (n *lockNode) calm() *lockNode {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = false
	return n
}

func (n *lockNode) chance(of int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.faults && n.r.IntN(of) == 0
}

// network takes its time, or loses what it carries.
func (n *lockNode) network(ctx context.Context) error {
	n.mu.Lock()
	d := time.Duration(0)
	if n.faults {
		d = time.Duration(n.r.IntN(150)) * time.Millisecond
	}
	n.mu.Unlock()
	if n.chance(12) { // the connection breaks, which is noticed late
		noticed := time.NewTimer(20 * d)
		defer noticed.Stop()
		select {
		case <-noticed.C:
			return failure.New(failure.OutcomeUnknown, "the connection broke")
		case <-ctx.Done():
		}
	}
	time.Sleep(d) //nolint:forbidigo // in a bubble
	if ctx.Err() != nil {
		return failure.Wrap(ctx.Err(), failure.Canceled, "gave up")
	}
	return nil
}

func (n *lockNode) Invoke(ctx context.Context, op *handles.Operation) error {
	if n.chance(20) {
		return failure.New(failure.NotOwner, "moved")
	}
	if err := n.network(ctx); err != nil {
		return err
	}
	err := n.run(ctx, op)
	if lost := n.network(ctx); lost != nil {
		return lost
	}
	return err
}

// run is the operation on the node.
func (n *lockNode) run(ctx context.Context, op *handles.Operation) error {
	for resumed := false; ; resumed = true {
		n.mu.Lock()
		n.expire()
		_, err := n.lock.Apply(n.turn(resumed), op.Request, op.Reply)
		n.after()
		var parked *actors.Parked
		if !errors.As(err, &parked) {
			n.mu.Unlock()
			return err //nolint:wrapcheck // the kind's
		}
		wake, life := make(chan struct{}), n.life
		n.parked[parked.Waiter] = append(n.parked[parked.Waiter], wake)
		n.mu.Unlock()
		select {
		case <-wake:
		case <-life:
			return failure.New(failure.OutcomeUnknown, "the node crashed")
		case <-ctx.Done():
			n.cancel(op, parked.Waiter)
			return failure.Wrap(ctx.Err(), failure.Canceled, "gave up")
		}
	}
}

func (n *lockNode) cancel(op *handles.Operation, owner string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.parked, owner)
	canceler, _ := n.lock.(actors.Canceler)
	canceler.Cancel(n.turn(false), op.Request)
	n.after()
}

// section is what the lock protects. It notices who is in it.
type section struct {
	mu                sync.Mutex
	readers, writers  int
	permits           int
	entered, overlaps int
	highest           uint64
	stale             int
}

func (c *section) enter(shared bool, token uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entered++
	if shared {
		c.readers++
	} else {
		c.writers++
	}
	if c.writers > c.permits || c.writers > 0 && c.readers > 0 {
		c.overlaps++
	}
	if c.permits == 1 && !shared && token <= c.highest {
		c.stale++
	}
	c.highest = max(c.highest, token)
}

func (c *section) leave(shared bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if shared {
		c.readers--
	} else {
		c.writers--
	}
}

// TestLockExcludes lets many hold a lock in turn, through a network that loses
// and a node that crashes. A holder leaves when Lost fires: nobody may be in
// the section by then but those who hold it.
func TestLockExcludes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name           string
		faults, shared bool
		permits        uint32
	}{
		{name: "a good day", permits: 1},
		{name: "exclusive", permits: 1, faults: true},
		{name: "shared and exclusive", permits: 1, shared: true, faults: true},
		{name: "three permits", permits: 3, faults: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			synctest.Test(t, func(t *testing.T) {
				n := newLockNode(seed, tt.faults)
				defer n.timer.Stop()
				c := &section{permits: int(tt.permits)}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				var all sync.WaitGroup
				for i := range 12 {
					r := rand.New(rand.NewPCG(seed, uint64(i)))
					all.Go(func() {
						for ctx.Err() == nil {
							o := handles.LockOptions{TTL: 2 * time.Second, Wait: time.Minute, Shared: tt.shared && r.IntN(2) == 0, Permits: tt.permits}
							visit(ctx, t, n, c, o, time.Duration(r.IntN(4000))*time.Millisecond)
						}
					})
				}
				for tt.faults && ctx.Err() == nil {
					time.Sleep(7 * time.Second) //nolint:forbidigo // in a bubble
					n.crash()
				}
				all.Wait()
				t.Logf("entered %d times", c.entered)
				if c.overlaps > 0 || c.stale > 0 || c.entered < 100 {
					t.Errorf("%d overlaps, %d old tokens", c.overlaps, c.stale)
				}
				time.Sleep(time.Minute) //nolint:forbidigo // in a bubble: all that was left behind has ended
				if info, err := handles.NewLock(n.calm(), "k").Get(t.Context()); err != nil || info.Holds+info.Waiters > 0 {
					t.Errorf("left behind: %v, %v", info, err)
				}
			})
		})
	}
}

// visit holds the lock for a while, or until it is lost.
func visit(ctx context.Context, t *testing.T, to handles.Invoker, c *section, o handles.LockOptions, stay time.Duration) {
	t.Helper()
	l, err := handles.NewLock(to, "k").Acquire(ctx, o)
	if err != nil {
		e, ok := errors.AsType[*failure.Error](err)
		if ctx.Err() == nil && (!ok || e.Reason != failure.ConditionFailed && !e.Retryable() && e.Outcome() != failure.Unknown) {
			t.Errorf("acquire: %v", err)
		}
		return
	}
	c.enter(o.Shared, l.Token())
	done := time.NewTimer(stay)
	select {
	case <-done.C:
	case <-l.Lost():
	}
	done.Stop()
	c.leave(o.Shared)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := l.Release(ctx); err != nil && failure.OutcomeOf(err) != failure.Unknown && !errors.Is(err, failure.NotHolder) && !errors.Is(err, failure.NotOwner) {
		t.Errorf("release: %v", err)
	}
}

func TestLockByToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newLockNode(1, false)
		defer n.timer.Stop()
		ctx, lock := t.Context(), handles.NewLock(n, "k")
		g, err := lock.Grant(ctx, handles.LockOptions{Owner: "a", Wait: -1})
		if err != nil || !g.Held || g.Token != 1 || g.TTL != handles.DefaultLockTTL {
			t.Fatalf("%+v, %v", g, err)
		}
		if g, err := lock.Grant(ctx, handles.LockOptions{Owner: "b", Wait: -1}); err != nil || g.Held {
			t.Errorf("%+v, %v", g, err)
		}
		if err := lock.Renew(ctx, 1, time.Minute); err != nil {
			t.Error(err)
		}
		info, err := lock.Get(ctx)
		if want := (handles.LockHolder{Owner: "a", Token: 1, TTL: time.Minute}); err != nil || info.Holds != 1 || info.Permits != 1 || info.Holders[0] != want {
			t.Errorf("%+v, %v", info, err)
		}
		if count, err := lock.ForceRelease(ctx, "test"); err != nil || count != 1 {
			t.Errorf("%d, %v", count, err)
		}
		if err := lock.Release(ctx, 1); !errors.Is(err, failure.NotHolder) {
			t.Error(err)
		}
		if err := lock.ReleaseOwner(ctx, "a"); !errors.Is(err, failure.NotHolder) {
			t.Error(err)
		}
		if l, err := lock.Try(ctx, handles.LockOptions{}); err != nil || l.Token() != 2 || l.Release(ctx) != nil {
			t.Errorf("%v, %v", l, err)
		}
	})
}

// ExampleLock shows a lock's use: the token goes along with whatever is
// written, and work stops when the lease is lost.
func ExampleLock() {
	ctx, to := context.Background(), newLockNode(1, false) // a node or a client
	lease, err := handles.NewLock(to, "nightly").Acquire(ctx, handles.LockOptions{TTL: 30 * time.Second, Wait: time.Minute})
	if err != nil {
		fmt.Println(err)
		return
	}
	select {
	case <-lease.Lost():
		fmt.Println("stop:", lease.Err())
	default:
		fmt.Println("at work under token", lease.Token())
	}
	fmt.Println(lease.Release(ctx))
	// Output:
	// at work under token 1
	// <nil>
}

func TestLockHandleRefusals(t *testing.T) {
	t.Parallel()
	n := &stateNode{state: grains.Lock{}.New()}
	l := handles.NewLock(n, "k")
	ctx := t.Context()
	refused := failure.InvalidField
	if _, err := l.Acquire(ctx, handles.LockOptions{TTL: 48 * time.Hour}); !errors.Is(err, refused) {
		t.Error(err)
	}
	if _, err := l.Acquire(ctx, handles.LockOptions{TTL: -1}); !errors.Is(err, refused) {
		t.Error(err)
	}
	if _, err := l.ForceRelease(ctx, ""); !errors.Is(err, refused) {
		t.Error(err)
	}
	if err := l.Renew(ctx, 1, 0); !errors.Is(err, refused) {
		t.Error(err)
	}
	a := &quernv1.LockServiceGetResponse{}
	if err := n.Invoke(ctx, &handles.Operation{Method: handles.LockGet, Key: "k", Request: &quernv1.LockServiceGetRequest{}, Reply: a}); err != nil || a.GetHeld() {
		t.Error(a, err)
	}
}
