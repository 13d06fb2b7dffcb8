package client

import "github.com/quern-io/quern/handles"

// sessionWindow is how many numbers of a session may be unsettled: what a shard
// takes.
const sessionWindow = 1024

// session is this client's session at one shard. It belongs to the engine's
// lock.
type session struct {
	shard uint32
	state sessionState
	id    string
	// last is the highest number given out, settled the one up to which all
	// are settled, marks which of those above it are, by number modulo the
	// window.
	last, settled uint64
	marks         [sessionWindow / 64]uint64
	// waiting are calls that want a number.
	waiting callList
	// opener is the stream that was asked for it.
	opener *link
	// failures counts attempts to open it in a row.
	failures int
}

type sessionState uint8

const (
	sessionNone sessionState = iota
	sessionOpening
	sessionPaused // could not be opened; a timer will ask again
	sessionOpen
)

// next gives out a number; false where too many are unsettled.
func (s *session) next() (uint64, bool) {
	if s.last-s.settled >= sessionWindow {
		return 0, false
	}
	s.last++
	return s.last, true
}

// settle says that nobody waits for the answer to a number any more. It returns
// true where room for another number was made.
func (s *session) settle(n uint64) bool {
	if n <= s.settled || n > s.last {
		return false
	}
	s.mark(n, true)
	before := s.settled
	for s.settled < s.last && s.marked(s.settled+1) {
		s.settled++
		s.mark(s.settled, false)
	}
	return s.settled != before
}

func (s *session) mark(n uint64, on bool) {
	bit := uint64(1) << (n % 64)
	word := &s.marks[n%sessionWindow/64]
	if on {
		*word |= bit
	} else {
		*word &^= bit
	}
}

func (s *session) marked(n uint64) bool {
	return s.marks[n%sessionWindow/64]&(1<<(n%64)) != 0
}

// forget begins anew: the shard does not know the session any more.
func (s *session) forget() {
	s.state, s.id, s.last, s.settled, s.opener = sessionNone, "", 0, 0, nil
	s.marks = [sessionWindow / 64]uint64{}
}

// place is where the session's next operation stands.
func (s *session) place(number uint64) handles.Session {
	return handles.Session{ID: s.id, Number: number, Settled: s.settled}
}
