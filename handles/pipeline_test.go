package handles_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// store is counters behind a Batcher; fail answers an operation instead.
type store struct {
	values map[string]int64
	entry  []byte // the only one
	// version is the entry's.
	version uint64
	fail    func(op *handles.Operation) error
	calls   int
}

func (s *store) Invoke(_ context.Context, op *handles.Operation) error {
	if s.fail != nil {
		if err := s.fail(op); err != nil {
			return err
		}
	}
	switch m := op.Reply.(type) {
	case *quernv1.CounterServiceAddResponse:
		q, _ := op.Request.(*quernv1.CounterServiceAddRequest)
		s.values[q.GetKey()] += q.GetDelta()
		m.Value = s.values[q.GetKey()]
	case *quernv1.CounterServiceGetResponse:
		m.Value = s.values[op.Key]
	case *quernv1.CounterServiceSetResponse:
		q, _ := op.Request.(*quernv1.CounterServiceSetRequest)
		s.values[q.GetKey()] = q.GetValue()
		m.Value = q.GetValue()
	case *quernv1.MapServicePutResponse:
		q, _ := op.Request.(*quernv1.MapServicePutRequest)
		s.entry, s.version = q.GetValue(), s.version+1
		m.Version = s.version
	case *quernv1.MapServiceGetResponse:
		m.Value, m.Version = s.entry, s.version
	}
	op.Origin = handles.Origin{Node: "n1"}
	return nil
}

func (s *store) InvokeAll(ctx context.Context, ops []*handles.Operation) {
	s.calls++
	for _, op := range ops {
		op.Err = s.Invoke(ctx, op)
	}
}

func newStore() *store { return &store{values: map[string]int64{}} }

func want(t *testing.T, a handles.CounterAnswer, value int64, reason error) {
	t.Helper()
	v, err := a.Value()
	if v != value || (reason == nil) != (err == nil) || reason != nil && !errors.Is(err, reason) {
		t.Errorf("got %d %v, want %d %v", v, err, value, reason)
	}
}

func TestBatchSendsWhatIsNew(t *testing.T) {
	t.Parallel()
	s := newStore()
	b := handles.NewBatch(s)
	if err := b.Do(t.Context()); err != nil || b.Len() != 0 {
		t.Errorf("an empty batch: %v", err)
	}
	set, add := b.CounterSet("a", 5), b.CounterAdd("b", 2)
	want(t, set, 0, failure.InvalidField) // not sent
	if err := b.Do(t.Context()); err != nil || b.Len() != 2 {
		t.Errorf("%v", err)
	}
	want(t, set, 5, nil)
	want(t, add, 2, nil)
	get := b.CounterGet("b")
	if err := b.Do(t.Context()); err != nil || s.values["b"] != 2 {
		t.Errorf("%v, b is %d: sent twice", err, s.values["b"])
	}
	want(t, get, 2, nil)
	want(t, add, 2, nil)
	if get.Origin().Node != "n1" {
		t.Errorf("origin %v", get.Origin())
	}
	b.Reset()
	if err := b.Do(t.Context()); err != nil || b.Len() != 0 || s.values["b"] != 2 {
		t.Errorf("after Reset: %v", err)
	}
}

func TestBatchTellsWhatFailed(t *testing.T) {
	t.Parallel()
	s := newStore()
	s.fail = func(op *handles.Operation) error {
		switch op.Key {
		case "full":
			return failure.New(failure.Overloaded, "full")
		case "lost":
			return failure.New(failure.OutcomeUnknown, "lost")
		}
		return nil
	}
	b := handles.NewBatch(s)
	full, lost, good := b.CounterAdd("full", 1), b.CounterAdd("lost", 1), b.CounterAdd("good", 1)
	err := b.Do(t.Context())
	if failure.OutcomeOf(err) != failure.Unknown || !errors.Is(err, failure.OutcomeUnknown) || err.Error() != "quern: 2 of 3 operations failed, such as: quern: OUTCOME_UNKNOWN: lost" {
		t.Errorf("%v", err)
	}
	want(t, full, 0, failure.Overloaded)
	want(t, lost, 0, failure.OutcomeUnknown)
	want(t, good, 1, nil)
}

// A shard may still be at work on what failed: its messages are not used again.
func TestBatchLeavesWhatFailedAlone(t *testing.T) {
	t.Parallel()
	s := newStore()
	var late *handles.Operation
	s.fail = func(op *handles.Operation) error {
		if late == nil {
			late = op
			return context.Canceled
		}
		return nil
	}
	b := handles.NewBatch(s)
	b.CounterAdd("a", 1)
	if err := b.Do(t.Context()); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	b.Reset()
	b.CounterAdd("b", 7)
	q, _ := late.Request.(*quernv1.CounterServiceAddRequest)
	if q.GetKey() != "a" || q.GetDelta() != 1 {
		t.Errorf("the request of a failed add became %v", q)
	}
	if err := b.Do(t.Context()); err != nil || s.values["b"] != 7 {
		t.Error(err)
	}
}

func TestBatchCarriesIdempotencyKeys(t *testing.T) {
	t.Parallel()
	s := newStore()
	seen := map[string]string{}
	s.fail = func(op *handles.Operation) error {
		m, _ := op.Request.(interface{ GetIdempotencyKey() string })
		if m != nil && m.GetIdempotencyKey() != op.IdempotencyKey {
			t.Errorf("%s: %q and %q", op.Method.Name, m.GetIdempotencyKey(), op.IdempotencyKey)
		}
		seen[op.Method.Name] += op.IdempotencyKey + ","
		return nil
	}
	b := handles.NewBatch(s)
	for range 2 {
		b.CounterAdd("a", 1).Once("one")
		b.CounterSet("a", 1).Once("two")
		b.CounterGet("a").Once("three")
		b.CounterAdd("a", 1)
		if err := b.Do(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.Reset()
	}
	if seen["Add"] != "one,,one,," || seen["Set"] != "two,two," || seen["Get"] != ",," {
		t.Errorf("%v", seen)
	}
}

func TestBatchAgainAllocatesNothing(t *testing.T) {
	s := newStore()
	b := handles.NewBatch(s)
	once := func() {
		for range 10 {
			b.CounterAdd("a", 1)
			b.CounterGet("a")
			b.CounterSet("b", 2)
		}
		if err := b.Do(t.Context()); err != nil {
			t.Error(err)
		}
		b.Reset()
	}
	if n := testing.AllocsPerRun(100, once); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s.calls != 101 {
		t.Errorf("%d calls", s.calls)
	}
}

func ExampleBatch() {
	ctx, to := context.Background(), newStore() // a node or a client
	b := handles.NewBatch(to)
	views := b.CounterAdd("views:42", 1)
	likes := b.CounterGet("likes:42")
	if err := b.Do(ctx); err != nil {
		fmt.Println(err)
		return
	}
	v, _ := views.Value()
	l, _ := likes.Value()
	fmt.Println(v, l)
	// Output: 1 0
}
