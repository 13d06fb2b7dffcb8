package lease

import "time"

// trust returns until when a lock is trusted that a proof found which began at
// start.
func (m *Machine) trust(start time.Duration) time.Duration {
	if m.omit.start {
		start = m.now
	}
	return start + m.cfg.Delay - m.cfg.Margin
}

// lapse ends trust that has run out, or is disproved by a higher epoch.
func (m *Machine) lapse(s *state) {
	switch h := s.hold; {
	case h == nil || h.lapsed:
	case !h.stale && h.epoch < s.highest && (s.pending == 0 || h.serving):
		m.distrust(s, Superseded)
	case m.now >= h.until && m.omit.gap:
		m.stop(s, Lapsed)
	case m.now >= h.until:
		m.distrust(s, Lapsed)
	}
}

// distrust leaves a lock that is held without trust. What proofs find from now
// on says nothing of the time before, so the node waits like any taker and
// takes a new epoch.
func (m *Machine) distrust(s *state, why Why) {
	m.stop(s, why)
	h := s.hold
	h.lapsed, h.stale, h.fresh, h.raised, h.keep, h.behind = true, true, false, false, false, false
	h.exempt, h.handoff = 0, ""
}

// stop ends the serving of a shard; its lock stays held.
func (m *Machine) stop(s *state, why Why) {
	if h := s.hold; h.serving {
		h.serving = false
		m.decide(Stop{Shard: s.shard, Epoch: h.epoch, Why: why})
	}
}

// drop ends the hold on a lock that is held no longer.
func (m *Machine) drop(s *state, why Why) {
	if s.hold != nil {
		m.stop(s, why)
		s.hold = nil
	}
	s.seen = false
}

// prove asks for a proof of all that is held, where it is due. It does so also
// while the one before is under way, since that one may hang: there are at
// most Delay / ProveEvery that are of any use.
func (m *Machine) prove() {
	if m.now < m.proofDue {
		return
	}
	p := Prove{Session: m.session, By: m.now + m.cfg.Delay - m.cfg.Margin, start: m.now}
	for i := range m.states {
		if h := m.states[i].hold; h != nil {
			p.Holds = append(p.Holds, Hold{Shard: m.states[i].shard, grip: h.grip})
			if !h.lapsed {
				p.By = min(p.By, h.until)
			}
		}
	}
	if len(p.Holds) > 0 {
		m.proofDue = m.now + m.cfg.ProveEvery
		m.decide(p)
	}
}

// Proved takes the answer to a proof, or to a part of it whose Holds are those
// of one transaction: the shards that it did not find held. All others of it
// are proven. A transaction without an answer proves nothing, and is not told
// here.
func (m *Machine) Proved(at time.Duration, p Prove, missing []uint32) []Decision {
	lost := make(map[uint32]bool, len(missing))
	for _, shard := range missing {
		lost[shard] = true
	}
	m.now, m.out = max(m.now, at), nil
	extended := Extend{Until: m.trust(p.start)}
	for _, held := range p.Holds {
		s := &m.states[held.Shard]
		m.lapse(s)
		if s.hold == nil || s.hold.grip != held.grip {
			continue
		}
		if lost[held.Shard] {
			s.pending = 0
			m.drop(s, NotHeld)
		} else if m.proven(s, extended.Until) {
			extended.Shards = append(extended.Shards, held.Shard)
		}
		m.advance(s)
	}
	if len(extended.Shards) > 0 {
		m.decide(extended)
	}
	m.prove()
	return m.out
}

// proven notes that a lock was found held. It reports whether that extends the
// time for which its shard is served. An answer that comes after the end of
// trust is the first after the gap, and the wait counts from when it came: it
// cannot tell what happened before it was given.
func (m *Machine) proven(s *state, until time.Duration) bool {
	h := s.hold
	if h.lapsed && until > m.now {
		h.lapsed, h.until, h.from, h.confirmed = false, until, m.now+m.cfg.Delay, true
		return false
	}
	if h.lapsed || until <= h.until {
		return false
	}
	h.until = until
	return h.serving
}
