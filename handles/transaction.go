package handles

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// KindTransaction is the name of the transactions' kind.
const KindTransaction = "transaction"

// TransactionCommit is the transaction's one method.
var TransactionCommit = &Method{
	Kind: KindTransaction, Name: "Commit", Procedure: "/quern.v1.TransactionService/Commit", Write: true,
}

// Txn is a transaction: conditions and operations on keys of one shard, carried
// out together or not at all, in one commit. Nobody sees a part of it. Keys of
// one tag, which is what stands in braces, are of one shard, whatever their
// kinds; others are mostly not, and then Commit fails with CROSS_SHARD.
//
//	txn := node.Txn("sku7")
//	txn.IfCounter("{sku7}stock", handles.GreaterOrEqual, 3)
//	left := txn.CounterAdd("{sku7}stock", -3)
//	txn.MapPut("{sku7}order:1", order, handles.PutOptions{IfAbsent: true})
//	err := txn.Commit(ctx)
//	n, err := left.Value()
//
// All conditions are checked before the first operation; an operation sees what
// those before it did. A transaction without a write is a snapshot of its keys.
// It takes 128 conditions, 128 operations and 1 MiB, there and back.
//
// A Txn is committed once, and belongs to one goroutine at a time.
type Txn struct {
	to      Invoker
	op      Operation
	request quernv1.TransactionServiceCommitRequest
	reply   quernv1.TransactionServiceCommitResponse
	answers []*Operation
	sent    bool
}

// NewTxn returns an empty transaction. key is any key of the shard, such as the
// tag of those that it works on.
func NewTxn(to Invoker, key string) *Txn {
	t := &Txn{to: to}
	t.request.Key = key
	return t
}

// Once gives the transaction an idempotency key, as [Counter.Once] does for a
// write. It counts for the key that was given to NewTxn.
func (t *Txn) Once(id string) *Txn {
	t.request.IdempotencyKey = id
	return t
}

// Guarded lets all writes of the transaction carry a guard.
func (t *Txn) Guarded(g Guard) *Txn {
	t.request.Guard = g.message()
	return t
}

// Comparison is between a counter, on the left, and a number.
type Comparison quernv1.Comparison

// The comparisons.
const (
	Equal          = Comparison(quernv1.Comparison_COMPARISON_EQUAL)
	NotEqual       = Comparison(quernv1.Comparison_COMPARISON_NOT_EQUAL)
	Less           = Comparison(quernv1.Comparison_COMPARISON_LESS)
	LessOrEqual    = Comparison(quernv1.Comparison_COMPARISON_LESS_OR_EQUAL)
	Greater        = Comparison(quernv1.Comparison_COMPARISON_GREATER)
	GreaterOrEqual = Comparison(quernv1.Comparison_COMPARISON_GREATER_OR_EQUAL)
)

// IfCounter asks that a counter compares so with a value.
func (t *Txn) IfCounter(key string, is Comparison, value int64) *Txn {
	return t.condition(&quernv1.TransactionCondition{Condition: &quernv1.TransactionCondition_Counter{
		Counter: &quernv1.CounterCondition{Key: key, Comparison: quernv1.Comparison(is), Value: value},
	}})
}

// IfVersion asks that a map entry has a version; 0 is that of an absent one.
func (t *Txn) IfVersion(key string, version uint64) *Txn {
	return t.entry(&quernv1.MapCondition{Key: key, Expected: &quernv1.MapCondition_Version{Version: version}})
}

// IfPresent asks that there is a map entry.
func (t *Txn) IfPresent(key string) *Txn {
	return t.entry(&quernv1.MapCondition{Key: key, Expected: &quernv1.MapCondition_Present{Present: true}})
}

// IfAbsent asks that there is no map entry.
func (t *Txn) IfAbsent(key string) *Txn {
	return t.entry(&quernv1.MapCondition{Key: key, Expected: &quernv1.MapCondition_Present{}})
}

func (t *Txn) entry(q *quernv1.MapCondition) *Txn {
	return t.condition(&quernv1.TransactionCondition{Condition: &quernv1.TransactionCondition_Map{Map: q}})
}

// IfHeld asks that a lock of the same shard is held under a token now. A guard
// asks less, and works with a lock of any shard.
func (t *Txn) IfHeld(g Guard) *Txn {
	return t.condition(&quernv1.TransactionCondition{Condition: &quernv1.TransactionCondition_Lock{
		Lock: &quernv1.LockCondition{Key: g.Lock, Token: g.Token},
	}})
}

func (t *Txn) condition(q *quernv1.TransactionCondition) *Txn {
	t.request.Conditions = append(t.request.Conditions, q)
	return t
}

// CounterAdd puts [Counter.Add] into the transaction. The answer's value is the
// counter's after it.
func (t *Txn) CounterAdd(key string, delta int64) CounterAnswer {
	return t.CounterAddBounded(key, delta, AddOptions{})
}

