package lease

import (
	"math"
	"time"
)

// state is what the machine knows of one shard.
type state struct {
	shard  uint32
	wanted bool
	// highest is the highest epoch that was ever seen, in a lock, at the
	// store, or told by a peer; own ones too.
	highest uint64
	// memory is the epoch at the store under which what this node holds in
	// memory is current, as far as it knows; 0 where it holds nothing.
	memory uint64
	// seen says whether lock is a sighting, of a lock that this node does not
	// hold, and since is when it was first seen like this.
	seen  bool
	lock  Lock
	since time.Duration
	// restart is before when no count can have begun.
	restart time.Duration
	// offer was made to this incarnation, at offered; zero means none.
	offer   Offer
	offered time.Duration
	// pending is the number of the request that is under way, 0 for none, and
	// retryAt is when the next may start.
	pending uint64
	retryAt time.Duration
	// hold is the acquisition by which this node has the lock; nil means that
	// it has not, or not knowingly.
	hold *hold
}

// hold is a lock that was acquired in this process, under this session.
type hold struct {
	grip  uint64
	index uint64
	epoch uint64
	// replaced is the epoch of the last states: that of the value that the
	// acquisition replaced, and later that which was served last.
	replaced uint64
	// known is the highest epoch that was known when epoch was chosen.
	known uint64
	// handoff names the copy that the predecessor's record names.
	handoff string
	// until is when trust ends, and lapsed says that it has, with no proof
	// since.
	until  time.Duration
	lapsed bool
	// from is when the wait for the predecessor is over, and confirmed says that
	// a read after the acquisition saw nothing that starts it anew. Before
	// exempt neither matters.
	from, exempt time.Duration
	confirmed    bool
	// stale says that the epoch must be replaced before anything is served,
	// fresh that the rewrite under way was begun under the present trust,
	// raised that the store has the epoch, and keep that it came there from
	// memory.
	stale, fresh, raised, keep bool
	serving                    bool
	// behind says that the lock's value has a lower epoch than is served. index
	// is 0 while it is not known how the lock was left by a rewrite.
	behind bool
}

// learn takes note of the highest epoch that is known when h got its own, where
// it is not that: a read may have shown it already.
func (h *hold) learn(highest uint64) {
	if highest != h.epoch {
		h.known = max(h.known, highest)
	}
}

// forget drops the sighting and the offer: the count starts anew.
func (m *Machine) forget(s *state) {
	s.seen, s.offer, s.restart = false, Offer{}, m.now
}

// advance does what is due for one shard.
func (m *Machine) advance(s *state) {
	m.lapse(s)
	h := s.hold
	switch {
	case s.pending != 0 || m.now < s.retryAt:
	case h == nil:
		m.take(s)
	case h.serving:
		m.follow(s)
	case !s.wanted:
		m.release(s, Clean{})
	case h.lapsed, m.now >= h.exempt && (m.now < h.from || !h.confirmed):
	case h.stale:
		m.rewrite(s)
	case !h.raised:
		m.raise(s)
	default:
		m.serve(s)
	}
}

// Wake returns when [Machine.Clock] is due, or a time that never comes.
func (m *Machine) Wake() time.Duration {
	wake := time.Duration(math.MaxInt64)
	for i := range m.states {
		s := &m.states[i]
		if s.hold != nil {
			wake = min(wake, m.proofDue)
		}
		wake = min(wake, m.due(s))
	}
	return max(wake, m.now)
}

// due returns when time alone changes something for a shard.
func (m *Machine) due(s *state) time.Duration {
	h, due := s.hold, time.Duration(math.MaxInt64)
	if h != nil && !h.lapsed {
		due = h.until
	}
	var next time.Duration
	switch {
	case s.pending != 0:
		return due
	case h != nil && h.serving && h.behind && h.index != 0:
	case h != nil && s.wanted && (h.serving || h.lapsed || !h.confirmed && m.now >= h.exempt):
		return due
	case h != nil && h.serving:
		return due
	case h != nil:
		if s.wanted && m.now >= h.exempt {
			next = h.from
		}
	case s.seen && s.lock.Session != "" && s.lock.Session == m.session:
	case !s.wanted || !s.seen || s.lock.Session != "" || m.session == "" || m.now > m.readAt+m.cfg.Delay:
		return due
	case s.lock.Index != 0 && !m.exempt(s, s.lock.Value, s.highest):
		next = s.since + m.cfg.Delay
	}
	return min(due, max(next, s.retryAt))
}

// answered takes back a request. It reports whether the answer is to the one
// that is under way.
func (s *state) answered(attempt uint64) bool {
	if s.pending == 0 || s.pending != attempt {
		return false
	}
	s.pending = 0
	return true
}
