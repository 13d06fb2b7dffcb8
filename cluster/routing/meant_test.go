package routing_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestOthersAtTheOwnersAddress: who answers under the address of an owner, and is
// another node, is sent nothing.
func TestOthersAtTheOwnersAddress(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		hello *quernv1.StreamHello
		sent  bool
	}{
		"the owner":               {&quernv1.StreamHello{Node: "b", Shards: shards, ClusterId: inCluster[:]}, true},
		"a lone node":             {&quernv1.StreamHello{Node: "b", Shards: shards}, false},
		"one of another cluster":  {&quernv1.StreamHello{Node: "b", Shards: shards, ClusterId: make([]byte, 16)}, false},
		"another one":             {&quernv1.StreamHello{Node: "c", Shards: shards, ClusterId: inCluster[:]}, false},
		"one with another number": {&quernv1.StreamHello{Node: "b", Shards: shards + 1, ClusterId: inCluster[:]}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				test.hello.Window, test.hello.MaxFrameBytes = 100, 1<<20
				sent := make(chan []byte, 64)
				n := alone(t, func(context.Context, string) (frame.Stream, error) {
					s := greeting(test.hello)
					s.sent = sent
					return s, nil
				})
				n.Learn(1, routing.Owner{Node: "b", Addr: "b:1", Epoch: 1}, false)
				ended := make(ending, 1)
				n.Submit(addOf(keyOf(1, 0)), time.Time{}, ended)
				want := failure.Moving // nobody had it
				if test.sent {
					want = failure.OutcomeUnknown
				}
				if err := <-ended; !errors.Is(err, want) || len(sent) > 0 != test.sent {
					t.Errorf("%v, %d frames were sent", err, len(sent))
				}
				n.end(t)
			})
		})
	}
}

// TestAddressOfAnother: who has the address of a node that is gone is reached once it
// owns something itself.
func TestAddressOfAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sent := make(chan []byte, 64)
		n := alone(t, func(context.Context, string) (frame.Stream, error) {
			s := newSilentStream()
			s.sent = sent
			return s, nil
		})
		n.Learn(1, routing.Owner{Node: "gone", Addr: "b:1", Epoch: 1}, false)
		n.Submit(addOf(keyOf(1, 0)), time.Time{}, nothing{})
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble
		if len(sent) > 0 {
			t.Error("it was taken for the one that is gone")
		}
		n.Heard(failure.Owner{Shard: 1, Node: "b", Addr: "b:1", Epoch: 2})
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble
		if len(sent) == 0 {
			t.Error("it was sent nothing")
		}
		n.end(t)
	})
}
