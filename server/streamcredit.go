package server

import "github.com/quern-io/quern/failure"

// What a reader may begin before it asks again. It is counted as under way from
// when it was granted, so that every bound holds meanwhile.
const (
	creditOperations = 64
	creditBytes      = 32 << 10
)

// credit belongs to the reader; what is left of it at the end of a frame is
// given back. entered are calls that the gate has admitted.
type credit struct{ operations, bytes, entered int }

// errOverWindow ends the stream of a client that does not look at its window.
var errOverWindow = failure.New(failure.Overloaded, "more than %d operations are unanswered, which is the window of this stream", streamWindow)

// begin counts an operation, or says why the stream ends here. A client that
// looks at its window never has more unanswered than that, beside sessions to be
// opened and closed.
func (s *stream) begin(bytes int) error {
	s.yield(1)
	if c := &s.credit; c.operations > 0 && c.bytes >= bytes {
		c.operations--
		c.bytes -= bytes
		return nil
	}
	s.mu.Lock()
	s.giveBack()
	over := s.pending >= s.window()
	s.mu.Unlock()
	if over {
		return errOverWindow
	}
	if !s.admit() {
		return errEnded
	}
	s.mu.Lock()
	s.pending++
	s.bytes += bytes
	s.grant()
	s.mu.Unlock()
	return nil
}

// grant counts some operations ahead, unless that could bring the stream to one
// of its bounds. It needs mu.
func (s *stream) grant() {
	n := s.pending + s.unsent + creditOperations
	if n >= min(streamWindow, s.grains.share()) || s.bytes+creditBytes+s.out.len()+s.sealedBytes() > streamBytes/2 {
		return
	}
	s.credit = credit{operations: creditOperations, bytes: creditBytes}
	if s.grains.gate.enterAhead(creditOperations) {
		s.credit.entered = creditOperations
	}
	s.pending += creditOperations
	s.bytes += creditBytes
}

// giveBack returns what was not used. It needs mu.
func (s *stream) giveBack() {
	s.pending -= s.credit.operations
	s.bytes -= s.credit.bytes
	s.tally.left += int64(s.credit.entered)
	s.credit = credit{}
	s.tell()
}

// enterGate admits a call to the node, or says why not.
func (s *stream) enterGate(waits bool) *failure.Error {
	if !waits && s.credit.entered > 0 {
		s.credit.entered--
		return nil
	}
	return s.grains.gate.enterAs(waits)
}

// tally is what the gate and the metrics were not told yet. They are shared by
// all streams, so that each word to them costs.
type tally struct {
	left int64 // the gate
	ok   int   // answered by the method of these metrics
	of   *methodMetrics
}

// tallyLimit is how many answers are counted before the node hears of them.
const tallyLimit = 64

// left counts a call that leaves the gate, answered well where of is not nil. It
// needs mu.
func (s *stream) left(of *methodMetrics, waits bool) {
	if waits {
		s.grains.gate.leaveAs(true)
		if of != nil {
			of.ok.Inc()
		}
		return
	}
	t := &s.tally
	t.left++
	if of != nil {
		if t.of != of {
			s.tell()
			t.of = of
		}
		t.ok++
	}
	if !s.corked || t.left >= tallyLimit {
		s.tell()
	}
}

// tell tells what was counted. It needs mu.
func (s *stream) tell() {
	t := &s.tally
	if t.ok > 0 {
		t.of.ok.Add(t.ok)
	}
	if t.left > 0 {
		s.grains.gate.leaveAll(t.left)
	}
	*t = tally{}
}
