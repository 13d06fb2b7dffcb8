package routing_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

var errMoving = failure.New(failure.Moving, "it moves").After(time.Millisecond)

// TestGivenUpAfterAMove: a wait that this node has refused inside the call, while
// it gave the shard away, is given up where it waits by then.
func TestGivenUpAfterAMove(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	key := keyOf(0, 0)
	w.mu.Lock()
	w.lock(key).held = true
	w.mu.Unlock()
	a.local.moving.Store(true)
	ended := make(chan error, 1)
	cancel := a.SubmitWait(acquireOf(key), time.Time{}, completer(func(_ uint64, err error) { ended <- err }))
	w.give("b", 0)
	until(t, func() bool { return w.waiters(key) == 1 })
	cancel(true)
	if err := <-ended; !errors.Is(err, failure.Canceled) {
		t.Errorf("given up: %v", err)
	}
	until(t, func() bool { return w.waiters(key) == 0 })
}

// TestWaitMovesOften: each move may take as long as the first one, and no longer.
func TestWaitMovesOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := alone(t, nil)
		defer n.end(t)
		taken := make(chan hung, 1)
		n.local.hang.Store(&taken)
		n.own(1, 1)
		ended := make(chan error, 1)
		n.SubmitWait(acquireOf(keyOf(1, 0)), time.Time{}, completer(func(_ uint64, err error) { ended <- err }))
		for epoch := range uint64(3) {
			time.Sleep(routing.HoldTime + time.Second) //nolint:forbidigo // in a bubble
			n.own(1, epoch+2)
			select {
			case h := <-taken:
				h.done.Completed(epoch+1, errMoving)
			case err := <-ended:
				t.Fatalf("move %d: %v", epoch+1, err)
			}
			synctest.Wait()
		}
		time.Sleep(2 * time.Second) //nolint:forbidigo // in a bubble
		begin := time.Now()
		for over := false; !over; {
			select {
			case h := <-taken:
				h.done.Completed(4, errMoving)
			case err := <-ended:
				over = true
				if took := time.Since(begin); !errors.Is(err, failure.Moving) || took < routing.HoldTime || took > routing.HoldTime+time.Second {
					t.Errorf("%v after %v", err, took)
				}
			}
		}
	})
}

// numbered gives an operation a number in a session that every node knows.
func (n *node) numbered(op *handles.Operation, number uint64) *handles.Operation {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	if n.world.sessions["s"] == nil {
		n.world.sessions["s"] = make(map[uint64]proto.Message)
	}
	op.Session = handles.Session{ID: "s", Number: number, Waits: op.MayWait()}
	return op
}

// TestWaitOutlivesItsOwners: a numbered wait is sent again however many owners are
// lost; what does not wait is not.
func TestWaitOutlivesItsOwners(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := alone(t, func(context.Context, string) (frame.Stream, error) { return newSilentStream(), nil })
		n.Learn(1, routing.Owner{Node: "b", Addr: "b:1", Epoch: 1}, false)
		waits, adds := make(chan error, 1), make(chan error, 1)
		n.SubmitWait(n.numbered(acquireOf(keyOf(1, 0)), 1), time.Time{}, completer(func(_ uint64, err error) { waits <- err }))
		n.Submit(n.numbered(addOf(keyOf(1, 0)), 1), time.Time{}, completer(func(_ uint64, err error) { adds <- err }))
		time.Sleep(5 * (routing.Silence + time.Second)) //nolint:forbidigo // in a bubble
		select {
		case err := <-waits:
			t.Errorf("the wait ended with %v", err)
		default:
			n.own(1, 9)
			time.Sleep(2 * routing.Silence) //nolint:forbidigo // in a bubble
			if err := <-waits; err != nil {
				t.Error(err)
			}
		}
		if err := <-adds; !errors.Is(err, failure.OutcomeUnknown) {
			t.Errorf("what does not wait: %v", err)
		}
		n.end(t)
	})
}

// greeting is a silent stream with another hello.
func greeting(h *quernv1.StreamHello) *silentStream {
	s := newSilentStream()
	<-s.hello
	b, _ := frame.AppendHello(nil, h)
	s.hello <- b
	return s
}

