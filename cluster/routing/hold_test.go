package routing_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func acquireOf(key string) *handles.Operation {
	q := &quernv1.LockServiceAcquireRequest{Key: key, Owner: "o", Wait: durationpb.New(time.Minute)}
	return &handles.Operation{Method: handles.LockAcquire, Key: key, Request: q, Reply: &quernv1.LockServiceAcquireResponse{}}
}

// alone is a node of a world of its own, without a server.
func alone(t *testing.T, dial func(context.Context, string) (frame.Stream, error)) *node {
	t.Helper()
	w := newWorld()
	n := &node{world: w, name: "a"}
	n.local = &local{node: n}
	r, err := routing.New(routing.Config{Local: n.local, ClusterID: inCluster, View: n.view, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	n.Router = r
	w.nodes["a"] = n
	r.Start()
	return n
}

func (n *node) end(t *testing.T) {
	t.Helper()
	if err := n.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// own makes the node the owner of a shard, without an address.
func (n *node) own(shard uint32, epoch uint64) { n.local.epochs[shard].Store(epoch) }

// TestHeld: what has no owner waits for one, no longer than it may.
func TestHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := alone(t, nil)
		begin := time.Now()
		err := n.Invoke(t.Context(), addOf(keyOf(1, 0)))
		if took := time.Since(begin); !errors.Is(err, failure.Moving) || took < routing.HoldTime || took > routing.HoldTime+time.Second {
			t.Errorf("%v after %v", err, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		begin = time.Now()
		ended := make(chan error, 1)
		deadline, _ := ctx.Deadline()
		n.Submit(addOf(keyOf(1, 0)), deadline, completer(func(_ uint64, err error) { ended <- err }))
		if err := <-ended; !errors.Is(err, failure.Moving) || time.Since(begin) > 1100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		cancel()
		time.AfterFunc(2*time.Second, func() { n.own(1, 7) })
		op := addOf(keyOf(1, 0))
		if err := n.Invoke(t.Context(), op); err != nil || op.Origin.Epoch != 7 {
			t.Errorf("%v by %v", err, op.Origin)
		}
		n.end(t)
	})
}

// TestHoldIsBounded and what is in it is answered when the router ends.
func TestHoldIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := alone(t, nil)
		var (
			mu      sync.Mutex
			answers = make(map[failure.Reason]int)
		)
		for range routing.HoldTasks + 10 {
			n.Submit(addOf(keyOf(1, 0)), time.Time{}, completer(func(_ uint64, err error) {
				e, _ := errors.AsType[*failure.Error](err)
				mu.Lock()
				defer mu.Unlock()
				answers[e.Reason]++
			}))
		}
		mu.Lock()
		if n.Held() != routing.HoldTasks || answers[failure.Moving] != 10 {
			t.Errorf("%d are held, answered were %v", n.Held(), answers)
		}
		mu.Unlock()
		n.end(t)
		if answers[failure.Stopping] != routing.HoldTasks {
			t.Errorf("answered were %v", answers)
		}
	})
}

// TestGivenUpWhileHeld: by cancel, and by the end of its context.
func TestGivenUpWhileHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := alone(t, nil)
		ended := make(chan error, 1)
		cancel := n.SubmitWait(acquireOf(keyOf(1, 0)), time.Time{}, completer(func(_ uint64, err error) { ended <- err }))
		synctest.Wait()
		cancel(true)
		cancel(false)
		if err := <-ended; !errors.Is(err, failure.Canceled) || n.Held() != 0 {
			t.Errorf("%v, %d are held", err, n.Held())
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if err := n.Invoke(ctx, addOf(keyOf(1, 0))); !errors.Is(err, failure.DeadlineExceeded) && !errors.Is(err, failure.Moving) {
			t.Error(err)
		}
		synctest.Wait()
		if n.Held() != 0 {
			t.Errorf("%d are held", n.Held())
		}
		n.own(1, 3)
		if n.local.calls.Load() != 0 {
			t.Error("what was given up was run")
		}
		n.end(t)
	})
}

// silentStream says hello and nothing else.
type silentStream struct {
	ctx    context.Context //nolint:containedctx // as frame.Stream has it
	cancel context.CancelFunc
	hello  chan []byte
	sent   chan []byte
	stuck  bool // Send does not return
}

