package grains

import (
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Bounds of a transaction.
const (
	// MaxTransactionSteps is how many conditions, and how many operations, one
	// takes.
	MaxTransactionSteps = 128
	// MaxTransactionBytes bounds its encoded request.
	MaxTransactionBytes = 1 << 20
)

// Transaction is the kind of transactions. Its grains have no state: its
// commands are made of steps on other grains.
type Transaction struct{}

// Name implements actors.Kind.
func (Transaction) Name() string { return "transaction" }

// New implements actors.Kind.
func (Transaction) New() actors.State { return stateless{} }

// Compose implements actors.Composer.
func (Transaction) Compose(command, reply proto.Message) ([]actors.Step, error) {
	q, ok := command.(*quernv1.TransactionServiceCommitRequest)
	a, okay := reply.(*quernv1.TransactionServiceCommitResponse)
	if !ok || !okay {
		return nil, failure.New(failure.UnknownMethod, "a transaction has no method for %T with %T", command, reply)
	}
	if err := checkTransaction(q); err != nil {
		return nil, err
	}
	c := composition{guard: guardOf(q.GetGuard()), steps: make([]actors.Step, 0, len(q.GetConditions())+len(q.GetOperations()))}
	for i, condition := range q.GetConditions() {
		if !c.condition(condition) {
			return nil, failure.New(failure.InvalidField, "conditions[%d] is of no kind that this node knows", i)
		}
	}
	a.Results = make([]*quernv1.TransactionResult, len(q.GetOperations()))
	for i, operation := range q.GetOperations() {
		r := &quernv1.TransactionResult{}
		if a.Results[i] = r; !c.counter(operation, r) && !c.entry(operation, r) {
			return nil, failure.New(failure.InvalidField, "operations[%d] is of no kind that this node knows", i)
		}
		if c.once {
			return nil, failure.New(failure.InvalidField, "operations[%d] has an idempotency key of its own; give it to the transaction", i)
		}
	}
	return c.steps, nil
}

func checkTransaction(q *quernv1.TransactionServiceCommitRequest) error {
	conditions, operations := len(q.GetConditions()), len(q.GetOperations())
	switch {
	case conditions+operations == 0:
		return failure.New(failure.InvalidField, "the transaction is empty")
	case conditions > MaxTransactionSteps:
		return failure.New(failure.InvalidField, "%d conditions are too many, at most %d are taken", conditions, MaxTransactionSteps)
	case operations > MaxTransactionSteps:
		return failure.New(failure.InvalidField, "%d operations are too many, at most %d are taken", operations, MaxTransactionSteps)
	}
	if n := proto.Size(q); n > MaxTransactionBytes {
		return failure.New(failure.Limit, "the transaction has %d bytes, at most %d are taken", n, MaxTransactionBytes)
	}
	return nil
}

// composition gathers the steps of a transaction.
type composition struct {
	steps []actors.Step
	guard *actors.Guard // of the transaction
	once  bool          // an operation has an idempotency key
}

func guardOf(g *quernv1.Guard) *actors.Guard {
	if g == nil {
		return nil
	}
	return &actors.Guard{Lock: g.GetLock(), Token: g.GetToken()}
}

func (c *composition) condition(condition *quernv1.TransactionCondition) bool {
	var step actors.Step
	switch q := condition.GetCondition().(type) {
	case *quernv1.TransactionCondition_Counter:
		step = actors.Step{Kind: Counter{}.Name(), Key: q.Counter.GetKey(), Command: q.Counter}
	case *quernv1.TransactionCondition_Map:
		step = actors.Step{Kind: Map{}.Name(), Key: q.Map.GetKey(), Command: q.Map}
	case *quernv1.TransactionCondition_Lock:
		step = actors.Step{Kind: Lock{}.Name(), Key: q.Lock.GetKey(), Command: q.Lock}
	default:
		return false
	}
	c.steps = append(c.steps, step)
	return true
}

// command is any request on a key.
type command interface {
	proto.Message
	GetKey() string
}

// write is any request that changes something.
type write interface {
	command
	GetIdempotencyKey() string
	GetGuard() *quernv1.Guard
}

// write adds an operation that changes something.
func (c *composition) write(kind string, q write, reply proto.Message) {
	guard := guardOf(q.GetGuard())
	if guard == nil {
		guard = c.guard
	}
	c.once = c.once || q.GetIdempotencyKey() != ""
	c.steps = append(c.steps, actors.Step{Kind: kind, Key: q.GetKey(), Guard: guard, Command: q, Reply: reply})
}

// read adds one that does not.
func (c *composition) read(kind string, q command, reply proto.Message) {
	c.steps = append(c.steps, actors.Step{Kind: kind, Key: q.GetKey(), Command: q, Reply: reply})
}

// counter adds an operation on a counter and puts its reply into the result; false where it is none.
func (c *composition) counter(operation *quernv1.TransactionOperation, r *quernv1.TransactionResult) bool {
	kind := Counter{}.Name()
	switch q := operation.GetOperation().(type) {
	case *quernv1.TransactionOperation_CounterAdd:
		a := &quernv1.CounterServiceAddResponse{}
		r.Result = &quernv1.TransactionResult_CounterAdd{CounterAdd: a}
		c.write(kind, q.CounterAdd, a)
	case *quernv1.TransactionOperation_CounterGet:
		a := &quernv1.CounterServiceGetResponse{}
		r.Result = &quernv1.TransactionResult_CounterGet{CounterGet: a}
		c.read(kind, q.CounterGet, a)
	case *quernv1.TransactionOperation_CounterSet:
		a := &quernv1.CounterServiceSetResponse{}
		r.Result = &quernv1.TransactionResult_CounterSet{CounterSet: a}
		c.write(kind, q.CounterSet, a)
	case *quernv1.TransactionOperation_CounterGetAndSet:
		a := &quernv1.CounterServiceGetAndSetResponse{}
		r.Result = &quernv1.TransactionResult_CounterGetAndSet{CounterGetAndSet: a}
		c.write(kind, q.CounterGetAndSet, a)
	case *quernv1.TransactionOperation_CounterCompareAndSet:
		a := &quernv1.CounterServiceCompareAndSetResponse{}
		r.Result = &quernv1.TransactionResult_CounterCompareAndSet{CounterCompareAndSet: a}
		c.write(kind, q.CounterCompareAndSet, a)
	case *quernv1.TransactionOperation_CounterReset:
		a := &quernv1.CounterServiceResetResponse{}
		r.Result = &quernv1.TransactionResult_CounterReset{CounterReset: a}
		c.write(kind, q.CounterReset, a)
	case *quernv1.TransactionOperation_CounterExpire:
		a := &quernv1.CounterServiceExpireResponse{}
		r.Result = &quernv1.TransactionResult_CounterExpire{CounterExpire: a}
		c.write(kind, q.CounterExpire, a)
	default:
		return false
	}
	return true
}

// entry adds an operation on a map entry and puts its reply into the result; false where it is none.
func (c *composition) entry(operation *quernv1.TransactionOperation, r *quernv1.TransactionResult) bool {
	kind := Map{}.Name()
	switch q := operation.GetOperation().(type) {
	case *quernv1.TransactionOperation_MapPut:
		a := &quernv1.MapServicePutResponse{}
		r.Result = &quernv1.TransactionResult_MapPut{MapPut: a}
		c.write(kind, q.MapPut, a)
	case *quernv1.TransactionOperation_MapGet:
		a := &quernv1.MapServiceGetResponse{}
		r.Result = &quernv1.TransactionResult_MapGet{MapGet: a}
		c.read(kind, q.MapGet, a)
	case *quernv1.TransactionOperation_MapDelete:
		a := &quernv1.MapServiceDeleteResponse{}
		r.Result = &quernv1.TransactionResult_MapDelete{MapDelete: a}
		c.write(kind, q.MapDelete, a)
	case *quernv1.TransactionOperation_MapCompareAndSwap:
		a := &quernv1.MapServiceCompareAndSwapResponse{}
		r.Result = &quernv1.TransactionResult_MapCompareAndSwap{MapCompareAndSwap: a}
		c.write(kind, q.MapCompareAndSwap, a)
	default:
		return false
	}
	return true
}

// stateless is the state of a transaction's grain: none.
type stateless struct{}

// Apply implements actors.State. The shard runs the steps instead.
func (stateless) Apply(*actors.Turn, proto.Message, proto.Message) (bool, error) {
	return false, failure.New(failure.UnknownMethod, "a transaction runs its steps alone")
}

// Assign implements actors.State.
func (stateless) Assign(actors.State) {}

// Due implements actors.State.
func (stateless) Due() int64 { return 0 }

// Append implements actors.State.
func (stateless) Append(b []byte) ([]byte, error) { return b, nil }

// Decode implements actors.State. There is no record.
func (stateless) Decode([]byte) error { return nil }
