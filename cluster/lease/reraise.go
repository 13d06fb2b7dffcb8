package lease

import "time"

// Reraised tells that what serves the shard has raised its epoch at the store
// by compare-and-set from its own, and goes on under it: trust and memory are
// what they were. The lock's value follows. An epoch that is not above the one
// that is served is of an earlier time, and passed over.
func (m *Machine) Reraised(at time.Duration, shard uint32, epoch uint64) []Decision {
	if epoch > MaxEpoch {
		return m.Clock(at)
	}
	return m.on(at, shard, func(s *state) {
		// The store had the epoch of this memory, and nobody was in between.
		if s.memory != 0 && epoch > s.memory {
			s.memory = epoch
		}
		switch h := s.hold; {
		case h == nil:
		case h.serving && epoch > h.epoch:
			h.epoch, h.replaced, h.behind = epoch, epoch, true
		case !h.serving && epoch >= h.epoch:
			// It was raised in the last moment of an earlier time, and is used up.
			h.stale, h.raised, h.keep = true, false, false
		}
		s.highest = max(s.highest, epoch)
	})
}

// Fenced tells that the store refused what was served under epoch, and which
// one it has, 0 where that is not known. Trust in that epoch ends, and what is
// in memory is not current.
func (m *Machine) Fenced(at time.Duration, shard uint32, epoch, known uint64) []Decision {
	if known > MaxEpoch {
		known = 0
	}
	return m.on(at, shard, func(s *state) {
		s.highest = max(s.highest, known)
		if h := s.hold; h != nil && h.serving && h.epoch == epoch {
			s.memory = 0
			m.distrust(s, Superseded)
		}
	})
}

// Holding is how many locks this node has knowingly, or has asked for.
func (m *Machine) Holding() int {
	n := 0
	for i := range m.states {
		if m.states[i].hold != nil || m.states[i].pending != 0 {
			n++
		}
	}
	return n
}

// follow rewrites the lock of a shard that is served under a higher epoch than
// stands there. It goes on being served meanwhile, whatever comes of it: proofs
// do not look at the value. Where the index is not known a read tells it first.
func (m *Machine) follow(s *state) {
	h := s.hold
	if !h.behind || h.index == 0 {
		return
	}
	s.pending = m.number()
	m.decide(Rewrite{
		Shard: s.shard, Index: h.index, Session: m.session,
		Value: Value{Epoch: h.epoch, Owner: m.cfg.Incarnation}, attempt: s.pending, known: h.known,
	})
}

// followed takes what became of that. The epoch may have risen again meanwhile.
func (m *Machine) followed(s *state, r Rewrite, outcome Outcome, index uint64) {
	h := s.hold
	if outcome != Done {
		h.index, s.retryAt = 0, m.now+m.cfg.Retry
		return
	}
	h.index, h.behind = index, h.epoch != r.Value.Epoch
}

// relearn takes index and epoch of a lock that is served from a read, where they
// are not known, or where an older state of the authority was brought back and
// the lock with it. A read that does not have the last own write tells nothing.
func (m *Machine) relearn(s *state, lock Lock, fell bool) {
	h := s.hold
	if h == nil || !h.serving || s.pending != 0 || lock.Index == h.index ||
		lock.Session != m.session || lock.Value.Owner != m.cfg.Incarnation {
		return
	}
	if h.index == 0 || fell || m.index >= h.index {
		h.index, h.behind = lock.Index, lock.Value.Epoch != h.epoch
	}
}
