package handles

import (
	"context"
	"fmt"

	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Batch sends several operations together and waits for all of them, which
// costs a fraction of as many calls of their own where to is a [Batcher]. Each
// operation stands by itself: there is no order among them, one that fails
// changes nothing for the others, and a batch is no transaction.
//
//	b := handles.NewBatch(to)
//	views := b.CounterAdd("page:42", 1)
//	likes := b.CounterGet("likes:42")
//	err := b.Do(ctx)
//	n, err := views.Value()
//
// A batch that is used again after Reset allocates nothing. It belongs to one
// goroutine at a time.
type Batch struct {
	to   Invoker
	ops  []*Operation
	sent int // of ops
	adds slots[batchedAdd]
	gets slots[batchedGet]
	sets slots[batchedSet]
	puts slots[batchedPut]
	look slots[batchedMapGet]
}

// NewBatch returns an empty batch of operations for to.
func NewBatch(to Invoker) *Batch { return &Batch{to: to} }

// CounterAnswer is where the answer to an operation of a batch will be. It is
// good until the batch is Reset.
type CounterAnswer struct{ op *Operation }

// errNotSent answers operations that wait for Do.
var errNotSent = failure.New(failure.InvalidField, "the batch was not sent")

// batched is an operation together with its messages.
type (
	batchedAdd struct {
		op      Operation
		request quernv1.CounterServiceAddRequest
		reply   quernv1.CounterServiceAddResponse
		delta   int64 // what the request points to
	}
	batchedGet struct {
		op      Operation
		request quernv1.CounterServiceGetRequest
		reply   quernv1.CounterServiceGetResponse
	}
	batchedSet struct {
		op      Operation
		request quernv1.CounterServiceSetRequest
		reply   quernv1.CounterServiceSetResponse
	}
)

// CounterAdd puts [Counter.Add] into the batch. The answer's value is the
// counter's after the add.
func (b *Batch) CounterAdd(key string, delta int64) CounterAnswer {
	s := b.adds.next()
	s.delta = delta
	s.request.Reset()
	s.reply.Reset()
	s.request.Key, s.request.Delta = key, &s.delta
	s.op = Operation{Method: CounterAdd, Key: key, Request: &s.request, Reply: &s.reply}
	return b.put(&s.op)
}

// CounterGet puts [Counter.Get] into the batch.
func (b *Batch) CounterGet(key string) CounterAnswer {
	s := b.gets.next()
	s.request.Reset()
	s.reply.Reset()
	s.request.Key = key
	s.op = Operation{Method: CounterGet, Key: key, Request: &s.request, Reply: &s.reply}
	return b.put(&s.op)
}

// CounterSet puts [Counter.Set] into the batch. The answer's value is the new
// one.
func (b *Batch) CounterSet(key string, value int64) CounterAnswer {
	s := b.sets.next()
	s.request.Reset()
	s.reply.Reset()
	s.request.Key, s.request.Value = key, value
	s.op = Operation{Method: CounterSet, Key: key, Request: &s.request, Reply: &s.reply}
	return b.put(&s.op)
}

func (b *Batch) put(op *Operation) CounterAnswer {
	b.add(op)
	return CounterAnswer{op}
}

func (b *Batch) add(op *Operation) {
	op.Err = errNotSent
	b.ops = append(b.ops, op)
}

// Len is the number of operations since the last Reset.
func (b *Batch) Len() int { return len(b.ops) }

// Do sends what was put into the batch since the last Do and returns when all
// of it is answered. It fails where an operation failed, and wraps one of
// unknown outcome where there is one; what became of each is in its answer.
func (b *Batch) Do(ctx context.Context) error {
	ops := b.ops[b.sent:]
	b.sent = len(b.ops)
	for _, op := range ops {
		op.Err = nil
	}
	InvokeAll(ctx, b.to, ops)
	var worst error
	failed := 0
	for _, op := range ops {
		if op.Err == nil {
			continue
		}
		if failed++; worst == nil || failure.OutcomeOf(op.Err) > failure.OutcomeOf(worst) {
			worst = op.Err
		}
	}
	if worst == nil {
		return nil
	}
	return fmt.Errorf("quern: %d of %d operations failed, such as: %w", failed, len(ops), worst)
}

// Reset empties the batch for further operations.
func (b *Batch) Reset() {
	b.adds.reset(func(s *batchedAdd) bool { return reusable(&s.op) })
	b.gets.reset(func(s *batchedGet) bool { return reusable(&s.op) })
	b.sets.reset(func(s *batchedSet) bool { return reusable(&s.op) })
	b.puts.reset((*batchedPut).release)
	b.look.reset((*batchedMapGet).release)
	clear(b.ops)
	b.ops, b.sent = b.ops[:0], 0
}

// reusable says whether nobody works on an operation's messages any more,
// which an error leaves open.
func reusable(op *Operation) bool {
	return op.Err == nil || op.Err == error(errNotSent) //nolint:errorlint // this one value, not its like
}

// Once gives a write an idempotency key, as [Counter.Once] does. It comes
// before Do; reads take none.
func (a CounterAnswer) Once(id string) CounterAnswer {
	switch q := a.op.Request.(type) {
	case *quernv1.CounterServiceAddRequest:
		q.IdempotencyKey, a.op.IdempotencyKey = id, id
	case *quernv1.CounterServiceSetRequest:
		q.IdempotencyKey, a.op.IdempotencyKey = id, id
	}
	return a
}

// Value returns the counter's value, or why the operation failed: a
// *failure.Error or the context's.
func (a CounterAnswer) Value() (int64, error) {
	if err := a.op.Err; err != nil {
		return 0, err
	}
	switch m := a.op.Reply.(type) {
	case *quernv1.CounterServiceAddResponse:
		return m.GetValue(), nil
	case *quernv1.CounterServiceGetResponse:
		return m.GetValue(), nil
	case *quernv1.CounterServiceSetResponse:
		return m.GetValue(), nil
	case *quernv1.CounterServiceExpireResponse:
		return m.GetValue(), nil
	default:
		return 0, failure.New(failure.Internal, "%T in a batch", m)
	}
}

// Origin says who answered, as far as known.
func (a CounterAnswer) Origin() Origin { return a.op.Origin }

// slots are objects that are used again.
type slots[S any] struct {
	all  []*S
	used int
}

func (s *slots[S]) next() *S {
	if s.used == len(s.all) {
		s.all = append(s.all, new(S))
	}
	s.used++
	return s.all[s.used-1]
}

// reset takes all back, and others in the place of those not to be reused.
func (s *slots[S]) reset(reuse func(*S) bool) {
	for i, one := range s.all[:s.used] {
		if !reuse(one) {
			s.all[i] = new(S)
		}
	}
	s.used = 0
}
