package handles

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Invoker runs operations on grains. Implementations are safe for concurrent
// use.
type Invoker interface {
	// Invoke runs op and returns when its reply is filled in and durable, or
	// with an error, which is a *failure.Error or the context's. After an
	// error Request and Reply may still be in use and must not be touched
	// again; after nil they belong to the caller.
	Invoke(ctx context.Context, op *Operation) error
}

// Batcher is an Invoker that takes many operations in one call.
type Batcher interface {
	Invoker
	// InvokeAll runs operations side by side, in no order, and returns when
	// each has its reply, or an error in Err, as Invoke would have returned
	// it. It keeps ops no longer than that.
	InvokeAll(ctx context.Context, ops []*Operation)
}

// InvokeAll runs operations side by side, at once where to is a [Batcher],
// else with a goroutine each.
func InvokeAll(ctx context.Context, to Invoker, ops []*Operation) {
	if b, ok := to.(Batcher); ok {
		b.InvokeAll(ctx, ops)
		return
	}
	var all sync.WaitGroup
	for _, op := range ops {
		all.Go(func() { op.Err = to.Invoke(ctx, op) })
	}
	all.Wait()
}

// Submitter runs operations without a goroutine for each.
type Submitter interface {
	// Submit begins an operation and returns without waiting for its answer.
	// done is called once, perhaps before Submit returns, when the reply is
	// filled in and durable, or with an error; also where Submit panics, or
	// its goroutine is ended by a handler. Where deadline is not zero an
	// operation that had no turn until then is not done. op, its messages
	// and done belong to the operation until done is called.
	Submit(op *Operation, deadline time.Time, done Completer)
}

// Submission is an operation in a list; its fields are as of Submit.
type Submission struct {
	Op       Operation
	Deadline time.Time
	Done     Completer
	// Next is the operation after it, nil for the last one.
	Next *Submission
}

// ListSubmitter is a Submitter that takes many operations at once.
type ListSubmitter interface {
	Submitter
	// SubmitList submits operations in their order, all of which are Placed
	// on one shard. Next must not be looked at once an operation was begun.
	SubmitList(first *Submission)
}

// Completer takes the end of a submitted operation.
type Completer interface {
	// Completed is called on whatever goroutine ended the operation, which
	// works for others too: it must not block. epoch is the one of the
	// answer, 0 where it is not known; err is nil or a *failure.Error.
	Completed(epoch uint64, err error)
}

// Method names one method of one kind in every form that is needed on the way.
type Method struct {
	// Kind is the kind's name, such as counter.
	Kind string
	// Name is the method's name, such as Add.
	Name string
	// Procedure is the full name on the wire, such as
	// /quern.v1.CounterService/Add.
	Procedure string
	// Write says whether the method can change anything.
	Write bool
	// Waits says that an operation may be held back until others have done
	// something. In a session such operations have numbers of their own.
	Waits bool
	// Many says that the method works on many keys, each by itself. Its
	// operations have no Key.
	Many bool
}

// Operation is one call on one grain.
type Operation struct {
	Method *Method
	Key    string
	// IdempotencyKey is empty where a repeat counts again.
	IdempotencyKey string
	// Request is the method's request message, with the key and the
	// idempotency key set.
	Request proto.Message
	// Reply is the method's empty reply message, to be filled in.
	Reply proto.Message
	// Origin is filled in by Invoke, also when it fails, as far as known.
	Origin Origin
	// Placed says that Origin.Shard is the key's shard already, so that nobody
	// has to look for it again.
	Placed bool
	// Err is what InvokeAll has to say of this operation.
	Err error
	// Session, where not empty, numbers the operation in a session of the
	// key's shard: a repeat of a number gets the first answer.
	Session Session
	// Memo is of the session; it may be nil.
	Memo *Memo
	// Passage is set by those who took the operation from a network and can
	// pass on an answer as it comes; nil otherwise.
	Passage *Passage
}

// Passage is an operation in the form in which it travels, for those who pass it
// on to another node.
type Passage struct {
	// Request is the encoded request. It is good until Submit, SubmitList or
	// SubmitWait returns.
	Request []byte
	// Reply, where it is not nil, is the encoded reply, in place of the
	// operation's Reply. It is good until Completed returns.
	Reply []byte
	// Hops is how many nodes have passed the operation on.
	Hops uint32
	// Routed says that the operation was looked for elsewhere already: its end
	// is final.
	Routed bool
}

// MayWait reports whether the operation can be held back until others have done
// something: its method waits, and it asks to.
func (o *Operation) MayWait() bool {
	if !o.Method.Waits {
		return false
	}
	q, ok := o.Request.(interface{ GetWait() *durationpb.Duration })
	return ok && q.GetWait().AsDuration() > 0
}

// Session is an operation's place in a client's session at a shard. After
// RIFL: Lee et al., "Implementing Linearizability at Large Scale and Low
// Latency", SOSP 2015.
type Session struct {
	// ID is the 16 bytes that the shard gave; empty for no session.
	ID string
	// Number is the operation's, from 1 on.
	Number uint64
	// Settled: every number up to it is settled at the client.
	Settled uint64
	// Waits says that the operation may wait for others. Such operations have
	// numbers of their own.
	Waits bool
	// SettledOther is Settled of the other kind of numbers.
	SettledOther uint64
}

// Memo is what a shard remembers of one session between two operations that
// come the same way, so that it need not look for it again. Its zero value is
// ready. It belongs to the shard for as long as one of these operations is under
// way, and serves no other session.
type Memo struct {
	// Found is the shard's own.
	Found any
}

// Origin says who answered an operation.
type Origin struct {
	// Node is the name of the shard's owner; empty while unknown.
	Node string
	// Shard is the key's shard.
	Shard uint32
	// Epoch is the ownership under which the operation was answered.
	Epoch uint64
}
