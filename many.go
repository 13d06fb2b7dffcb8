package quern

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// addMany runs the adds of a bulk call side by side.
func (n *Node) addMany(ctx context.Context, op *handles.Operation) error {
	in, out, err := checkMany(op)
	if err != nil {
		return err
	}
	if in.GetIdempotencyKey() == "" {
		return n.addColumns(ctx, op, in, out)
	}
	k := newKeyed(in)
	n.InvokeAll(ctx, k.ops)
	k.assemble(out)
	return nil
}

// submitMany is addMany without waiting.
func (n *Node) submitMany(op *handles.Operation, deadline time.Time, done handles.Completer) {
	in, out, err := checkMany(op)
	switch {
	case err != nil:
		done.Completed(0, err)
	case in.GetIdempotencyKey() == "":
		n.submitColumns(op, in, deadline, done)
	default:
		k := newKeyed(in)
		k.out, k.done = out, done
		k.left.Store(int32(len(k.adds)) + 1) //nolint:gosec // at most MaxManyKeys
		begun := 0
		defer func() {
			for ; begun < len(k.adds); begun++ { // the goroutine was ended
				k.adds[begun].Completed(0, errCutOff)
			}
			k.arrive()
		}()
		for begun < len(k.adds) {
			begun++
			n.Submit(k.ops[begun-1], deadline, &k.adds[begun-1])
		}
	}
}

// keyed is a bulk add under an idempotency key, which counts for each counter by
// itself: there is an operation for each.
type keyed struct {
	adds []keyedAdd
	ops  []*handles.Operation
	out  *quernv1.CounterServiceAddManyResponse
	done handles.Completer
	left atomic.Int32 // adds without an end, and one for who submits them
}

type keyedAdd struct {
	all     *keyed
	op      handles.Operation
	request quernv1.CounterServiceAddRequest
	reply   quernv1.CounterServiceAddResponse
}

func newKeyed(in *quernv1.CounterServiceAddManyRequest) *keyed {
	k := &keyed{adds: make([]keyedAdd, len(in.GetKeys())), ops: make([]*handles.Operation, len(in.GetKeys()))}
	for i, key := range in.GetKeys() {
		a := &k.adds[i]
		a.all, a.request.Key, a.request.IdempotencyKey = k, key, in.GetIdempotencyKey()
		if deltas := in.GetDeltas(); deltas != nil {
			a.request.Delta = &deltas[i]
		}
		a.request.Guard = in.GetGuard()
		a.op = handles.Operation{
			Method: handles.CounterAdd, Key: key, IdempotencyKey: in.GetIdempotencyKey(),
			Request: &a.request, Reply: &a.reply,
		}
		k.ops[i] = &a.op
	}
	return k
}

// Completed implements handles.Completer.
func (a *keyedAdd) Completed(_ uint64, err error) {
	a.op.Err = err
	a.all.arrive()
}

func (k *keyed) arrive() {
	if k.left.Add(-1) == 0 {
		k.assemble(k.out)
		k.done.Completed(0, nil)
	}
}

// assemble puts the answers into the reply.
func (k *keyed) assemble(out *quernv1.CounterServiceAddManyResponse) {
	out.Values = make([]int64, len(k.adds))
	for i := range k.adds {
		if err := k.adds[i].op.Err; err != nil {
			out.Failures = append(out.Failures, handles.AddFailure(i, err))
			continue
		}
		out.Values[i] = k.adds[i].reply.GetValue()
	}
}

// checkMany returns the messages of a bulk add, or says what is wrong with it.
func checkMany(op *handles.Operation) (*quernv1.CounterServiceAddManyRequest, *quernv1.CounterServiceAddManyResponse, error) {
	in, ok := op.Request.(*quernv1.CounterServiceAddManyRequest)
	out, okay := op.Reply.(*quernv1.CounterServiceAddManyResponse)
	if !ok || !okay {
		return nil, nil, failure.New(failure.UnknownMethod, "%T and %T are no bulk add", op.Request, op.Reply)
	}
	if op.Session.ID != "" && in.GetIdempotencyKey() != "" {
		return nil, nil, failure.New(failure.InvalidField, "the operation has a session and an idempotency key; give one of them")
	}
	return in, out, checkKeys(in)
}

func checkKeys(in *quernv1.CounterServiceAddManyRequest) error {
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

// InvokeAll implements handles.Batcher.
func (n *Node) InvokeAll(ctx context.Context, ops []*handles.Operation) {
	if n.member != nil {
		handles.InvokeAll(ctx, n.member.router, ops)
		return
	}
	deadline, _ := ctx.Deadline()
	all := actors.NewWaiter(len(ops))
	var waits []func(final bool)
	for i, op := range ops {
		if ctx.Err() != nil || op.Method.Many {
			all.For(i).Completed(0, n.Invoke(ctx, op))
			continue
		}
		if op.Method.Waits {
			waits = append(waits, n.SubmitWait(op, deadline, all.For(i)))
			continue
		}
		n.Submit(op, deadline, all.For(i))
	}
	if left := all.Wait(ctx); left {
		for _, cancel := range waits {
			cancel(true)
		}
	}
	for i, op := range ops {
		epoch, err := all.Answer(i)
		if !op.Method.Many {
			op.Origin.Epoch = epoch
		}
		op.Err = err
	}
}
