package client_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestCancelIsOfItsOwnOperation: the id of an operation that was given up and
// answered is another's before the cancel is sent.
func TestCancelIsOfItsOwnOperation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		acquire := func(ctx context.Context, owner string) <-chan error {
			got := make(chan error, 1)
			go func() {
				_, err := c.Lock("k").Grant(ctx, handles.LockOptions{Owner: owner, Wait: time.Minute})
				got <- err
			}()
			return got
		}
		ctx, cancel := context.WithCancel(t.Context())
		a := acquire(ctx, "a")
		first := s.operation(sessionOne)
		synctest.Wait()
		hold := make(chan struct{})
		s.hold = hold // the writer is held up
		plain := add(c, t.Context())
		synctest.Wait()
		cancel()
		if err := <-a; err == nil {
			t.Error("the first was not given up")
		}
		reply, err := proto.Marshal(&quernv1.LockServiceAcquireResponse{})
		if err != nil {
			t.Fatal(err)
		}
		s.say(&quernv1.GrainServiceStreamResponse{Replies: []*quernv1.StreamReply{{Id: first.GetId(), Reply: reply}}})
		synctest.Wait()
		b := acquire(t.Context(), "b")
		synctest.Wait()
		close(hold)
		synctest.Wait()
		for range len(s.in) {
			if m := <-s.in; len(m.GetCancels()) > 0 {
				t.Errorf("the frame %v gives up what it begins", m)
			}
		}
		_ = c.Close()
		if err := <-b; err == nil {
			t.Error("a closed client has the lock")
		}
		<-plain
	})
}

// TestKeptRefusalOfARepeat is the answer to the operation, and no unknown outcome.
func TestKeptRefusalOfARepeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{})
		got := make(chan error, 1)
		go func() {
			_, err := c.Counter("k").Guarded(handles.Guard{Lock: "l", Token: 1}).Add(t.Context(), 1)
			got <- err
		}()
		s.operation(sessionOne)
		s.cancel()
		s = <-g.streams
		o := s.operation(sessionOne)
		s.refuse(o, &quernv1.StreamError{Reason: failure.FencedToken.String(), Code: failure.FencedToken.Code()})
		if err := <-got; !errors.Is(err, failure.FencedToken) || failure.OutcomeOf(err) != failure.NotDone {
			t.Errorf("got %v", err)
		}
		end(c, s)
	})
}
