package handles

import (
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Guard names the lock under which something is written, and the fencing token
// that its holder was given. A key that was written under a guard remembers the
// highest token of that lock; a write under a lower one is refused with
// FENCED_TOKEN, so that a holder that has lost the lock without knowing can do
// no harm. The lock may be of any shard: it is not asked.
//
// A key remembers 16 locks; one that it was not written under for 7 days gives
// way to another. Where there is none the write is refused with OVERLOADED.
type Guard struct {
	// Lock is the lock's key.
	Lock string
	// Token is the fencing token; 0 is refused.
	Token uint64
}

// message is the guard on the wire; nil for none.
func (g *Guard) message() *quernv1.Guard {
	if g == nil {
		return nil
	}
	return &quernv1.Guard{Lock: g.Lock, Token: g.Token}
}

// Guard returns the guard of an operation's request, nil where it has none.
func (op *Operation) Guard() *Guard {
	if !op.Method.Write {
		return nil
	}
	var m *quernv1.Guard
	switch q := op.Request.(type) {
	case *quernv1.CounterServiceAddRequest: // by far the most frequent one
		m = q.GetGuard()
	case interface{ GetGuard() *quernv1.Guard }:
		m = q.GetGuard()
	}
	if m == nil {
		return nil
	}
	return &Guard{Lock: m.GetLock(), Token: m.GetToken()}
}

// Guarded returns a handle whose writes carry a guard.
func (c Counter) Guarded(g Guard) Counter {
	c.guard = &g
	return c
}

// Guarded returns a handle whose writes carry a guard.
func (m MapEntry) Guarded(g Guard) MapEntry {
	m.guard = &g
	return m
}

// Guarded returns a handle whose writes carry a guard, which is about another
// lock than this one. An Acquire that waits is held to it again when its turn
// comes. Of a [Lease] the renewals carry it, so that it is lost with
// FENCED_TOKEN when the guard is refused; that its Release gives the lock back
// harms nobody and needs no guard.
func (l Lock) Guarded(g Guard) Lock {
	l.guard = &g
	return l
}

// unguarded is a handle that gives back what one of a guarded handle has.
func (l Lock) unguarded() Lock {
	l.guard = nil
	return l
}

// Guard returns the guard of what is written under this lease.
func (l *Lease) Guard() Guard { return Guard{Lock: l.lock.Key(), Token: l.Token()} }
