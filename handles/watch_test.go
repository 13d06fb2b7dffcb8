package handles_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func counterEvent(epoch, sequence uint64, value int64) *handles.Event {
	return handles.NewEvent(&quernv1.CounterServiceWatchResponse{
		Epoch: epoch, Sequence: sequence, Event: &quernv1.CounterEvent{Value: value, Found: true},
	})
}

// TestRewatch holds what is told, how it ends and how long it rests against what
// the watches beneath do.
func TestRewatch(t *testing.T) {
	t.Parallel()
	stop := errors.New("enough")
	ends := func(r failure.Reason) error { return failure.New(r, "ended") }
	type once struct {
		events []*handles.Event
		err    error
	}
	for name, c := range map[string]struct {
		watches []once
		told    []int64
		want    error
	}{
		"a reader that leaves": {
			watches: []once{{[]*handles.Event{counterEvent(1, 1, -1)}, nil}}, told: []int64{-1}, want: stop,
		},
		"lower and equal events of later watches": {
			watches: []once{
				{[]*handles.Event{counterEvent(2, 5, 25), counterEvent(2, 5, 0).Heartbeat()}, ends(failure.NotOwner)},
				{[]*handles.Event{counterEvent(1, 9, 19), counterEvent(2, 4, 24), counterEvent(2, 5, 25)}, ends(failure.Unreachable)},
				{[]*handles.Event{counterEvent(2, 6, 26), counterEvent(3, 1, -1)}, nil},
			},
			told: []int64{25, 26, -1}, want: stop,
		},
		"what ends for a while once it has begun": {
			watches: []once{
				{nil, ends(failure.NotOwner)},
				{nil, ends(failure.Moving)},
				{[]*handles.Event{counterEvent(1, 1, 11)}, ends(failure.Overloaded)},
				{nil, ends(failure.OutcomeUnknown)},
				{nil, ends(failure.StoreUnavailable)},
				{[]*handles.Event{counterEvent(2, 1, -1)}, nil},
			},
			told: []int64{11, -1}, want: stop,
		},
		"a refusal of the first":      {watches: []once{{nil, ends(failure.Overloaded)}}, want: failure.Overloaded},
		"a store that cannot be read": {watches: []once{{nil, ends(failure.StoreUnavailable)}}, want: failure.StoreUnavailable},
		"a refusal for good": {
			watches: []once{{[]*handles.Event{counterEvent(1, 1, 11)}, ends(failure.UnknownKind)}}, told: []int64{11}, want: failure.UnknownKind,
		},
		"what is final here": {watches: []once{{nil, ends(failure.Stopping)}}, want: failure.Stopping},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var told []int64
				w := &handles.Watch{Method: handles.CounterWatch, Each: func(e *handles.Event) error {
					m := e.Message().(*quernv1.CounterServiceWatchResponse) //nolint:errcheck,forcetypeassert // they are made so
					told = append(told, m.GetEvent().GetValue())
					if m.GetEvent().GetValue() < 0 {
						return stop
					}
					return nil
				}}
				n := 0
				err := handles.Rewatch(t.Context(), w, func(_ context.Context, w *handles.Watch) error {
					now := c.watches[n]
					n++
					for _, e := range now.events {
						if err := w.Each(e); err != nil {
							return err
						}
					}
					return now.err
				}, func(err error) bool { return errors.Is(err, failure.Stopping) })
				if !errors.Is(err, c.want) || n != len(c.watches) {
					t.Errorf("%d watches, %v", n, err)
				}
				if len(told) != len(c.told) {
					t.Fatalf("told %v, want %v", told, c.told)
				}
				for i := range told {
					if told[i] != c.told[i] {
						t.Errorf("told %v, want %v", told, c.told)
					}
				}
			})
		})
	}
}

// TestRewatchRests longer and longer, but no longer than it must, and ends with
// its context.
func TestRewatchRests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n := 0
		err := handles.Rewatch(ctx, &handles.Watch{Method: handles.CounterWatch}, func(context.Context, *handles.Watch) error {
			n++
			return failure.New(failure.Unreachable, "nobody is there")
		}, func(error) bool { return false })
		if !errors.Is(err, failure.DeadlineExceeded) || n < 40 || n > 140 {
			t.Errorf("%d attempts in a minute, %v", n, err)
		}
	})
}

// TestEventIsEncodedOnce for each encoding, and not again after a failure of
// another.
func TestEventIsEncodedOnce(t *testing.T) {
	t.Parallel()
	e := counterEvent(1, 2, 3)
	var n atomic.Int32
	for range 3 {
		b, err := e.Encoded("proto", func(m proto.Message) ([]byte, error) {
			n.Add(1)
			return proto.Marshal(m)
		})
		var back quernv1.CounterServiceWatchResponse
		if err != nil || proto.Unmarshal(b, &back) != nil || !proto.Equal(&back, e.Message()) {
			t.Errorf("%v, %v", &back, err)
		}
	}
	if n.Load() != 1 {
		t.Errorf("encoded %d times", n.Load())
	}
	if first := e.Heartbeat(); first != e.Heartbeat() {
		t.Error("heartbeats are made again and again")
	}
	beat := e.Heartbeat().Message().(*quernv1.CounterServiceWatchResponse) //nolint:errcheck,forcetypeassert // of the same type
	if beat.GetEpoch() != 1 || beat.GetSequence() != 2 || beat.GetEvent() != nil || e.Heartbeat().After(e) {
		t.Errorf("%v", beat)
	}
}

type blind struct{}

func (blind) Invoke(context.Context, *handles.Operation) error { return nil }

func TestWatchWhereNobodyCan(t *testing.T) {
	t.Parallel()
	for _, err := range handles.NewCounter(blind{}, "k").Watch(t.Context()) {
		if !errors.Is(err, failure.UnknownMethod) {
			t.Errorf("got %v", err)
		}
	}
}
