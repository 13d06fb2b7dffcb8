package handles

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// message is a pointer to a generated message of type T.
type message[T any] interface {
	*T
	proto.Message
	Reset()
}

// call is an operation together with the messages that it points to, so that
// one pooled object serves a whole call.
type call[Q, R any] struct {
	op      Operation
	request Q
	reply   R
	// What the optional fields of a request point to: the caller's own
	// variables may change while the shard still reads them.
	delta, low, high int64
	lock             *durations // nil until a lock's messages need them
}

// durations are what the messages of a lock's method point to. They are kept
// with them from call to call.
type durations struct{ ttl, wait, told durationpb.Duration }

func (c *call[Q, R]) durations() *durations {
	if c.lock == nil {
		c.lock = new(durations)
	}
	return c.lock
}

// put sets a duration in place and returns it.
func put(d *durationpb.Duration, v time.Duration) *durationpb.Duration {
	d.Seconds, d.Nanos = int64(v/time.Second), int32(v%time.Second)
	return d
}

// pool hands out calls of one method. Its owner is the method's variable.
type pool[Q, R any, PQ message[Q], PR message[R]] struct {
	method *Method
	calls  sync.Pool
}

// get returns a call with empty messages, addressed to a grain.
func (p *pool[Q, R, PQ, PR]) get(key, once string) *call[Q, R] {
	c, ok := p.calls.Get().(*call[Q, R])
	if !ok {
		c = new(call[Q, R])
		c.op.Method = p.method
		c.op.Request = PQ(&c.request)
		c.op.Reply = PR(&c.reply)
	}
	c.op.Key, c.op.IdempotencyKey, c.op.Origin, c.op.Err = key, once, Origin{}, nil
	PQ(&c.request).Reset()
	PR(&c.reply).Reset()
	return c
}

// put takes an answered call back. A call that failed is not put back: the
// shard may still be using its messages.
func (p *pool[Q, R, PQ, PR]) put(c *call[Q, R]) { p.calls.Put(c) }

func (c *call[Q, R]) invoke(ctx context.Context, to Invoker) error {
	return to.Invoke(ctx, &c.op)
}
