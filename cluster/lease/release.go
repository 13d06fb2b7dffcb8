package lease

import "time"

// GiveUp asks for the release of a shard, to the receiver that c names, to whom
// it was offered before, or to nobody where c is zero. The release is clean only
// where the shard was served until now. A shard that is wanted still is taken
// again when the receiver has not come within a delay.
func (m *Machine) GiveUp(at time.Duration, shard uint32, c Clean) []Decision {
	return m.on(at, shard, func(s *state) {
		if s.hold == nil {
			return
		}
		if !s.hold.serving || c.Receiver == "" || c.Handoff == "" {
			c = Clean{}
		}
		m.release(s, c)
	})
}

// release lets go of a lock, for good.
func (m *Machine) release(s *state, c Clean) {
	h := s.hold
	m.drop(s, GivenUp)
	m.unlock(s, h.index, Value{Epoch: h.epoch, Owner: m.cfg.Incarnation, Clean: c})
}

func (m *Machine) unlock(s *state, index uint64, v Value) {
	s.pending = m.number()
	m.decide(Release{Shard: s.shard, Index: index, Session: m.session, Value: v, attempt: s.pending})
}

// Released takes what became of a release. It changes nothing but that another
// request may follow: a lock that is held still is seen by the next read, and
// let go of without a record.
func (m *Machine) Released(at time.Duration, r Release) []Decision {
	return m.on(at, r.Shard, func(s *state) { s.answered(r.attempt) })
}
