package routing

import (
	"context"
	"errors"
	"sync"

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
		r.pass(t) //nolint:contextcheck // streams outlive their first operation
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
	g := &gathering{items: make([]gatheredOp, len(ops)), over: make(chan struct{})}
	g.left = len(ops) + 1
	deadline, _ := ctx.Deadline()
	for i, op := range ops {
		item := &g.items[i]
		item.of, item.op = g, *op
		item.op.Placed, item.op.Passage = false, nil
		if op.Method.Waits || op.Method.Many || ctx.Err() != nil {
			go func() { item.ended(r.Invoke(ctx, &item.op)) }()
			continue
		}
		item.op.Placed = true
		r.begin(r.newTask(&item.op, keyspace.Shard(op.Key, r.shards), deadline, item), nil) //nolint:contextcheck // as in forward
	}
	g.arrive()
	select {
	case <-g.over:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, op := range ops {
		item := &g.items[i]
		if !item.done {
			op.Err = gaveUp(ctx)
			continue
		}
		op.Origin, op.Err = item.op.Origin, item.err
	}
}

// gathering is what InvokeAll waits for. It may be left behind.
type gathering struct {
	items []gatheredOp
	over  chan struct{} // closed when all are answered

	mu   sync.Mutex // guards what follows, and done and err of the items
	left int        // items that are not answered, and one for InvokeAll
}

// gatheredOp is one of its operations: the caller's own may be used again when it has
// left.
type gatheredOp struct {
	of   *gathering
	op   handles.Operation
	done bool
	err  error
}

// Completed implements handles.Completer.
func (i *gatheredOp) Completed(epoch uint64, err error) {
	i.op.Origin.Epoch = epoch
	i.ended(err)
}

func (i *gatheredOp) ended(err error) {
	i.of.mu.Lock()
	i.done, i.err = true, err
	i.of.mu.Unlock()
	i.of.arrive()
}

func (g *gathering) arrive() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left--; g.left == 0 {
		close(g.over)
	}
}
