package actors

import (
	"log/slog"

	"github.com/quern-io/quern/failure"
)

// phase is where a shard stands.
//
//	idle ──► raising ──► serving ──► raising (after an unclear commit or a defect)
//	             │           └─────► fenced  (the store has a higher epoch)
//	             └─────────────────► fenced
//	serving ──► winding ──► idle     (leased shards only, as fenced ──► serving)
//	any ──► closed
type phase uint8

const (
	idle    phase = iota // not owned by this node
	raising              // the new epoch is not durable yet; calls wait
	serving
	fenced // another node has taken the shard
	closed
	winding // takes no turns; what was begun becomes durable
)

// claim makes the shard this node's, as soon as its epoch is durable. done is
// closed when it serves, or was lost.
func (s *shard) claim(epoch uint64, done chan struct{}) {
	if s.phase != idle && s.phase != fenced {
		close(done)
		return
	}
	s.phase, s.settled = raising, done
	s.rt.raiser.enqueue(s.raise(Raise{Epoch: epoch}))
}

// raise is the request for an epoch of the present activation.
func (s *shard) raise(r Raise) raiseRequest {
	r.Shard, r.Incarnation = s.id, s.rt.cfg.Incarnation
	return raiseRequest{s, s.activation, r}
}

// raised takes the store's answer to a request.
func (s *shard) raised(q raiseRequest, result Raised) {
	switch {
	case q.activation != s.activation || s.phase != raising:
	case result.OK:
		s.activate(q.raise.Epoch, result.Time)
		if s.tenure != nil {
			s.rt.tidings.raised(s, q.raise.Epoch)
		}
	default:
		s.lose(result.Err, result.Epoch)
	}
}

func (s *shard) settleClaim() {
	if s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
}

// activate makes the shard serve under a new epoch, which is durable already.
func (s *shard) activate(epoch uint64, lastTime int64) {
	s.phase = serving
	s.epoch.Store(epoch)
	s.owned.Store(true)
	s.ready.Store(true)
	s.clock.start(lastTime)
	s.sequence = max(s.sequence, s.firstNumber(epoch))
	s.timers.next.Store(1) // look once at what is due
	s.rt.log.Debug("shard serves", slog.Any("shard", s.id), slog.Uint64("epoch", epoch))
	s.settleClaim()
	s.resume(&s.held)
}

// reload ends the present activation: what waits at the gate fails with err,
// what had no turn yet waits for the next activation.
func (s *shard) reload(err error) {
	switch {
	case s.phase == winding:
		s.endTenure(s.refusal)
		return
	case s.phase != serving:
		return
	case s.tenure != nil && !s.rt.gated:
		s.giveBack(err)
		return
	}
	s.phase = raising
	s.ready.Store(false)
	s.endActivation(err)
	s.rt.raiser.enqueue(s.raise(Raise{Epoch: s.epoch.Load() + 1, From: s.epoch.Load()}))
}

// lose ends the present activation for good: the store has a higher epoch, or
// what the store says instead. known is the store's epoch, or 0.
func (s *shard) lose(why error, known uint64) {
	s.rt.log.Error("shard lost: the store does not take its epoch any more",
		slog.Any("shard", s.id), slog.Uint64("epoch", s.epoch.Load()), slog.Any("err", why))
	s.lost(known)
}

func (s *shard) lost(known uint64) {
	s.phase = fenced
	s.owned.Store(false)
	s.ready.Store(false)
	s.endActivation(errNotOwner)
	s.failAll(&s.held, errNotOwner)
	s.settleClaim()
	if s.tenure != nil {
		s.rt.tidings.fenced(s, s.epoch.Load(), known)
		s.refusal = nil
		s.overTenure()
	}
	if s.drained != nil {
		s.close()
	}
}

func (s *shard) endActivation(err error) {
	s.activation++
	s.endWatches()
	s.withhold(&s.leaving)
	if s.tenure != nil && s.phase == idle {
		s.withholdGate()
	}
	s.failAll(&s.gate.flyingCalls, err)
	s.failAll(&s.gate.dirtyCalls, err)
	s.hold(&s.gate.stalled)
	s.hold(&s.sessions.openers)
	s.gate.reset()
	s.load = loadQueue{}
	s.timers.reset()
	s.sessions = sessionTable{}
	s.holdParked()
	for i := range s.kinds {
		for _, g := range s.kinds[i].grains {
			if g.extra == nil {
				continue
			}
			s.hold(&g.extra.parked)
		}
	}
	s.forget()
}

// hold keeps calls that had no turn for the next activation. Turns of timers are
// dropped: that activation finds them itself.
func (s *shard) hold(l *callList) {
	calls := l.take()
	for c := calls.pop(); c != nil; c = calls.pop() {
		if c.task == taskDue {
			s.waiting--
			c.complete(nil)
			continue
		}
		s.held.push(c)
	}
}

// failAll answers all calls of a list with err.
func (s *shard) failAll(l *callList, err error) {
	calls := l.take()
	s.waiting -= calls.n
	for c := calls.pop(); c != nil; c = calls.pop() {
		c.complete(err)
	}
}

// quiet reports whether nothing is under way.
func (s *shard) quiet() bool {
	return s.waiting == 0 && s.box.ready.n == 0 && !s.gate.inFlight && len(s.gate.dirtyGrains) == 0 &&
		s.leaving.n == 0 && !s.gate.mark
}

// drain makes the shard close as soon as everything that it has begun is
// durable and answered. done is closed then. A shard that is raising has begun
// nothing: what it holds had no turn.
func (s *shard) drain(done chan struct{}) {
	s.drained = done
	s.failParked(errStopping)
	if s.phase != serving && s.phase != winding || s.quiet() {
		s.close()
	}
}

// close answers whatever is left and all that still comes.
func (s *shard) close() {
	if s.phase == closed {
		return
	}
	s.phase = closed
	s.owned.Store(false)
	s.ready.Store(false)
	s.endActivation(failure.New(failure.OutcomeUnknown, "the node was stopped before the operation was durable; it perhaps happened"))
	s.failAll(&s.held, errStopping)
	s.settleClaim()
	s.overTenure()
	if s.drained != nil {
		close(s.drained)
		s.drained = nil
	}
}
