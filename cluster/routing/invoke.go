package routing

import (
	"context"
	"errors"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
)

// invocation is an operation that somebody waits for.
type invocation struct {
	task task
	op   handles.Operation // the caller's own may be used again when it has left
	err  error
	over chan struct{}
}

// Completed implements handles.Completer.
func (i *invocation) Completed(epoch uint64, err error) {
	i.op.Origin.Epoch, i.err = epoch, err
	close(i.over)
}

// forward runs an operation that is not of this node, or was not just now, where
// refused says why.
func (r *Router) forward(ctx context.Context, op *handles.Operation, shard uint32, refused error) error {
	if err := keyspace.Check(op.Key); err != nil {
		return err //nolint:wrapcheck // a *failure.Error
	}
	if err := ctx.Err(); err != nil {
		return gaveUp(ctx)
	}
	if r.noWaits.Load() && op.MayWait() {
		return errStopping
	}
	i := &invocation{op: *op, over: make(chan struct{})}
	i.op.Placed, i.op.Origin, i.op.Passage = true, handles.Origin{Shard: shard}, nil
	t := &i.task
	t.router, t.op, t.shard, t.done, t.keep, t.wait = r, &i.op, shard, i, true, new(waiting)
	t.deadline, _ = ctx.Deadline()
	if refused != nil {
		t.refused(r, r.self, refused)
		r.keep(t)
	} else {
		r.pass(t)
	}
	select {
	case <-i.over:
	case <-ctx.Done():
		t.cancel(true)
		op.Origin = handles.Origin{Shard: shard}
		return gaveUp(ctx)
	}
	op.Origin = i.op.Origin
	return i.err
}

// gaveUp is the error of an operation whose caller stopped waiting.
func gaveUp(ctx context.Context) error {
	err := ctx.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		return failure.Wrap(err, failure.DeadlineExceeded, "the deadline passed before the answer; the operation perhaps happened")
	}
	return failure.Wrap(err, failure.Canceled, "the caller gave up before the answer; the operation perhaps happened")
}

// InvokeAll implements handles.Batcher.
func (r *Router) InvokeAll(ctx context.Context, ops []*handles.Operation) {
	if all, ok := r.local.(handles.Batcher); ok && r.allHere(ops) {
		all.InvokeAll(ctx, ops)
		return
	}
	each := func(ctx context.Context, op *handles.Operation) error { return r.Invoke(ctx, op) }
	handles.InvokeAll(ctx, invoker(each), ops)
}

// invoker makes each operation a call of its own.
type invoker func(context.Context, *handles.Operation) error

// Invoke implements handles.Invoker.
func (f invoker) Invoke(ctx context.Context, op *handles.Operation) error { return f(ctx, op) }

func (r *Router) allHere(ops []*handles.Operation) bool {
	for _, op := range ops {
		if op.Method.Many || !r.here(keyspace.Shard(op.Key, r.shards)) {
			return false
		}
	}
	return true
}
