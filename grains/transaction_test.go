package grains_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// everyOperation has one of each.
func everyOperation() *quernv1.TransactionServiceCommitRequest {
	q := &quernv1.TransactionServiceCommitRequest{Key: "x", Guard: &quernv1.Guard{Lock: "l", Token: 1}}
	fields := (&quernv1.TransactionOperation{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		o := &quernv1.TransactionOperation{}
		inner := o.ProtoReflect().Mutable(fields.Get(i)).Message()
		inner.Set(inner.Descriptor().Fields().ByName("key"), protoreflect.ValueOfString("{x}k"))
		q.Operations = append(q.Operations, o)
	}
	return q
}

// TestComposeTakesEveryOperation: each of the protocol's operations leads to a
// kind that has it, with the result in its place; writes carry the guard.
func TestComposeTakesEveryOperation(t *testing.T) {
	t.Parallel()
	q, a := everyOperation(), &quernv1.TransactionServiceCommitResponse{}
	steps, err := grains.Transaction{}.Compose(q, a)
	if err != nil || len(steps) != len(q.GetOperations()) || len(a.GetResults()) != len(steps) {
		t.Fatal(len(steps), len(a.GetResults()), err)
	}
	kinds := map[string]actors.Kind{"counter": grains.Counter{}, "map": grains.Map{}}
	for i, s := range steps {
		turn := actors.TestTurn{Key: s.Key, Now: 1, Next: func() uint64 { return 7 }}.Turn()
		if _, err := kinds[s.Kind].New().Apply(turn, s.Command, s.Reply); err != nil {
			t.Errorf("operation %d: %T with %T: %v", i, s.Command, s.Reply, err)
		}
		if reads := strings.Contains(string(proto.MessageName(s.Command)), "Get") && !strings.Contains(string(proto.MessageName(s.Command)), "Set"); reads != (s.Guard == nil) {
			t.Errorf("operation %d: %T has the guard %v", i, s.Command, s.Guard)
		}
		result := a.GetResults()[i].ProtoReflect()
		field := result.WhichOneof(result.Descriptor().Oneofs().Get(0))
		operation := q.GetOperations()[i].ProtoReflect()
		if field == nil || field.Name() != operation.WhichOneof(operation.Descriptor().Oneofs().Get(0)).Name() || result.Get(field).Message().Interface() != s.Reply {
			t.Errorf("operation %d: the result is %v", i, field)
		}
	}
}

func TestComposeRefuses(t *testing.T) {
	t.Parallel()
	get := &quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_CounterGet{CounterGet: &quernv1.CounterServiceGetRequest{Key: "k"}}}
	add := func(q *quernv1.CounterServiceAddRequest) *quernv1.TransactionServiceCommitRequest {
		return &quernv1.TransactionServiceCommitRequest{Operations: []*quernv1.TransactionOperation{get, {Operation: &quernv1.TransactionOperation_CounterAdd{CounterAdd: q}}}}
	}
	many := &quernv1.TransactionServiceCommitRequest{}
	for range 1000 {
		many.Operations = append(many.Operations, get)
	}
	for name, row := range map[string]struct {
		q      proto.Message
		reason failure.Reason
		says   string
	}{
		"empty":                {&quernv1.TransactionServiceCommitRequest{}, failure.InvalidField, "empty"},
		"a thousand":           {many, failure.InvalidField, "1000"},
		"another message":      {get, failure.UnknownMethod, ""},
		"no operation in it":   {&quernv1.TransactionServiceCommitRequest{Operations: []*quernv1.TransactionOperation{get, {}}}, failure.InvalidField, "operations[1]"},
		"no condition in it":   {&quernv1.TransactionServiceCommitRequest{Conditions: []*quernv1.TransactionCondition{{}}}, failure.InvalidField, "conditions[0]"},
		"an id of its own":     {add(&quernv1.CounterServiceAddRequest{Key: "k", IdempotencyKey: "i"}), failure.InvalidField, "operations[1]"},
		"more than a megabyte": {add(&quernv1.CounterServiceAddRequest{Key: strings.Repeat("k", 1<<20)}), failure.Limit, "bytes"},
	} {
		_, err := grains.Transaction{}.Compose(row.q, &quernv1.TransactionServiceCommitResponse{})
		if !errors.Is(err, row.reason) || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if steps, err := (grains.Transaction{}).Compose(add(nil), &quernv1.TransactionServiceCommitResponse{}); err != nil || steps[1].Key != "" {
		t.Errorf("a nil request has no key, which is refused by name: %v, %v", steps, err)
	}
}

// TestLockCondition: it holds for the token that has the lock, as long as it has
// it.
func TestLockCondition(t *testing.T) {
	t.Parallel()
	state, ok := grains.Lock{}.New().(actors.Checker)
	if !ok {
		t.Fatal("a lock takes no conditions")
	}
	turn := actors.TestTurn{Key: "l", Now: 1, Next: func() uint64 { return 9 }}.Turn()
	check := func(token uint64) error { return state.Check(turn, &quernv1.LockCondition{Token: token}) }
	if err := check(9); !errors.Is(err, failure.ConditionFailed) {
		t.Errorf("a free lock: %v", err)
	}
	q := &quernv1.LockServiceAcquireRequest{Key: "l", Owner: "o", Ttl: durationpb.New(time.Second)}
	if _, err := state.Apply(turn, q, &quernv1.LockServiceAcquireResponse{}); err != nil {
		t.Fatal(err)
	}
	for token, want := range map[uint64]error{9: nil, 8: failure.ConditionFailed, 10: failure.ConditionFailed, 0: failure.InvalidField} {
		if err := check(token); !errors.Is(err, want) {
			t.Errorf("token %d: %v, want %v", token, err, want)
		}
	}
	if err := state.Check(turn, q); !errors.Is(err, failure.UnknownMethod) {
		t.Errorf("another message: %v", err)
	}
	if _, err := state.Apply(turn, &quernv1.LockServiceReleaseRequest{Key: "l", Token: 9}, &quernv1.LockServiceReleaseResponse{}); err != nil {
		t.Fatal(err)
	}
	if err := check(9); !errors.Is(err, failure.ConditionFailed) {
		t.Errorf("a released lock: %v", err)
	}
}

// FuzzCompose: whatever decodes is refused by name, or taken apart: conditions
// first, each operation with its reply.
func FuzzCompose(f *testing.F) {
	q := everyOperation()
	q.Conditions = []*quernv1.TransactionCondition{
		{Condition: &quernv1.TransactionCondition_Counter{Counter: &quernv1.CounterCondition{Key: "k", Comparison: 3, Value: -1}}},
		{Condition: &quernv1.TransactionCondition_Map{Map: &quernv1.MapCondition{Key: "k", Expected: &quernv1.MapCondition_Present{Present: true}}}},
		{Condition: &quernv1.TransactionCondition_Lock{Lock: &quernv1.LockCondition{Key: "k", Token: 1 << 63}}},
	}
	for _, m := range []proto.Message{q, &quernv1.TransactionServiceCommitRequest{Conditions: q.GetConditions()}, &quernv1.TransactionServiceCommitRequest{Operations: []*quernv1.TransactionOperation{{}}}} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, a := &quernv1.TransactionServiceCommitRequest{}, &quernv1.TransactionServiceCommitResponse{}
		if proto.Unmarshal(b, q) != nil {
			return
		}
		steps, err := grains.Transaction{}.Compose(q, a)
		if err != nil {
			if _, ok := errors.AsType[*failure.Error](err); !ok || failure.OutcomeOf(err) != failure.NotDone {
				t.Fatalf("%x: %v", b, err)
			}
			return
		}
		if len(steps) != len(q.GetConditions())+len(q.GetOperations()) || len(a.GetResults()) != len(q.GetOperations()) {
			t.Fatalf("%x: %d steps, %d results", b, len(steps), len(a.GetResults()))
		}
		for i, s := range steps {
			if s.Command == nil || (s.Reply == nil) != (i < len(q.GetConditions())) {
				t.Fatalf("%x: step %d is %+v", b, i, s)
			}
		}
	})
}