// CounterAddBounded puts [Counter.AddBounded] into the transaction.
func (t *Txn) CounterAddBounded(key string, delta int64, o AddOptions) CounterAnswer {
	q := &quernv1.CounterServiceAddRequest{Key: key, Delta: &delta, Saturate: o.Saturate}
	if o.Min != nil {
		low := *o.Min
		q.Min = &low
	}
	if o.Max != nil {
		high := *o.Max
		q.Max = &high
	}
	return CounterAnswer{t.put(&quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_CounterAdd{CounterAdd: q}})}
}

// CounterGet puts [Counter.Get] into the transaction.
func (t *Txn) CounterGet(key string) CounterAnswer {
	q := &quernv1.CounterServiceGetRequest{Key: key}
	return CounterAnswer{t.put(&quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_CounterGet{CounterGet: q}})}
}

// CounterSet puts [Counter.Set] into the transaction. The answer's value is the
// new one.
func (t *Txn) CounterSet(key string, value int64) CounterAnswer {
	q := &quernv1.CounterServiceSetRequest{Key: key, Value: value}
	return CounterAnswer{t.put(&quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_CounterSet{CounterSet: q}})}
}

// CounterExpire puts [Counter.Expire] into the transaction.
func (t *Txn) CounterExpire(key string, ttl time.Duration) CounterAnswer {
	q := &quernv1.CounterServiceExpireRequest{Key: key, Ttl: durationpb.New(ttl)}
	return CounterAnswer{t.put(&quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_CounterExpire{CounterExpire: q}})}
}

// MapPut puts [MapEntry.Put] into the transaction. The answer's version is the
// new one. The value must not be changed before Commit returns, and after an
// error not at all.
func (t *Txn) MapPut(key string, value []byte, o PutOptions) MapAnswer {
	q := &quernv1.MapServicePutRequest{Key: key, Value: value, IfAbsent: o.IfAbsent}
	if version := o.IfVersion; version != 0 {
		q.IfVersion = &version
	}
	if o.TTL != 0 {
		q.Ttl = durationpb.New(o.TTL)
	}
	return MapAnswer{t.put(&quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_MapPut{MapPut: q}})}
}

// MapGet puts [MapEntry.Get] into the transaction.
func (t *Txn) MapGet(key string) MapAnswer {
	q := &quernv1.MapServiceGetRequest{Key: key}
	return MapAnswer{t.put(&quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_MapGet{MapGet: q}})}
}

// MapDelete puts [MapEntry.Delete] into the transaction. The answer's version is
// the one that the entry had, 0 where there was none.
func (t *Txn) MapDelete(key string) MapAnswer {
	q := &quernv1.MapServiceDeleteRequest{Key: key}
	return MapAnswer{t.put(&quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_MapDelete{MapDelete: q}})}
}

// errNotCommitted answers operations that wait for Commit.
var errNotCommitted = failure.New(failure.InvalidField, "the transaction was not committed")

func (t *Txn) put(q *quernv1.TransactionOperation) *Operation {
	t.request.Operations = append(t.request.Operations, q)
	answer := &Operation{Err: errNotCommitted}
	t.answers = append(t.answers, answer)
	return answer
}

// Commit carries the transaction out. It fails with CONDITION_FAILED where a
// condition does not hold, with an operation's own reason where that is refused
// (the message begins with its place, such as operations[2], counted from 0),
// and with CROSS_SHARD; in each of these cases nothing was done.
func (t *Txn) Commit(ctx context.Context) error {
	if t.sent {
		return failure.New(failure.InvalidField, "the transaction was committed before; make another one")
	}
	t.sent = true
	t.op = Operation{
		Method: TransactionCommit, Key: t.request.GetKey(), IdempotencyKey: t.request.GetIdempotencyKey(),
		Request: &t.request, Reply: &t.reply,
	}
	err := t.to.Invoke(ctx, &t.op)
	if err == nil && len(t.reply.GetResults()) != len(t.answers) {
		err = failure.New(failure.OutcomeUnknown, "%d results came back for %d operations", len(t.reply.GetResults()), len(t.answers))
	}
	for i, answer := range t.answers {
		answer.Err, answer.Origin = err, t.op.Origin
		if err == nil {
			answer.Reply = resultOf(t.reply.GetResults()[i])
		}
	}
	return err
}

// resultOf is the reply of an operation; nil where the node sent none.
func resultOf(r *quernv1.TransactionResult) proto.Message {
	switch a := r.GetResult().(type) {
	case *quernv1.TransactionResult_CounterAdd:
		return a.CounterAdd
	case *quernv1.TransactionResult_CounterGet:
		return a.CounterGet
	case *quernv1.TransactionResult_CounterSet:
		return a.CounterSet
	case *quernv1.TransactionResult_CounterExpire:
		return a.CounterExpire
	case *quernv1.TransactionResult_MapPut:
		return a.MapPut
	case *quernv1.TransactionResult_MapGet:
		return a.MapGet
	case *quernv1.TransactionResult_MapDelete:
		return a.MapDelete
	default:
		return nil
	}
}
