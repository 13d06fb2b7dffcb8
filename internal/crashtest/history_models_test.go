package crashtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// step is one operation of a history: what was asked for and answered, and what
// it is to a model. Unknown is one of which nobody knows whether it happened;
// then what it answers is not looked at.
type step struct {
	name    string
	unknown bool

	delta, value int64  // of a counter; value is the answer, or what is set
	was          int64  // what a compare-and-set expects
	swapped      bool   // whether it did
	text         string // of a map entry
	version      uint64
	expect       uint64 // what a compare-and-swap expects
	owner        string
	token        uint64
	held         bool
	queue        string // of a lock, owners with spaces between
}

// modelOf returns a model of states of type S, with inputs of type I.
func modelOf[S comparable, I any](first S, next func(S, I) (S, bool)) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return first },
		Step: func(state, in, _ any) (bool, any) {
			after, ok := next(state.(S), in.(I)) //nolint:errcheck,forcetypeassert // as Init and record make them
			return ok, after
		},
		DescribeOperation: func(in, _ any) string { return fmt.Sprintf("%+v", in) },
		DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
	}
}

func counterModel(v int64, s step) (int64, bool) {
	switch s.name {
	case "add":
		return v + s.delta, s.unknown || v+s.delta == s.value
	case "set":
		return s.value, true
	case "get":
		return v, v == s.value
	case "cas":
		if v == s.was {
			return s.value, s.unknown || s.swapped
		}
		return v, s.unknown || !s.swapped
	default:
		return v, false
	}
}

// entryState is a map entry. Its version is 0 where it is absent, and unseen
// where it was put by nobody who knows it.
type entryState struct {
	top, version uint64
	text         string
}

const unseen = ^uint64(0)

// seen reports whether the entry can have a version, and what it is then.
func (e entryState) seen(version uint64) (entryState, bool) {
	if e.version == unseen && version > e.top {
		e.version, e.top = version, version
	}
	return e, e.version == version
}

func (e entryState) put(s step) (entryState, bool) {
	e.text = s.text
	if s.unknown {
		e.version = unseen
		return e, true
	}
	ok := s.version > e.top
	e.version, e.top = s.version, s.version
	return e, ok
}

func entryModel(e entryState, s step) (entryState, bool) {
	switch s.name {
	case "put":
		return e.put(s)
	case "delete":
		e.version, e.text = 0, ""
		return e, true
	case "get":
		if s.version == 0 {
			return e, e.version == 0
		}
		e, ok := e.seen(s.version)
		return e, ok && e.text == s.text
	case "cas":
		if now, ok := e.seen(s.expect); ok && (s.unknown || s.swapped) {
			return now.put(s)
		}
		if s.unknown {
			return e, true
		}
		now, ok := e.seen(s.version)
		return now, ok && !s.swapped && s.version != s.expect
	default:
		return e, false
	}
}

// lockState is a lock. Its token is unseen where it was granted to somebody who
// has not been told yet.
type lockState struct {
	top, token    uint64
	holder, queue string
}

// granted reports whether the lock can be held under a token, and what it is
// then.
func (l lockState) granted(token uint64) (lockState, bool) {
	if l.token == unseen && token > l.top {
		l.token, l.top = token, token
	}
	return l, l.token == token
}

// promote gives a free lock to the first of the queue.
func (l lockState) promote() lockState {
	if l.holder == "" && l.queue != "" {
		l.holder, l.queue, _ = strings.Cut(l.queue, " ")
		l.token = unseen
	}
	return l
}

func (l lockState) free() lockState {
	l.holder, l.token = "", 0
	return l.promote()
}

func (l lockState) has(owner string) bool {
	return l.holder == owner || slices.Contains(strings.Fields(l.queue), owner)
}

// lockModel follows holder and queue. No outcome may be unknown.
func lockModel(l lockState, s step) (lockState, bool) {
	switch s.name {
	case "queue up":
		if l.has(s.owner) {
			return l, s.unknown
		}
		l.queue = strings.TrimSpace(l.queue + " " + s.owner)
		return l.promote(), true
	case "granted":
		if l.holder != s.owner {
			return l, false
		}
		return l.granted(s.token)
	case "busy": // a try that failed
		return l, l.holder != ""
	case "release":
		now, ok := l.granted(s.token)
		switch {
		case s.held != (ok && now.holder == s.owner):
			return l, s.unknown
		case !s.held:
			return l, true
		}
		return now.free(), true
	case "get":
		if s.owner == "" {
			return l, l.holder == "" && l.queue == s.queue
		}
		now, ok := l.granted(s.token)
		return now, ok && now.holder == s.owner && now.queue == s.queue
	default:
		return l, false
	}
}

// looseLockModel follows the holder alone: it is for waiters who lose their
// places, and may have been granted the lock before they came back.
func looseLockModel(l lockState, s step) (lockState, bool) {
	switch {
	case s.name == "granted" && s.unknown:
		if l.holder == "" {
			l.holder, l.token = s.owner, unseen
		}
		return l, true
	case s.name == "granted":
		ok := l.holder == "" && s.token > l.top
		l.holder, l.token, l.top = s.owner, s.token, s.token
		return l, ok
	case s.name == "leave":
		if l.holder == s.owner {
			return l.free(), true
		}
		return l, true
	case s.name == "release" && (s.unknown || s.held):
		if ok := l.holder == s.owner && l.token == s.token; !ok {
			return l, s.unknown
		}
		return l.free(), true
	default: // nothing that changes the holder
		return l, true
	}
}
