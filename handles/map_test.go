package handles_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
)

// stateNode is one grain whose commands do not wait.
type stateNode struct {
	state actors.State
	last  uint64
	once  string
}

func (n *stateNode) Invoke(_ context.Context, op *handles.Operation) error {
	turn := actors.TestTurn{Key: op.Key, Now: 1_000, Next: func() uint64 { n.last++; return n.last }}.Turn()
	n.once = op.IdempotencyKey
	_, err := n.state.Apply(turn, op.Request, op.Reply)
	return err //nolint:wrapcheck // the kind's
}

func TestMapEntry(t *testing.T) {
	t.Parallel()
	ctx, n := t.Context(), &stateNode{state: grains.Map{}.New()}
	m := handles.NewMapEntry(n, "k")
	if v, err := m.Get(ctx); err != nil || v.Found() || v.Value != nil {
		t.Errorf("absent: %+v, %v", v, err)
	}
	value := []byte("one")
	if version, err := m.Once("id").Put(ctx, value, handles.PutOptions{IfAbsent: true, TTL: time.Minute}); err != nil || version != 1 || n.once != "id" {
		t.Errorf("put: %d, %v, once %q", version, err, n.once)
	}
	value[0] = 'x'
	v, err := m.Get(ctx)
	if err != nil || string(v.Value) != "one" || v.Version != 1 || v.TTL != time.Minute {
		t.Errorf("get: %+v, %v", v, err)
	}
	v.Value[0] = 'x' // is the caller's
	if again, err := m.Get(ctx); err != nil || string(again.Value) != "one" {
		t.Errorf("get: %q, %v", again.Value, err)
	}
	if _, err := m.Put(ctx, value, handles.PutOptions{IfVersion: 9}); !errors.Is(err, failure.ConditionFailed) {
		t.Errorf("put of another version: %v", err)
	}
	if version, swapped, err := m.CompareAndSwap(ctx, 9, value); err != nil || swapped || version != 1 {
		t.Errorf("swap of another version: %d, %v, %v", version, swapped, err)
	}
	if version, swapped, err := m.CompareAndSwap(ctx, 1, []byte("two")); err != nil || !swapped || version != 2 {
		t.Errorf("swap: %d, %v, %v", version, swapped, err)
	}
	if err := m.DeleteVersion(ctx, 1); !errors.Is(err, failure.ConditionFailed) {
		t.Errorf("delete of another version: %v", err)
	}
	if found, err := m.Delete(ctx); err != nil || !found {
		t.Errorf("delete: %v, %v", found, err)
	}
	if version, err := m.Put(ctx, nil, handles.PutOptions{}); err != nil || version != 3 {
		t.Errorf("put: %d, %v", version, err)
	}
	if got, err := m.Get(ctx); err != nil || !got.Found() || len(got.Value) != 0 {
		t.Errorf("an empty value: %+v, %v", got, err)
	}
}
