package actors

import (
	"errors"
	"log/slog"

	"github.com/quern-io/quern/failure"
)

// gate is the output gate of a shard. Turns run ahead of the disk; what they
// say waits here. There are at most two generations: what flies in the commit
// under way, and what has become dirty since that was cut.
type gate struct {
	dirtyGrains []*grain
	dirtyCalls  callList
	// deletions are stray records, to go with the next commit.
	deletions [][]byte

	inFlight     bool
	flight       *flight
	flyingGrains []*grain
	flyingCalls  callList
}

// flight is a commit of one shard on its way. At most one is under way; it
// belongs to the shard's turn, but for the time between the committer's enqueue
// and the verdict.
type flight struct {
	shard      *shard
	activation uint64
	batch      Batch
	arena      []byte // what the records' keys and values point into
	verdict    Verdict
	land       func() // posted with the verdict
}

func (g *gate) reset() {
	// The flight may still be at the committer: it is left to it.
	*g = gate{}
}

// keptArena is the largest buffer that a shard keeps for its next commit.
const keptArena = 1 << 20

// cut hands the dirty states to the committer. It is called between turns.
func (s *shard) cut() {
	g := &s.gate
	if g.inFlight || len(g.dirtyGrains) == 0 && len(g.deletions) == 0 {
		return
	}
	f := g.flight
	if f == nil || cap(f.arena) > keptArena {
		f = &flight{shard: s}
		f.land = func() { s.settle(f) }
		g.flight = f
	}
	f.activation = s.activation
	f.batch = Batch{Shard: s.id, Epoch: s.epoch.Load(), Time: s.now(), Records: f.batch.Records[:0]}
	f.arena = f.arena[:0]
	for _, grain := range g.dirtyGrains {
		if err := s.encode(f, grain); err != nil {
			s.rt.log.Error("state does not encode", slog.String("kind", grain.kind.kind.Name()),
				slog.Any("shard", s.id), slog.Any("err", err))
			s.rollback(failure.Wrap(err, failure.HandlerFailed, "a state of the shard does not encode; nothing was changed"))
			return
		}
		grain.flags = grain.flags&^dirty | flying
	}
	for _, key := range g.deletions {
		f.batch.Records = append(f.batch.Records, Record{Key: key, Delete: true})
	}
	g.deletions = nil
	g.flyingGrains, g.dirtyGrains = g.dirtyGrains, g.flyingGrains[:0]
	g.flyingCalls = g.dirtyCalls.take()
	g.inFlight = true
	s.rt.committer.enqueue(f)
}

// encode appends the records of one grain to the flight.
func (s *shard) encode(f *flight, g *grain) error {
	name := g.kind.kind.Name()
	start := len(f.arena)
	f.arena = appendStateKey(f.arena, name, g.key)
	middle := len(f.arena)
	var err error
	if f.arena, err = g.state.Append(f.arena); err != nil {
		return err
	}
	f.batch.Records = append(f.batch.Records, Record{
		Key:    f.arena[start:middle:middle],
		Value:  f.arena[middle:len(f.arena):len(f.arena)],
		Delete: middle == len(f.arena),
	})
	s.encodeTimer(f, g, tableState, &g.timer, g.state.Due())
	if t := g.once(); t != nil {
		return s.encodeOnce(f, g, t)
	}
	return nil
}

// add appends a record whose key and value end the arena.
func (f *flight) add(keyStart, valueStart int, remove bool) {
	end := len(f.arena)
	f.batch.Records = append(f.batch.Records, Record{
		Key: f.arena[keyStart:valueStart:valueStart], Value: f.arena[valueStart:end:end], Delete: remove,
	})
}

// settle takes the verdict of a commit.
func (s *shard) settle(f *flight) {
	if f.activation != s.activation || f != s.gate.flight {
		return
	}
	g := &s.gate
	g.inFlight = false
	switch f.verdict.Status {
	case Done:
		for i, grain := range g.flyingGrains {
			grain.clear(flying)
			g.flyingGrains[i] = nil
		}
		g.flyingGrains = g.flyingGrains[:0]
		calls := g.flyingCalls.take()
		s.waiting -= calls.n
		for c := calls.pop(); c != nil; c = calls.pop() {
			c.complete(c.err)
		}
	case Refused:
		s.rollback(refusal(f.verdict.Err))
	case Fenced:
		s.lose()
	case Unclear:
		s.rt.log.Warn("commit outcome unknown; the shard reloads", slog.Any("shard", s.id), slog.Any("err", f.verdict.Err))
		s.reload(failure.Wrap(f.verdict.Err, failure.OutcomeUnknown, "the commit failed half way; the operation perhaps happened"))
	}
}

// rollback undoes everything that is not durable: nothing of it was written.
// The states are read again when they are needed.
func (s *shard) rollback(err error) {
	g := &s.gate
	for _, grains := range [][]*grain{g.flyingGrains, g.dirtyGrains} {
		for i, grain := range grains {
			if !grain.is(dropped) {
				s.dropGrain(grain)
			}
			grains[i] = nil
		}
	}
	g.flyingGrains, g.dirtyGrains, g.inFlight = g.flyingGrains[:0], g.dirtyGrains[:0], false
	s.failAll(&g.flyingCalls, err)
	s.failAll(&g.dirtyCalls, err)
}

// dropGrain forgets a grain. Its parked calls look for it again.
func (s *shard) dropGrain(g *grain) {
	s.residents.drop(g)
	if g.extra == nil {
		return
	}
	parked := g.extra.parked.take()
	s.waiting -= parked.n
	for c := parked.pop(); c != nil; c = parked.pop() {
		s.handle(c)
	}
}

// refusal turns a store's refusal into the answer of the operations that it
// hit.
func refusal(err error) error {
	if known, ok := errors.AsType[*failure.Error](err); ok {
		return known
	}
	return failure.Wrap(err, failure.Overloaded, "the store refused the write: %v", err).After(refusedRetryAfter)
}
