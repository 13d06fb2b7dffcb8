package lease

import "time"

// rewrite asks for a new epoch in a lock that is held.
func (m *Machine) rewrite(s *state) {
	h := s.hold
	s.pending, h.fresh = m.number(), true
	m.decide(Rewrite{
		Shard: s.shard, Index: h.index, Session: m.session,
		Value: Value{Epoch: m.nextEpoch(s), Owner: m.cfg.Incarnation}, attempt: s.pending,
		known: s.highest,
	})
}

// Rewritten takes what became of a rewrite, and where it is done the index that
// the lock has now. After any other outcome the node does not know how it holds
// the lock, if it does, and lets go of it when a read shows it.
func (m *Machine) Rewritten(at time.Duration, r Rewrite, outcome Outcome, index uint64) []Decision {
	return m.on(at, r.Shard, func(s *state) {
		h := s.hold
		switch {
		case !s.answered(r.attempt) || h == nil:
		case h.serving:
			m.followed(s, r, outcome, index)
		case outcome != Done:
			m.drop(s, NotHeld)
		default:
			h.index, h.epoch, h.known, h.stale = index, r.Value.Epoch, r.known, !h.fresh
			h.learn(s.highest)
			s.highest = max(s.highest, h.epoch)
		}
	})
}

// raise asks the store for the epoch that stands in the lock. What is in memory
// stays current where the store's epoch is still the one that it is of.
func (m *Machine) raise(s *state) {
	s.pending = m.number()
	m.decide(Raise{Shard: s.shard, Epoch: s.hold.epoch, From: s.memory, attempt: s.pending})
}

// Raised takes what became of a raise, and the highest epoch that was there: the
// one that stands in the way where it was refused, the one before where it is
// done and the store tells, else 0.
func (m *Machine) Raised(at time.Duration, r Raise, outcome Outcome, row uint64) []Decision {
	return m.on(at, r.Shard, func(s *state) {
		if !s.answered(r.attempt) {
			return
		}
		switch {
		case outcome == Unclear:
			s.retryAt = m.now + m.cfg.Retry
		case outcome == Done:
			m.raised(s, r, row)
		case m.omit.store:
			m.raised(s, Raise{Epoch: r.Epoch}, 0)
		default:
			m.outbid(s, r, row)
		}
	})
}

func (m *Machine) raised(s *state, r Raise, row uint64) {
	if s.memory = 0; r.From != 0 {
		s.memory = r.Epoch
	}
	if h := s.hold; h != nil && !h.stale && h.epoch == r.Epoch {
		h.raised, h.keep, h.known = true, r.From != 0, max(h.known, row)
	}
}

// outbid takes note of a store that has another epoch than was thought. One
// above what was known is of an owner of whom the lock has lost the trace, and
// who may be trusting it still.
func (m *Machine) outbid(s *state, r Raise, row uint64) {
	s.memory = 0
	s.highest = max(s.highest, row)
	if h := s.hold; h != nil && !h.lapsed && (row >= r.Epoch || row > max(h.replaced, h.known)) {
		m.distrust(s, Superseded)
	}
}

// serve begins to answer for a shard.
func (m *Machine) serve(s *state) {
	h := s.hold
	i := Inherit{Keep: h.keep, Replaces: h.replaced, Known: h.known}
	if h.known <= h.replaced {
		i.Handoff = h.handoff
	}
	h.serving, h.handoff = true, ""
	h.replaced, s.memory = h.epoch, h.epoch
	m.decide(Serve{Shard: s.shard, Epoch: h.epoch, Until: h.until, Inherit: i})
}
