package client

import (
	"cmp"
	"context"
	"slices"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// many splits a bulk add by shard, since sessions number the operations of one
// shard, and puts the answers together again.
func (c *Client) many(ctx context.Context, op *handles.Operation) error {
	in, ok := op.Request.(*quernv1.CounterServiceAddManyRequest)
	out, okay := op.Reply.(*quernv1.CounterServiceAddManyResponse)
	switch {
	case !ok || !okay:
		return failure.New(failure.UnknownMethod, "%T and %T are no bulk add", op.Request, op.Reply)
	case len(in.GetDeltas()) != 0 && len(in.GetDeltas()) != len(in.GetKeys()):
		return failure.New(failure.InvalidField, "%d deltas for %d keys; give one for each, or none", len(in.GetDeltas()), len(in.GetKeys()))
	case len(in.GetKeys()) > handles.MaxManyKeys:
		return failure.New(failure.InvalidField, "%d keys are too many, at most %d are taken", len(in.GetKeys()), handles.MaxManyKeys)
	case len(in.GetKeys()) == 0:
		return nil
	case ctx.Err() != nil:
		return contextEnded(ctx.Err())
	}
	s := split(in, out, c.engine.shards)
	if len(s.parts) > 0 {
		c.engine.runParts(ctx, op, s)
	}
	out.Failures = append(out.Failures, s.failures...)
	slices.SortFunc(out.Failures, func(a, b *quernv1.AddManyFailure) int { return cmp.Compare(a.GetIndex(), b.GetIndex()) })
	op.Origin = handles.Origin{}
	s.free()
	return nil
}

// runParts is run for the parts of a bulk add.
func (e *engine) runParts(ctx context.Context, op *handles.Operation, s *splitting) {
	b := e.batches.get(len(s.parts))
	for i := range b.calls {
		c := &b.calls[i]
		c.op, c.part, c.shard = op, &s.parts[i], s.parts[i].shard
	}
	e.carryOut(ctx, b)
	for i := range b.calls {
		if err := b.calls[i].err; err != nil {
			s.parts[i].fail(err)
		}
	}
	e.batches.put(b)
}

// repeats reports whether the call has an idempotency key.
func (c *call) repeats() bool {
	return c.op.IdempotencyKey != "" || c.part != nil && c.part.all.in.GetIdempotencyKey() != ""
}
