package lease

import "time"

// Read takes the answer to a read of all locks. Answers come in the order in
// which the authority gave them, at least two in each Delay; an older one starts
// the counts anew.
func (m *Machine) Read(at time.Duration, r Reading) []Decision {
	anew := !r.Stale && (!m.read || r.Index < m.index || at > m.readAt+m.cfg.Delay)
	fell := !r.Stale && m.read && r.Index < m.index
	if !r.Stale {
		m.read, m.index, m.readAt = true, r.Index, max(m.now, at)
	}
	return m.each(at, func(s *state) {
		var lock Lock
		if int(s.shard) < len(r.Locks) {
			lock = r.Locks[s.shard]
		}
		s.highest = max(s.highest, lock.Value.Epoch)
		if r.Stale {
			return
		}
		if fell {
			m.forget(s)
		}
		if anew {
			s.restart = m.now
		}
		m.relearn(s, lock, fell)
		m.sight(s, lock, anew)
	})
}

// sight notes how a lock was found. The count of a free one runs on only while
// it is found unchanged.
func (m *Machine) sight(s *state, lock Lock, anew bool) {
	switch {
	case s.hold != nil:
		m.confirm(s, lock)
	case anew || !s.seen || s.lock != lock:
		s.seen, s.lock, s.since = true, lock, m.now
	}
}

// confirm takes the last read of a lock that is held. Whether it is held still
// is for proofs to find; but the first read after the acquisition tells whether
// the count before it was of one history.
func (m *Machine) confirm(s *state, lock Lock) {
	if h := s.hold; !h.confirmed && lock.Session == m.session && lock.Index == h.index {
		h.confirmed = true
		h.from = max(h.from, s.restart+m.cfg.Delay)
	}
}

// Offered takes the owner's announcement that it will release the shard to
// this incarnation.
func (m *Machine) Offered(at time.Duration, o Offer) []Decision {
	return m.on(at, o.Shard, func(s *state) { s.offer, s.offered = o, m.now })
}

// Withdrawn takes the owner's word that the move will not be.
func (m *Machine) Withdrawn(at time.Duration, shard uint32, handoff string) []Decision {
	return m.on(at, shard, func(s *state) {
		if s.offer.Handoff == handoff {
			s.offer = Offer{}
		}
	})
}

// exempt says whether a lock with the value v needs no wait: a clean release
// left it to whom it was offered, and no higher epoch is known.
func (m *Machine) exempt(s *state, v Value, known uint64) bool {
	return m.named(s, v) && known <= v.Epoch && m.now < s.offered+m.cfg.Delay
}

// named says whether the record in v names this incarnation, and the move that
// was offered to it.
func (m *Machine) named(s *state, v Value) bool {
	return v.Clean.Receiver == m.cfg.Incarnation && v.Clean.Handoff != "" && s.offer.Handoff == v.Clean.Handoff &&
		s.offer.Epoch == v.Epoch
}

// take acquires a lock that has been free for long enough, and lets go of one
// that this node has without knowing how.
func (m *Machine) take(s *state) {
	switch {
	case !s.seen || m.session == "":
	case s.lock.Session == m.session:
		m.unlock(s, s.lock.Index, Value{Epoch: s.lock.Value.Epoch, Owner: s.lock.Value.Owner})
		s.seen = false
	case s.lock.Session != "" || !s.wanted || m.now > m.readAt+m.cfg.Delay:
	case s.lock.Index == 0:
		s.retryAt = m.now + m.cfg.Retry
		m.decide(Create{Shard: s.shard})
	case m.omit.wait || m.now >= s.since+m.cfg.Delay || m.exempt(s, s.lock.Value, s.highest):
		s.pending = m.number()
		m.decide(Acquire{
			Shard: s.shard, Index: s.lock.Index, Session: m.session,
			Value:   Value{Epoch: m.nextEpoch(s), Owner: m.cfg.Incarnation},
			attempt: s.pending, start: m.now, found: s.lock.Value, known: s.highest, since: s.since,
		})
	}
}

// nextEpoch is above all that is known, and above the base.
func (m *Machine) nextEpoch(s *state) uint64 { return 1 + max(s.highest, m.base) }

// Acquired takes what became of an acquisition, and where it is done the index
// that the lock has now.
func (m *Machine) Acquired(at time.Duration, a Acquire, outcome Outcome, index uint64) []Decision {
	return m.on(at, a.Shard, func(s *state) {
		switch {
		case !s.answered(a.attempt):
		case outcome != Done:
			s.retryAt = m.now + m.cfg.Retry
		default:
			m.acquired(s, a, index)
		}
	})
}

// acquired begins a hold. The acquisition is its first proof. Where the node
// knows of an epoch that the lock did not, somebody has had the shard of whom
// the lock has lost the trace, so that the sighting does not tell since when
// it is free: then the wait begins here.
func (m *Machine) acquired(s *state, a Acquire, index uint64) {
	v := a.found
	h := &hold{
		grip: m.number(), index: index, epoch: a.Value.Epoch, replaced: v.Epoch, known: a.known,
		until: m.trust(a.start), from: a.since + m.cfg.Delay,
	}
	h.learn(s.highest)
	if m.exempt(s, v, h.known) {
		h.exempt = s.offered + m.cfg.Delay
	}
	if m.named(s, v) {
		h.handoff = v.Clean.Handoff
	}
	if h.known > v.Epoch && h.known != s.memory {
		h.from = m.now + m.cfg.Delay
	}
	if m.omit.wait {
		h.from = 0
	}
	s.hold, s.highest = h, max(s.highest, h.epoch)
	m.confirm(s, s.lock)
	s.seen, s.lock, s.offer = false, Lock{}, Offer{}
}