// TestRepeatThatCannotBeSent: the next owner takes smaller frames than the one
// that perhaps did it.
func TestRepeatThatCannotBeSent(t *testing.T) {
	t.Parallel()
	for name, window := range map[string]uint32{"at once": 100, "behind a full window": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				next := greeting(&quernv1.StreamHello{Node: "b", Shards: shards, Window: window, MaxFrameBytes: 1024, ClusterId: inCluster[:]})
				first := newSilentStream()
				streams := []*silentStream{first, next}
				n := alone(t, func(context.Context, string) (frame.Stream, error) {
					if len(streams) == 0 {
						return nil, errors.New("cut")
					}
					s := streams[0]
					streams = streams[1:]
					return s, nil
				})
				n.Learn(1, routing.Owner{Node: "b", Addr: "b:1", Epoch: 1}, false)
				small, large := make(ending, 1), make(ending, 1)
				n.Submit(n.numbered(addOf(keyOf(1, 0)), 1), time.Time{}, small)
				op := n.numbered(addOf(strings.Repeat("k", 2000)), 2)
				op.Placed, op.Origin.Shard = true, 1
				n.Submit(op, time.Time{}, large)
				synctest.Wait()
				first.Close()
				time.Sleep(time.Second / 2) //nolint:forbidigo // in a bubble
				b, err := proto.Marshal(&quernv1.GrainServiceStreamResponse{Replies: []*quernv1.StreamReply{{Id: 1}}})
				if err != nil {
					t.Error(err)
				}
				next.hello <- b
				if err := <-small; err != nil {
					t.Errorf("what fits: %v", err)
				}
				if err := <-large; !errors.Is(err, failure.OutcomeUnknown) {
					t.Errorf("what does not: %v", err)
				}
				n.end(t)
			})
		})
	}
}

// ending gets how an operation ends.
type ending chan error

func (e ending) Completed(_ uint64, err error) { e <- err }

// TestBulkOfAMovingShard: an unnumbered bulk add is held as an addition is, as a
// whole and in parts, however it came.
func TestBulkOfAMovingShard(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]client.Options{"stream": {Patience: -1}, "unary": {Unary: true}, "itself": {}} {
		for parts, keys := range map[string][]string{"whole": {keyOf(0, 1), keyOf(0, 2)}, "in parts": {keyOf(0, 1), keyOf(1, 1), keyOf(0, 2)}} {
			t.Run(name+", "+parts, func(t *testing.T) {
				t.Parallel()
				w, a, _, _ := three(t)
				ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
				defer cancel()
				invoke := a.Invoke
				if name != "itself" {
					invoke = a.dial(t, o).Invoke
				}
				a.local.moving.Store(true)
				out := &quernv1.CounterServiceAddManyResponse{}
				ended := make(ending, 1)
				go func() {
					ended <- invoke(ctx, &handles.Operation{
						Method: handles.CounterAddMany, Request: &quernv1.CounterServiceAddManyRequest{Keys: keys}, Reply: out,
					})
				}()
				until(t, func() bool { return a.local.calls.Load() > 0 })
				w.give("c", 0)
				if err := <-ended; err != nil || len(out.GetFailures()) > 0 || len(out.GetValues()) != len(keys) {
					t.Errorf("%v, %v", out, err)
				}
				for _, key := range keys {
					if got := w.value(key); got != 1 {
						t.Errorf("%s is %d", key, got)
					}
				}
			})
		}
	}
}

// TestInvokeAllDuringAMove: what is invoked together is held, too.
func TestInvokeAllDuringAMove(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	a.local.moving.Store(true)
	ops := []*handles.Operation{addOf(keyOf(0, 0)), addOf(keyOf(1, 0))}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.InvokeAll(t.Context(), ops)
	}()
	until(t, func() bool { return a.local.calls.Load() > 0 })
	w.give("c", 0)
	<-ended
	for _, op := range ops {
		if op.Err != nil || w.value(op.Key) != 1 {
			t.Errorf("%s is %d, %v", op.Key, w.value(op.Key), op.Err)
		}
	}
}
