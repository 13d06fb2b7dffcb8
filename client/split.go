package client

import (
	"fmt"
	"slices"
	"sync"

	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/fastproto"
	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// splitting is a bulk add, shard by shard. The caller has it while nothing is
// under way; between, its parts belong to the engine's lock.
type splitting struct {
	in  *quernv1.CounterServiceAddManyRequest
	out *quernv1.CounterServiceAddManyResponse
	// plain: it has neither an idempotency key nor a guard, so that its parts
	// can be those of a column.
	plain bool
	parts []part
	// order holds the places of the keys in the whole, those of a shard
	// together and as they came.
	order    []int32
	shards   []uint32 // of each key
	counts   []int32  // by shard
	failures []*quernv1.AddManyFailure
}

// part is what goes to one shard.
type part struct {
	all      *splitting
	shard    uint32
	from, to int32 // in order
}

// noShard marks a key that is no key.
const noShard = ^uint32(0)

// splittings are used again. What they point to is not kept.
var splittings = sync.Pool{New: func() any { return new(splitting) }}

// split sorts the keys by shard, by counting. What is no key fails at once.
func split(in *quernv1.CounterServiceAddManyRequest, out *quernv1.CounterServiceAddManyResponse, shards uint32) *splitting {
	s, _ := splittings.Get().(*splitting)
	keys := in.GetKeys()
	s.in, s.out, s.plain = in, out, in.GetIdempotencyKey() == "" && in.GetGuard() == nil
	out.Values = slices.Grow(out.Values[:0], len(keys))[:len(keys)]
	clear(out.Values)
	s.order, s.shards = slices.Grow(s.order[:0], len(keys))[:len(keys)], slices.Grow(s.shards[:0], len(keys))[:len(keys)]
	s.counts = slices.Grow(s.counts[:0], int(shards))[:shards]
	clear(s.counts)
	for i, key := range keys {
		if err := keyspace.Check(key); err != nil {
			s.failures = append(s.failures, handles.AddFailure(i, err))
			s.shards[i] = noShard
			continue
		}
		shard := keyspace.Shard(key, shards)
		s.shards[i] = shard
		s.counts[shard]++
	}
	s.group()
	return s
}

// group makes the parts. counts becomes where the next key of each shard goes.
func (s *splitting) group() {
	at := int32(0)
	for shard, n := range s.counts {
		if n == 0 {
			continue
		}
		s.parts = append(s.parts, part{all: s, shard: uint32(shard), from: at, to: at + n})
		s.counts[shard] = at
		at += n
	}
	for i, shard := range s.shards {
		if shard != noShard {
			s.order[s.counts[shard]] = int32(i)
			s.counts[shard]++
		}
	}
}

// free gives the splitting back. Calls that were left behind do not look at their
// parts any more.
func (s *splitting) free() {
	clear(s.failures)
	s.in, s.out, s.parts, s.failures = nil, nil, s.parts[:0], s.failures[:0]
	splittings.Put(s)
}

func (p *part) len() int { return int(p.to - p.from) }

// places are those of the part's keys in the whole.
func (p *part) places() []int32 { return p.all.order[p.from:p.to] }

// Bounds of what a part takes in a column for itself, and for each key beside its
// text.
const (
	partHead = 40
	partKey  = 14
)

// size bounds what the part takes in a column.
func (p *part) size() int {
	n := partHead + partKey*p.len()
	for _, place := range p.places() {
		n += len(p.all.in.Keys[place])
	}
	return n
}

// write puts the part's keys into a column.
func (p *part) write(w *frame.ColumnWriter) {
	keys, deltas := p.all.in.Keys, p.all.in.Deltas
	for _, place := range p.places() {
		w.Key(keys[place])
	}
	if len(deltas) == 0 {
		return
	}
	for _, place := range p.places() {
		w.Delta(deltas[place])
	}
}

// request is the part as an operation of its own, for a node that takes no
// columns, and for what columns do not carry.
func (p *part) request() *quernv1.CounterServiceAddManyRequest {
	in := p.all.in
	out := &quernv1.CounterServiceAddManyRequest{IdempotencyKey: in.GetIdempotencyKey(), Guard: in.GetGuard()}
	for _, place := range p.places() {
		out.Keys = append(out.Keys, in.GetKeys()[place])
		if len(in.GetDeltas()) > 0 {
			out.Deltas = append(out.Deltas, in.GetDeltas()[place])
		}
	}
	return out
}

// fill puts the encoded answers into their places in the whole.
func (p *part) fill(reply []byte) error {
	values, plain := fastproto.PlainValues(reply)
	if !plain {
		return p.fillFailures(reply)
	}
	for i, place := range p.places() {
		v, n := fastproto.NextValue(values)
		if n < 0 {
			return p.short(i)
		}
		p.all.out.Values[place], values = v, values[n:]
	}
	if len(values) > 0 {
		return p.short(p.len() + 1)
	}
	return nil
}

// short is the error of an answer that has not as many values as there are keys.
func (p *part) short(values int) error {
	return fmt.Errorf("client: %d values or more came back for %d keys", values, p.len())
}

// fillFailures is fill for answers that have failures.
func (p *part) fillFailures(reply []byte) error {
	var r quernv1.CounterServiceAddManyResponse
	if err := fastproto.Unmarshal(reply, &r, nil); err != nil {
		return err //nolint:wrapcheck // explained by its caller
	}
	if len(r.GetValues()) != p.len() {
		return p.short(len(r.GetValues()))
	}
	for i, place := range p.places() {
		p.all.out.Values[place] = r.GetValues()[i]
	}
	for _, f := range r.GetFailures() {
		if int(f.GetIndex()) < p.len() {
			f.Index = uint32(p.places()[f.GetIndex()]) //nolint:gosec // not negative
			p.all.failures = append(p.all.failures, f)
		}
	}
	return nil
}

// fail says why none of the part's keys has an answer.
func (p *part) fail(err error) {
	for _, place := range p.places() {
		p.all.out.Values[place] = 0
		p.all.failures = append(p.all.failures, handles.AddFailure(int(place), err))
	}
}
