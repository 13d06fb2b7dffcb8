package handles

import (
	"context"

	"google.golang.org/protobuf/proto"
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
