package quern

import (
	"context"
	"errors"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// addMany runs the adds of a bulk call side by side.
func (n *Node) addMany(ctx context.Context, op *handles.Operation) error {
	in, ok := op.Request.(*quernv1.CounterServiceAddManyRequest)
	out, okay := op.Reply.(*quernv1.CounterServiceAddManyResponse)
	if !ok || !okay {
		return failure.New(failure.UnknownMethod, "%T and %T are no bulk add", op.Request, op.Reply)
	}
	if err := checkMany(in); err != nil {
		return err
	}
	adds := make([]*handles.Operation, len(in.GetKeys()))
	for i, key := range in.GetKeys() {
		q := &quernv1.CounterServiceAddRequest{Key: key, IdempotencyKey: in.GetIdempotencyKey()}
		if deltas := in.GetDeltas(); deltas != nil {
			q.Delta = &deltas[i]
		}
		adds[i] = &handles.Operation{
			Method: handles.CounterAdd, Key: key, IdempotencyKey: q.GetIdempotencyKey(),
			Request: q, Reply: &quernv1.CounterServiceAddResponse{},
		}
	}
	n.InvokeAll(ctx, adds)
	out.Values = make([]int64, len(adds))
	for i, add := range adds {
		if add.Err != nil {
			out.Failures = append(out.Failures, manyFailure(i, add.Err))
			continue
		}
		if r, ok := add.Reply.(*quernv1.CounterServiceAddResponse); ok {
			out.Values[i] = r.GetValue()
		}
	}
	return nil
}

// checkMany refuses what no shard should see.
func checkMany(in *quernv1.CounterServiceAddManyRequest) error {
	keys := in.GetKeys()
	switch {
	case len(keys) > handles.MaxManyKeys:
		return failure.New(failure.InvalidField, "%d keys are too many, at most %d are taken", len(keys), handles.MaxManyKeys)
	case in.GetDeltas() != nil && len(in.GetDeltas()) != len(keys):
		return failure.New(failure.InvalidField, "%d deltas for %d keys; give one for each, or none", len(in.GetDeltas()), len(keys))
	case in.GetIdempotencyKey() == "":
		return nil
	}
	seen := make(map[string]struct{}, len(keys))
	for _, key := range keys {
		if _, twice := seen[key]; twice {
			return failure.New(failure.InvalidField, "the key %q comes twice under one idempotency key", key)
		}
		seen[key] = struct{}{}
	}
	return nil
}

func manyFailure(i int, err error) *quernv1.AddManyFailure {
	f := &quernv1.AddManyFailure{Index: uint32(i), Message: err.Error(), Unknown: failure.OutcomeOf(err) == failure.Unknown} //nolint:gosec // at most MaxManyKeys
	if e, ok := errors.AsType[*failure.Error](err); ok {
		f.Reason, f.Message = e.Reason.String(), e.Message
	}
	return f
}

// InvokeAll implements handles.Batcher.
func (n *Node) InvokeAll(ctx context.Context, ops []*handles.Operation) {
	deadline, _ := ctx.Deadline()
	all := actors.NewWaiter(len(ops))
	for i, op := range ops {
		if ctx.Err() != nil || op.Method.Many {
			all.For(i).Completed(0, n.Invoke(ctx, op))
			continue
		}
		n.Submit(op, deadline, all.For(i))
	}
	all.Wait(ctx)
	for i, op := range ops {
		epoch, err := all.Answer(i)
		if !op.Method.Many {
			op.Origin.Epoch = epoch
		}
		op.Err = err
	}
}

// submitMany runs a bulk operation on a goroutine of its own.
func (n *Node) submitMany(op *handles.Operation, deadline time.Time, done handles.Completer) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if !deadline.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, deadline)
	}
	go func() {
		defer cancel()
		done.Completed(0, n.addMany(ctx, op))
	}()
}