func newSilentStream() *silentStream {
	s := &silentStream{hello: make(chan []byte, 1), sent: make(chan []byte, 64)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	b, _ := frame.AppendHello(nil, &quernv1.StreamHello{Node: "b", Shards: shards, Window: 100, MaxFrameBytes: 1 << 20, ClusterId: inCluster[:]})
	s.hello <- b
	return s
}

func (s *silentStream) Context() context.Context { return s.ctx }
func (s *silentStream) Close()                   { s.cancel() }

func (s *silentStream) Send(b []byte) error {
	sent := s.sent
	if s.stuck {
		sent = nil
	}
	select {
	case sent <- append([]byte(nil), b...):
		return nil
	case <-s.ctx.Done():
		return io.ErrClosedPipe
	}
}

func (s *silentStream) Recv() ([]byte, error) {
	select {
	case b := <-s.hello:
		return b, nil
	case <-s.ctx.Done():
		return nil, io.EOF
	}
}

// TestSilentOwnerIsGivenUp: a write that was handed to it is of unknown outcome; one
// behind a full window is not done.
func TestSilentOwnerIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var once sync.Once
		n := alone(t, func(context.Context, string) (frame.Stream, error) {
			var s *silentStream
			once.Do(func() { s = newSilentStream() })
			if s == nil {
				return nil, errors.New("cut")
			}
			return s, nil
		})
		n.world.mu.Lock()
		n.world.owners[1] = routing.Owner{Node: "b", Addr: "b:1", Epoch: 1}
		close(n.world.changed)
		n.world.changed = make(chan struct{})
		n.world.mu.Unlock()
		synctest.Wait()
		var (
			mu      sync.Mutex
			answers = make(map[failure.Reason]int)
			last    time.Duration
		)
		begin := time.Now()
		for range 110 {
			n.Submit(addOf(keyOf(1, 0)), time.Time{}, completer(func(_ uint64, err error) {
				e, _ := errors.AsType[*failure.Error](err)
				mu.Lock()
				defer mu.Unlock()
				if answers[e.Reason]++; e.Reason == failure.OutcomeUnknown {
					last = time.Since(begin)
				}
			}))
		}
		time.Sleep(routing.Silence + routing.HoldTime + 2*time.Second) //nolint:forbidigo // in a bubble
		mu.Lock()
		if answers[failure.OutcomeUnknown] != 100 || answers[failure.Moving] != 10 {
			t.Errorf("answered were %v", answers)
		}
		if last < routing.Silence || last > routing.Silence+time.Second {
			t.Errorf("after %v", last)
		}
		mu.Unlock()
		n.end(t)
	})
}

// TestWhatWasNotWrittenIsNotDone: operations behind a frame that is being sent when
// the stream breaks.
func TestWhatWasNotWrittenIsNotDone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSilentStream()
		s.stuck = true
		first := true
		n := alone(t, func(context.Context, string) (frame.Stream, error) {
			if !first {
				return nil, errors.New("cut")
			}
			first = false
			return s, nil
		})
		n.Learn(1, routing.Owner{Node: "b", Addr: "b:1", Epoch: 1}, false)
		ended := make(chan error, 3)
		submit := func() {
			n.Submit(addOf(keyOf(1, 0)), time.Time{}, completer(func(_ uint64, err error) { ended <- err }))
			synctest.Wait()
		}
		submit()                          // goes out behind the hello, and is stuck
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // in a bubble
		submit()
		submit()
		s.Close()
		for i, want := range []failure.Reason{failure.OutcomeUnknown, failure.Moving, failure.Moving} {
			if err := <-ended; !errors.Is(err, want) {
				t.Errorf("%d: %v, want %v", i, err, want)
			}
		}
		n.end(t)
	})
}

// TestWindowIsKept: an owner is never sent more than its window, whoever asks.
func TestWindowIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSilentStream()
		n := alone(t, func(context.Context, string) (frame.Stream, error) { return s, nil })
		n.Learn(1, routing.Owner{Node: "b", Addr: "b:1", Epoch: 1}, false)
		n.Submit(addOf(keyOf(1, 0)), time.Time{}, nothing{}) // connects
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { _ = n.Invoke(ctx, addOf(keyOf(1, 0))) })
			n.Submit(addOf(keyOf(1, 0)), time.Time{}, nothing{})
		}
		for range 5 {
			all.Go(func() { _ = n.Invoke(ctx, acquireOf(keyOf(1, 0))) })
		}
		time.Sleep(time.Second / 2) //nolint:forbidigo // in a bubble
		adds, waits := 0, 0
		for len(s.sent) > 0 {
			var q quernv1.GrainServiceStreamRequest
			if err := proto.Unmarshal(<-s.sent, &q); err != nil {
				t.Fatal(err)
			}
			for _, o := range q.GetOperations() {
				if o.GetMethod() == 1 {
					adds++
				} else {
					waits++
				}
			}
		}
		if adds != 100 || waits != 5 {
			t.Errorf("%d and %d operations were sent", adds, waits)
		}
		all.Wait()
		n.end(t)
	})
}

// TestTable: an entry is never replaced by one of a lower epoch.
func TestTable(t *testing.T) {
	t.Parallel()
	n := alone(t, nil)
	defer n.end(t)
	owner := func(name string, epoch uint64) routing.Owner {
		return routing.Owner{Node: name, Addr: name + ":1", Epoch: epoch}
	}
	for i, step := range []struct {
		learn  routing.Owner // without a name: the view says that there is none
		viewed bool
		want   routing.Owner
	}{
		{owner("b", 5), true, owner("b", 5)},
		{owner("c", 4), true, owner("b", 5)},
		{owner("c", 5), true, owner("b", 5)}, // an epoch has one owner
		{owner("c", 6), false, owner("c", 6)},
		{owner("b", 5), true, owner("c", 6)},
		{routing.Owner{}, true, owner("c", 6)}, // the view does not know of it yet
		{owner("c", 6), true, owner("c", 6)},
		{routing.Owner{}, true, routing.Owner{Epoch: 6}},
		{owner("b", 5), false, routing.Owner{Epoch: 6}},
		{owner("c", 6), false, owner("c", 6)},
	} {
		if step.learn.Node == "" {
			n.Vacate(3)
		} else {
			n.Learn(3, step.learn, step.viewed)
		}
		if got := n.At(3); got != step.want {
			t.Fatalf("step %d: %v, want %v", i, got, step.want)
		}
	}
	var highest uint64
	for range 10_000 {
		n.Learn(4, owner(string(rune('b'+rand.N(3))), rand.N[uint64](1000)), rand.N(2) == 0)
		if got := n.At(4).Epoch; got < highest {
			t.Fatalf("%d after %d", got, highest)
		} else {
			highest = got
		}
	}
}
