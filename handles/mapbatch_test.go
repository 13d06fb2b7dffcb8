package handles_test

import (
	"errors"
	"testing"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

func TestBatchOfMapEntries(t *testing.T) {
	t.Parallel()
	s := newStore()
	b := handles.NewBatch(s)
	put, got := b.MapPut("k", []byte("one")), b.MapGet("k")
	if _, err := put.Version(); !errors.Is(err, failure.InvalidField) {
		t.Errorf("before Do: %v", err)
	}
	if err := b.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	version, err := put.Version()
	v, err2 := got.Value()
	if version != 1 || string(v.Value) != "one" || v.Version != 1 || !v.Found() || errors.Join(err, err2) != nil || got.Origin().Node != "n1" {
		t.Errorf("version %d, %v, value %+v, %v", version, err, v, err2)
	}
	v.Value[0] = 'X' // is the caller's
	if string(s.entry) != "one" {
		t.Errorf("the entry became %q", s.entry)
	}
}

// A put that failed keeps its value: somebody may still read it.
func TestBatchLeavesValuesOfFailedPutsAlone(t *testing.T) {
	t.Parallel()
	s := newStore()
	b := handles.NewBatch(s)
	var failed *handles.Operation
	s.fail = func(op *handles.Operation) error {
		failed = op
		return failure.New(failure.OutcomeUnknown, "lost")
	}
	put := b.MapPut("k", []byte("one")).Once("id")
	if err := b.Do(t.Context()); !errors.Is(err, failure.OutcomeUnknown) || failed.IdempotencyKey != "id" {
		t.Errorf("%v under %q", err, failed.IdempotencyKey)
	}
	if _, err := put.Value(); !errors.Is(err, failure.OutcomeUnknown) {
		t.Errorf("%v", err)
	}
	s.fail = nil
	b.Reset()
	b.MapPut("k", []byte("two"))
	if err := b.Do(t.Context()); err != nil || string(s.entry) != "two" {
		t.Errorf("%v, entry %q", err, s.entry)
	}
	if q, ok := failed.Request.(interface{ GetValue() []byte }); !ok || string(q.GetValue()) != "one" {
		t.Errorf("the failed put's request was used again: %v", failed.Request)
	}
}

func TestBatchOfMapEntriesAllocatesNothing(t *testing.T) { //nolint:paralleltest // counts allocations
	b, value := handles.NewBatch(newStore()), []byte("value")
	n := testing.AllocsPerRun(100, func() {
		b.Reset()
		for range 10 {
			b.MapPut("k", value)
		}
		if err := b.Do(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
