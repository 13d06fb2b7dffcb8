package bench

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a target in memory. before and after, where set, run around each
// operation and may answer instead of it; n counts the operations on counters
// that change something, from 1.
type fake struct {
	mu      sync.Mutex
	values  map[string]int64
	expired map[string]bool
	entries map[string]handles.MapValue
	version uint64 // the last one of all entries
	adds    int    // and puts

	before func(n int, op *handles.Operation) error
	after  func(n int, op *handles.Operation) error
}

func newFake() *fake {
	return &fake{values: map[string]int64{}, expired: map[string]bool{}, entries: map[string]handles.MapValue{}}
}

func (f *fake) Invoke(ctx context.Context, op *handles.Operation) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	n := f.adds
	if op.Method == handles.CounterAdd || op.Method == handles.MapPut {
		f.adds++
		n = f.adds
	}
	f.mu.Unlock()
	if op.Method == handles.CounterAddMany {
		return f.addMany(ctx, op)
	}
	if f.before != nil {
		if err := f.before(n, op); err != nil {
			return err
		}
	}
	if err := f.apply(op); err != nil {
		return err
	}
	if f.after != nil {
		return f.after(n, op)
	}
	return nil
}

// addMany does each add by itself, as a node does.
func (f *fake) addMany(ctx context.Context, op *handles.Operation) error {
	q, _ := op.Request.(*quernv1.CounterServiceAddManyRequest)
	out := reply[*quernv1.CounterServiceAddManyResponse](op)
	for i, key := range q.GetKeys() {
		v, err := handles.NewCounter(f, key).Add(ctx, q.GetDeltas()[i])
		if e := (*failure.Error)(nil); errors.As(err, &e) {
			out.Failures = append(out.Failures, &quernv1.AddManyFailure{
				Index: uint32(i), Reason: e.Reason.String(), Unknown: e.Outcome() == failure.Unknown,
			})
		} else if err != nil {
			out.Failures = append(out.Failures, &quernv1.AddManyFailure{Index: uint32(i), Reason: "OUTCOME_UNKNOWN", Unknown: true})
		}
		out.Values = append(out.Values, v)
	}
	return nil
}

// InvokeAll runs ops in reverse, since there is no order among them.
func (f *fake) InvokeAll(ctx context.Context, ops []*handles.Operation) {
	for _, op := range slices.Backward(ops) {
		op.Err = f.Invoke(ctx, op)
	}
}

func (f *fake) apply(op *handles.Operation) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch q := op.Request.(type) {
	case *quernv1.CounterServiceAddRequest:
		f.values[op.Key] += q.GetDelta()
		reply[*quernv1.CounterServiceAddResponse](op).Value = f.values[op.Key]
	case *quernv1.CounterServiceGetRequest:
		reply[*quernv1.CounterServiceGetResponse](op).Value = f.values[op.Key]
	case *quernv1.CounterServiceSetRequest:
		f.values[op.Key] = q.GetValue()
	case *quernv1.CounterServiceExpireRequest:
		f.expired[op.Key] = true
	case *quernv1.MapServicePutRequest:
		if q.IfVersion != nil && q.GetIfVersion() != f.entries[op.Key].Version {
			return failure.New(failure.ConditionFailed, "another version")
		}
		f.expired[op.Key] = q.GetTtl() != nil
		reply[*quernv1.MapServicePutResponse](op).Version = f.set(op.Key, q.GetValue())
	case *quernv1.MapServiceGetRequest:
		e, out := f.entries[op.Key], reply[*quernv1.MapServiceGetResponse](op)
		out.Value, out.Version, out.Found = e.Value, e.Version, e.Found()
	default:
		return failure.New(failure.UnknownMethod, "no %s here", op.Method.Name)
	}
	return nil
}

// set needs mu.
func (f *fake) set(key string, value []byte) (version uint64) {
	f.version++
	f.entries[key] = handles.MapValue{Value: slices.Clone(value), Version: f.version}
	return f.version
}

// change is what a stranger does.
func (f *fake) change(key string, delta int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.values[key] += delta
}

func reply[T proto.Message](op *handles.Operation) T {
	m, _ := op.Reply.(T)
	return m
}

var errLost = errors.New("connection lost")

// null answers at once: what is left is the generator's own cost.
type null struct {
	value  int64
	fixed  bool // every add answers 1
	values [handles.MaxManyKeys]int64
}

func (n *null) Invoke(_ context.Context, op *handles.Operation) error {
	switch m := op.Reply.(type) {
	case *quernv1.CounterServiceAddResponse:
		if n.value++; n.fixed {
			n.value = 1
		}
		m.Value = n.value
	case *quernv1.CounterServiceGetResponse:
		m.Value = n.value
	case *quernv1.MapServicePutResponse:
		n.value++
		m.Version = uint64(n.value)
	case *quernv1.CounterServiceAddManyResponse:
		q, _ := op.Request.(*quernv1.CounterServiceAddManyRequest)
		m.Values = n.values[:len(q.GetKeys())]
		n.value++
		for i := range m.Values {
			m.Values[i] = n.value
		}
	}
	return nil
}

func (n *null) InvokeAll(ctx context.Context, ops []*handles.Operation) {
	for _, op := range ops {
		op.Err = n.Invoke(ctx, op)
	}
}
