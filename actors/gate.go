package actors

import (
	"context"
	"errors"
	"log/slog"

	"github.com/quern-io/quern/failure"
)

// gate is the output gate of a shard. Turns run ahead of the disk; what they
// say waits here. There are at most two generations: what flies in the commit
// under way, and what has become dirty since that was cut.
type gate struct {
	// weight is about what the dirty states will take in the next flight, in
	// bytes.
	weight   int
	inFlight bool
	// bound: a transaction has changed some of the dirty states. Then one that
	// does not encode, in torn, takes all of them back.
	bound       bool
	dirtyGrains []*grain
	// deletions are stray records, to go with the next commit.
	deletions [][]byte
	// mark: the next commit goes even without records, so that the store knows
	// that the states are those of this epoch.
	mark bool
	// stalled had no turn yet, since the next flight is full.
	stalled    callList
	dirtyCalls callList

	torn         error
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

// Bounds of a flight. It takes everything that is dirty, since a session's
// results must not be separated from the states that they tell of. So it is the
// turns that stop: no turn begins while flightBytes or more are dirty.
const (
	flightBytes = 4 << 20
	keptArena   = 1 << 20 // of its buffer, for the next one
	// recordOverhead is what a record takes beyond its key and value, with
	// room for a timer that moves.
	recordOverhead = 64
)

func (g *gate) full() bool { return g.weight >= flightBytes }

// cut hands the dirty states to the committer. It is called between turns.
func (s *shard) cut() {
	g := &s.gate
	if g.inFlight || len(g.dirtyGrains) == 0 && len(g.deletions) == 0 && !g.mark {
		return
	}
	f := s.newFlight()
	for _, key := range g.deletions {
		f.batch.Records = append(f.batch.Records, Record{Key: key, Delete: true})
	}
	g.deletions = nil
	// The sessions go last: a state that does not encode takes the results
	// that tell of it out of them.
	s.encodeDirty(f, false)
	s.encodeDirty(f, true)
	if g.torn != nil {
		s.abandonCut(g.torn)
		return
	}
	g.bound = false
	clear(g.dirtyGrains)
	g.dirtyGrains, g.weight = g.dirtyGrains[:0], 0
	g.flyingCalls = g.dirtyCalls.take()
	if len(f.batch.Records) == 0 && !g.mark { // nothing that they tell of is left to wait for
		s.answerAll(&g.flyingCalls)
		return
	}
	g.inFlight, g.mark = true, false
	s.rt.committer.enqueue(f)
}

// encodeDirty puts the dirty sessions, or all else that is dirty, into the
// flight.
func (s *shard) encodeDirty(f *flight, sessions bool) {
	g := &s.gate
	for _, grain := range g.dirtyGrains {
		if grain.is(dropped) || (grain.kind == s.sessionGrains()) != sessions {
			continue
		}
		if err := s.encode(f, grain); err != nil && g.bound {
			g.torn = err
			return
		} else if err != nil {
			s.failEncode(grain, err)
			continue
		}
		grain.flags = grain.flags&^dirty | flying
		g.flyingGrains = append(g.flyingGrains, grain)
		if grain.is(watched) {
			s.seeFlying(grain)
		}
	}
}

// stalls reports whether a turn must wait for the flight that is under way.
func (s *shard) stalls() bool { return s.gate.inFlight && s.gate.full() && s.phase != winding }

// unstall lets the stalled calls have their turns, once the next flight has
// room again.
func (s *shard) unstall() {
	if s.gate.stalled.n > 0 && !s.gate.full() {
		s.resume(&s.gate.stalled)
	}
}

// newFlight returns an empty flight of the present activation.
func (s *shard) newFlight() *flight {
	f := s.gate.flight
	if f == nil || cap(f.arena) > keptArena {
		f = &flight{shard: s}
		f.land = func() { s.settle(f) }
		s.gate.flight = f
	}
	f.activation = s.activation
	f.batch = Batch{Shard: s.id, Epoch: s.epoch.Load(), Time: s.now(), Records: f.batch.Records[:0]}
	f.arena = f.arena[:0]
	return f
}

// failEncode undoes what was done to a grain whose state does not encode, and
// takes the results of it out of their sessions: their numbers are free again.
// It is a defect of its kind.
func (s *shard) failEncode(g *grain, err error) {
	s.rt.log.Error("state does not encode", slog.String("kind", g.kind.kind.Name()),
		slog.Any("shard", s.id), slog.Any("err", err))
	err = failure.Wrap(err, failure.HandlerFailed, "the new state does not encode; the change was undone")
	changed := make(map[place]bool)
	for c := s.gate.dirtyCalls.first; c != nil; c = c.next {
		switch {
		case s.columnOn(g, c):
			s.takeBack(g, c, err)
			changed[c.place()] = c.numbered
		case c.grain == g && c.numbered:
			s.forgetResult(c)
			changed[c.place()] = true
		}
	}
	all := s.gate.dirtyCalls.take()
	for c := all.pop(); c != nil; c = all.pop() {
		failed := c.grain == g
		if c.numbered && c.grain == c.client && changed[c.place()] { // a repeat
			if kept := c.kept(); kept != nil {
				c.err = kept.replay(c)
			} else {
				failed = true
			}
		}
		if !failed {
			s.gate.dirtyCalls.push(c)
			continue
		}
		s.waiting--
		c.complete(err)
	}
	s.dropGrain(g, err)
}

// encode appends the records of one grain to the flight.
func (s *shard) encode(f *flight, g *grain) error {
	name := g.kind.kind.Name()
	start := len(f.arena)
	f.arena = appendStateKey(f.arena, name, g.key)
	middle := len(f.arena)
	encoded, err := g.state.Append(f.arena)
	if err != nil {
		f.arena = f.arena[:start]
		return err
	}
	f.arena = encoded
	f.add(start, middle, middle == len(f.arena))
	s.encodeTimer(f, g, tableState, &g.timer, g.state.Due())
	if t := g.once(); t != nil {
		s.encodeOnce(f, g, t)
	}
	if t := g.guards(); t != nil {
		f.encodeGuards(g, t)
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
	s.timers.flying = 0
	switch f.verdict.Status {
	case Done:
		for i, grain := range g.flyingGrains {
			grain.clear(flying)
			g.flyingGrains[i] = nil
		}
		g.flyingGrains = g.flyingGrains[:0]
		s.landEvents()
		s.answerAll(&g.flyingCalls)
	case Refused:
		s.rollback(refusal(f.verdict.Err))
	case Fenced:
		s.counts.fenced.Add(1)
		s.lose(f.verdict.Err, 0)
	case Unclear:
		s.rt.log.Warn("commit outcome unknown; the shard reloads", slog.Any("shard", s.id), slog.Any("err", f.verdict.Err))
		s.reload(failure.Wrap(f.verdict.Err, failure.OutcomeUnknown, "the commit failed half way; the operation perhaps happened"))
	}
}

// answerAll lets the answers of a list go.
func (s *shard) answerAll(l *callList) {
	calls := l.take()
	s.waiting -= calls.n
	for c := calls.pop(); c != nil; c = calls.pop() {
		s.say(c, c.err)
	}
}

// rollback undoes everything that is not durable: nothing of it was written.
// The states are read again when they are needed.
func (s *shard) rollback(err error) {
	g := &s.gate
	for _, grains := range [][]*grain{g.flyingGrains, g.dirtyGrains} {
		for i, grain := range grains {
			if !grain.is(dropped) {
				s.dropGrain(grain, err)
			}
			grains[i] = nil
		}
	}
	g.flyingGrains, g.dirtyGrains, g.weight, g.inFlight = g.flyingGrains[:0], g.dirtyGrains[:0], 0, false
	s.dropEvents()
	g.bound, g.torn = false, nil
	s.sessions.recount()
	s.undoAll(&g.flyingCalls, err)
	s.undoAll(&g.dirtyCalls, err)
}

// maxReruns bounds how often a read is run again. A read of a counter that has
// expired, on a disk that is full, would never come to an end.
const maxReruns = 8

// undoAll answers the writes of a list with err, and runs its reads again: what
// they are to see now is durable.
func (s *shard) undoAll(l *callList, err error) {
	var again callList
	calls := l.take()
	for c := calls.pop(); c != nil; c = calls.pop() {
		if c.wrote || c.reruns == maxReruns || c.abandoned() {
			s.waiting--
			c.complete(err)
			continue
		}
		c.rewind(s.rt)
		c.reruns++
		c.err, c.grain = nil, nil
		again.push(c)
	}
	s.resume(&again)
}

// dropGrain forgets a grain of which something is not to become durable, for
// the reason err. The calls that wait for its records look for it again; those
// that wait for a wake-up are told, since their place is perhaps lost.
func (s *shard) dropGrain(g *grain, err error) {
	s.residents.drop(g)
	if g.extra != nil {
		s.resume(&g.extra.parked)
		s.failWaiters(g, err)
	}
}

// refusal turns a store's refusal into the answer of the operations that it
// hit. The store may say which reason fits by a method of its error.
func refusal(err error) error {
	reason := failure.Overloaded
	var known interface{ Reason() failure.Reason }
	switch {
	case errors.As(err, &known):
		reason = known.Reason()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return errStopping
	}
	e := failure.Wrap(err, reason, "the store refused the write: %v", err)
	if e.Retryable() {
		e = e.After(refusedRetryAfter)
	}
	return e
}
