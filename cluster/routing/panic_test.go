package routing_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// unreadable is a request that panics when it is encoded.
type unreadable struct {
	*quernv1.CounterServiceAddRequest
}

func (unreadable) ProtoReflect() protoreflect.Message {
	panic("no message") //nolint:forbidigo // the point of it
}

// TestRequestThatPanics fails alone: the stream to the owner is there for others.
func TestRequestThatPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSilentStream()
		n := alone(t, func(context.Context, string) (frame.Stream, error) { return s, nil })
		n.Learn(1, routing.Owner{Node: "b", Addr: "b:1", Epoch: 1}, false)
		n.Submit(addOf(keyOf(1, 0)), time.Time{}, nothing{}) // connects
		synctest.Wait()
		sent := len(s.sent)
		ended := make(ending, 2)
		bad := addOf(keyOf(1, 0))
		bad.Request = unreadable{}
		func() {
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("panic: %v", p)
				}
			}()
			n.Submit(bad, time.Time{}, ended)
		}()
		if err := <-ended; !errors.Is(err, failure.InvalidField) {
			t.Errorf("got %v", err)
		}
		n.Submit(addOf(keyOf(1, 0)), time.Time{}, nothing{})
		synctest.Wait()
		if len(s.sent) <= sent {
			t.Error("another operation was not sent")
		}
		n.end(t)
	})
}
