package client

import (
	"context"
	"errors"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
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
	s := split(in, c.engine.shards)
	c.engine.run(ctx, s.ops)
	out.Values = make([]int64, len(in.GetKeys()))
	for i := range s.parts {
		s.parts[i].gather(out)
	}
	op.Origin = handles.Origin{}
	return nil
}

// splitting is a bulk add, shard by shard.
type splitting struct {
	parts []part
	ops   []*handles.Operation
}

// part is what goes to one shard.
type part struct {
	op      handles.Operation
	request quernv1.CounterServiceAddManyRequest
	reply   quernv1.CounterServiceAddManyResponse
	places  []int32 // of the keys in the whole
}

// split sorts the keys by shard, each shard's in their order.
func split(in *quernv1.CounterServiceAddManyRequest, shards uint32) *splitting {
	keys := in.GetKeys()
	of := make([]uint32, len(keys))
	counts := make([]int32, shards)
	used := 0
	for i, key := range keys {
		of[i] = keyspace.Shard(key, shards)
		if counts[of[i]]++; counts[of[i]] == 1 {
			used++
		}
	}
	s := &splitting{parts: make([]part, used), ops: make([]*handles.Operation, used)}
	sorted, places, deltas := make([]string, 0, len(keys)), make([]int32, 0, len(keys)), make([]int64, 0, len(in.GetDeltas()))
	// counts becomes the number of each shard's part.
	n := int32(0)
	at := 0
	for shard, count := range counts {
		if count == 0 {
			continue
		}
		p := &s.parts[n]
		end := at + int(count)
		p.request.Keys, p.places = sorted[at:at:end], places[at:at:end]
		if len(in.GetDeltas()) > 0 {
			p.request.Deltas = deltas[at:at:end]
		}
		p.request.IdempotencyKey, p.request.Guard = in.GetIdempotencyKey(), in.GetGuard()
		p.op = handles.Operation{Method: handles.CounterAddMany, IdempotencyKey: in.GetIdempotencyKey(), Request: &p.request, Reply: &p.reply}
		s.ops[n], counts[shard], at = &p.op, n, end
		n++
	}
	for i, key := range keys {
		p := &s.parts[counts[of[i]]]
		p.request.Keys, p.places = append(p.request.Keys, key), append(p.places, int32(i))
		if len(in.GetDeltas()) > 0 {
			p.request.Deltas = append(p.request.Deltas, in.GetDeltas()[i])
		}
	}
	return s
}

// gather puts the part's answers into their places.
func (p *part) gather(out *quernv1.CounterServiceAddManyResponse) {
	err := p.op.Err
	if err == nil && len(p.reply.GetValues()) != len(p.places) {
		err = failure.New(failure.OutcomeUnknown, "%d values came back for %d keys", len(p.reply.GetValues()), len(p.places))
	}
	if err != nil {
		for _, place := range p.places {
			out.Failures = append(out.Failures, failureAt(place, err))
		}
		return
	}
	for i, place := range p.places {
		out.Values[place] = p.reply.GetValues()[i]
	}
	for _, f := range p.reply.GetFailures() {
		if int(f.GetIndex()) < len(p.places) {
			f.Index = uint32(p.places[f.GetIndex()]) //nolint:gosec // not negative
			out.Failures = append(out.Failures, f)
		}
	}
}

func failureAt(place int32, err error) *quernv1.AddManyFailure {
	f := &quernv1.AddManyFailure{Index: uint32(place), Message: err.Error(), Unknown: failure.OutcomeOf(err) == failure.Unknown} //nolint:gosec // not negative
	if e, ok := errors.AsType[*failure.Error](err); ok {
		f.Reason, f.Message = e.Reason.String(), e.Message
	}
	return f
}
