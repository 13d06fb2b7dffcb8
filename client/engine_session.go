package client

import (
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
)

// errClosed is the error of what is asked of a closed client.
var errClosed = failure.New(failure.Canceled, "the client is closed")

// errSessionGone is what becomes of a call that was perhaps carried out under a
// session that the shard has forgotten since: under another one it could count
// twice.
var errSessionGone = failure.New(failure.SessionExpired, "its session has expired")

// session takes a node's word on a session that was to be opened or closed.
func (e *engine) session(shard uint32, id string, closed bool, err *failure.Error) {
	if closed {
		if e.closing > 0 {
			if e.closing--; e.closing == 0 {
				close(e.settled)
			}
		}
		return
	}
	s := e.sessions[shard]
	if s == nil || s.state != sessionOpening {
		return // asked for on an earlier stream; it expires unused
	}
	switch {
	case err == nil:
		s.forget()
		s.state, s.id, s.failures = sessionOpen, id, 0
		for _, l := range e.links {
			if l != nil {
				l.current.remove(shard)
			}
		}
		e.serve(s)
	case err.Retryable() || err.Outcome() == failure.Unknown && err.Reason != failure.Internal:
		// One that was opened unknown to us expires unused.
		s.state = sessionPaused
		s.failures++
		pause := e.pause(err, s.failures)
		s.remove(func(c *call) bool {
			late := time.Now().Add(pause).After(c.batch.patience)
			if late {
				e.answer(c, c.verdict(err))
			}
			return late
		})
		e.after(pause, nil, func() {
			s.state = sessionNone
			if s.wanted() {
				e.open(s)
			}
		})
	default:
		s.state = sessionNone
		s.remove(func(c *call) bool {
			e.answer(c, c.verdict(err))
			return true
		})
	}
}

// renumber gives the lowest number that is open to the top again, where the
// window is full of numbers that are settled above it: a call that waits for long
// must not hold up all that wait after it. The call is sent once more, under
// another number and by the same owner, so that it keeps its place; what it was
// under the old one is given up.
func (e *engine) renumber(s *session) {
	all := &s.waits
	low := all.settled + 1
	if all.waiting.first == nil || s.state != sessionOpen || all.last-all.settled != sessionWindow-1 || all.open >= sessionWindow-1 {
		return
	}
	for _, l := range e.links {
		if l == nil {
			continue
		}
		for _, c := range l.calls {
			if c == nil || c.session != s || !c.waits || c.number != low || c.sentAs != s.id || c.state != callFlying {
				continue
			}
			former := &call{state: callLeft, session: s, number: c.number, sentAs: c.sentAs, waits: true, id: c.id, link: l}
			l.calls[c.id-1] = former
			c.id, c.number = 0, all.take()
			e.put(l, c)
			l.cancel(former.id)
			return
		}
	}
}

// closeWait bounds how long Close waits for a node to close the sessions.
const closeWait = time.Second

// close ends all operations, and the sessions where a node can be told.
func (e *engine) close() {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return
	}
	e.closed = true
	e.endCalls()
	l := e.up() // it may break meanwhile
	told := l != nil && e.closeSessions(l)
	e.mu.Unlock()
	if !told {
		return
	}
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-e.settled:
	case <-l.done:
	case <-timer.C:
	}
}

// endCalls answers every call. It needs mu.
func (e *engine) endCalls() {
	for t, c := range e.timers {
		t.Stop()
		if c != nil && c.state == callDelayed {
			e.desert(c, c.verdict(errClosed))
		}
	}
	e.giveUpAll(errClosed)
	for _, l := range e.links {
		if l == nil {
			continue
		}
		l.each(func(c *call) {
			if c.state == callFlying {
				c.perhaps = true
				e.desert(c, c.verdict(errClosed))
			}
		})
	}
}

// closeSessions reports whether there was any. It needs mu.
func (e *engine) closeSessions(l *link) bool {
	for _, s := range e.sessions {
		if s != nil && s.state == sessionOpen {
			e.closing++
			l.out.head = frame.AppendSession(l.out.head, s.shard, s.id, true)
		}
	}
	e.kick()
	return e.closing > 0
}
