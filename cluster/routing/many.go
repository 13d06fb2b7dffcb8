package routing

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/fastproto"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// A bulk add whose keys are of several nodes is taken apart by shards; each part
// goes its own way.

// whole reports whether a bulk add can go one way as it is: the keys of a numbered
// one are of one shard, which its owner checks, and what nobody understands is
// refused by this node.
func (r *Router) whole(op *handles.Operation) bool {
	in, ok := op.Request.(*quernv1.CounterServiceAddManyRequest)
	if !ok || op.Session.ID != "" || len(in.GetKeys()) == 0 {
		return true
	}
	_, okay := op.Reply.(*quernv1.CounterServiceAddManyResponse)
	if !okay || in.GetDeltas() != nil && len(in.GetDeltas()) != len(in.GetKeys()) || len(in.GetKeys()) > handles.MaxManyKeys {
		return true
	}
	first, here, one := keyspace.Shard(in.GetKeys()[0], r.shards), true, true
	for _, key := range in.GetKeys() {
		shard := keyspace.Shard(key, r.shards)
		one = one && shard == first
		here = here && r.here(shard)
		if !one && !here {
			return false
		}
	}
	return true
}

// invokeMany runs a bulk add and waits for it.
func (r *Router) invokeMany(ctx context.Context, op *handles.Operation) error {
	whole, shard := r.whole(op), r.shardOf(op)
	var refused error
	if whole && r.here(shard) {
		if refused = r.local.Invoke(ctx, op); refused == nil || !elsewhere(refused) {
			return refused //nolint:wrapcheck // a *failure.Error
		}
	}
	if ctx.Err() != nil {
		return gaveUp(ctx)
	}
	i := &invocation{op: *op, over: make(chan struct{})}
	i.op.Placed, i.op.Passage = false, nil
	deadline, _ := ctx.Deadline()
	if whole {
		r.begin(r.newTask(&i.op, shard, deadline, i), refused) //nolint:contextcheck // as in forward
	} else {
		r.submitMany(&i.op, deadline, i) //nolint:contextcheck // as in forward
	}
	select {
	case <-i.over:
	case <-ctx.Done():
		return gaveUp(ctx)
	}
	op.Origin = i.op.Origin
	return i.err
}

// splitting is a bulk add by shards.
type splitting struct {
	router *Router
	op     *handles.Operation
	done   handles.Completer
	parts  []*part
	left   atomic.Int32 // parts without an end
}

// part is what goes to one shard.
type part struct {
	of      *splitting
	op      handles.Operation
	request quernv1.CounterServiceAddManyRequest
	reply   quernv1.CounterServiceAddManyResponse
	places  []int32 // of the keys in the whole
}

// submitMany runs the parts of a bulk add.
func (r *Router) submitMany(op *handles.Operation, deadline time.Time, done handles.Completer) {
	in := op.Request.(*quernv1.CounterServiceAddManyRequest) //nolint:errcheck,forcetypeassert // whole has looked
	op.Origin = handles.Origin{Node: r.self}
	s := &splitting{router: r, op: op, done: done}
	if p := op.Passage; p != nil {
		p.Request, p.Routed = nil, true
	}
	byShard := make(map[uint32]*part)
	for i, key := range in.GetKeys() {
		shard := keyspace.Shard(key, r.shards)
		p := byShard[shard]
		if p == nil {
			p = s.part(in, shard)
			byShard[shard] = p
		}
		p.request.Keys, p.places = append(p.request.Keys, key), append(p.places, int32(i))
		if in.GetDeltas() != nil {
			p.request.Deltas = append(p.request.Deltas, in.GetDeltas()[i])
		}
	}
	s.left.Store(int32(len(s.parts))) //nolint:gosec // as many as shards
	parts := s.parts                  // done may come before the last was begun
	for _, p := range parts {
		r.begin(r.newTask(&p.op, p.op.Origin.Shard, deadline, p), nil)
	}
}

func (s *splitting) part(in *quernv1.CounterServiceAddManyRequest, shard uint32) *part {
	p := &part{of: s}
	p.request.IdempotencyKey, p.request.Guard = in.GetIdempotencyKey(), in.GetGuard()
	p.op = handles.Operation{
		Method: handles.CounterAddMany, IdempotencyKey: in.GetIdempotencyKey(), Request: &p.request, Reply: &p.reply,
		Placed: true, Origin: handles.Origin{Shard: shard},
	}
	if from := s.op.Passage; from != nil && from.Hops > 0 {
		p.op.Passage = &handles.Passage{Hops: from.Hops}
	}
	s.parts = append(s.parts, p)
	return p
}

// Completed implements handles.Completer.
func (p *part) Completed(_ uint64, err error) {
	if from := p.op.Passage; err == nil && from != nil && from.Reply != nil {
		if broken := fastproto.Unmarshal(from.Reply, &p.reply, nil); broken != nil {
			err = failure.Wrap(broken, failure.OutcomeUnknown, "the reply does not decode: %v", broken)
		}
	}
	p.op.Err = err
	s := p.of
	if s.left.Add(-1) != 0 {
		return
	}
	out := s.op.Reply.(*quernv1.CounterServiceAddManyResponse) //nolint:errcheck,forcetypeassert // whole has looked
	keys := 0
	for _, p := range s.parts {
		keys += len(p.places)
	}
	out.Values = make([]int64, keys)
	for _, p := range s.parts {
		p.gather(out)
	}
	slices.SortFunc(out.Failures, func(a, b *quernv1.AddManyFailure) int { return cmp.Compare(a.GetIndex(), b.GetIndex()) })
	s.done.Completed(0, nil)
}

// gather puts the part's answers into their places.
func (p *part) gather(out *quernv1.CounterServiceAddManyResponse) {
	err := p.op.Err
	if err == nil && len(p.reply.GetValues()) != len(p.places) {
		err = failure.New(failure.OutcomeUnknown, "%d values came back for %d keys", len(p.reply.GetValues()), len(p.places))
	}
	for i, place := range p.places {
		if err == nil {
			out.Values[place] = p.reply.GetValues()[i]
			continue
		}
		out.Failures = append(out.Failures, handles.AddFailure(int(place), err))
	}
	if err != nil {
		return
	}
	for _, f := range p.reply.GetFailures() {
		if int(f.GetIndex()) < len(p.places) {
			f.Index = uint32(p.places[f.GetIndex()]) //nolint:gosec // not negative
			out.Failures = append(out.Failures, f)
		}
	}
}
