package client

// sessionWindow is how many numbers of a session may be unsettled: what a shard
// takes.
const sessionWindow = 1024

// session is this client's session at one shard. It belongs to the engine's
// lock.
type session struct {
	shard uint32
	state sessionState
	id    string
	// usual numbers most operations, waits those that may wait for others.
	usual, waits numbers
	// opener is the stream that was asked for it.
	opener *link
	// failures counts attempts to open it in a row.
	failures int
}

// numbers are a sequence of numbers and those who want one.
type numbers struct {
	// last is the highest number given out, settled the one up to which all
	// are settled.
	last, settled uint64
	// open is how many are not settled.
	open int
	// kept is how much of the window is for engine.renumber.
	kept uint64
	// waiting are calls that want a number.
	waiting callList
	// marks are those above settled that are settled, by number modulo the
	// window.
	marks [sessionWindow / 64]uint64
}

// of returns the numbers of a call.
func (s *session) of(c *call) *numbers {
	if c.waits {
		return &s.waits
	}
	return &s.usual
}

// wanted reports whether a call waits for a number.
func (s *session) wanted() bool { return s.usual.waiting.first != nil || s.waits.waiting.first != nil }

// remove takes out of the waiting calls those that drop is true for.
func (s *session) remove(drop func(*call) bool) {
	s.usual.waiting.remove(drop)
	s.waits.waiting.remove(drop)
}

type sessionState uint8

const (
	sessionNone sessionState = iota
	sessionOpening
	sessionPaused // could not be opened; a timer will ask again
	sessionOpen
)

// next gives out a number; false where too many are unsettled.
func (s *numbers) next() (uint64, bool) {
	if s.last-s.settled >= sessionWindow-s.kept {
		return 0, false
	}
	return s.take(), true
}

// take gives out a number, also one that is kept.
func (s *numbers) take() uint64 {
	s.last++
	s.open++
	return s.last
}

// settle says that nobody waits for the answer to a number any more. It returns
// true where room for another number was made.
func (s *numbers) settle(n uint64) bool {
	if n <= s.settled || n > s.last {
		return false
	}
	s.mark(n, true)
	s.open--
	before := s.settled
	for s.settled < s.last && s.marked(s.settled+1) {
		s.settled++
		s.mark(s.settled, false)
	}
	return s.settled != before
}

func (s *numbers) mark(n uint64, on bool) {
	bit := uint64(1) << (n % 64)
	word := &s.marks[n%sessionWindow/64]
	if on {
		*word |= bit
	} else {
		*word &^= bit
	}
}

func (s *numbers) marked(n uint64) bool {
	return s.marks[n%sessionWindow/64]&(1<<(n%64)) != 0
}

// forget begins anew: the shard does not know the session any more.
func (s *session) forget() {
	s.state, s.id, s.opener = sessionNone, "", nil
	s.usual.forget()
	s.waits.forget()
}

func (s *numbers) forget() { *s = numbers{waiting: s.waiting, kept: s.kept} }

// settledFor is what a call tells of its session: up to where the numbers of its
// own sort are settled, and those of the other.
func (s *session) settledFor(c *call) (own, other uint64) {
	if c.waits {
		return s.waits.settled, s.usual.settled
	}
	return s.usual.settled, s.waits.settled
}
