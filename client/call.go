package client

import (
	"sync"
	"time"

	"github.com/quern-io/quern/handles"
)

// call is one operation on its way. It belongs to the engine's lock.
type call struct {
	next  *call // in a callList
	op    *handles.Operation
	batch *batch
	part  *part // of a bulk operation, whose op it shares; else nil
	// column, where not nil, makes this no call, but what stands for the
	// column's on the stream.
	column *column

	state callState
	shard uint32
	id    uint64 // on the stream; 0 while it is on none
	link  *link  // the stream, where id is not 0
	waits bool   // it may wait for others
	// session is where number counts; nil for reads and operations with an
	// idempotency key.
	session *session
	number  uint64
	// sentAs is the id of the session under which number was given: the
	// session may have been opened anew meanwhile.
	sentAs   string
	attempts int
	// perhaps: an earlier attempt perhaps happened.
	perhaps bool
	err     error
}

type callState uint8

const (
	callQueued   callState = iota // waits for a stream or for room on it
	callNumber                    // waits for a session or a number
	callFlying                    // on the stream
	callDelayed                   // will be tried again
	callAnswered                  // its batch knows
	callLeft                      // its caller has left while it was flying
)

// batch is what one caller waits for.
type batch struct {
	calls []call
	// deadline is the caller's, 0 for none; patience is when trying again
	// ends.
	deadline, patience time.Time
	left               int  // unanswered
	turn               uint // which stream it goes to
	wake               chan struct{}
	// reused: nothing else points to the calls once all are answered.
	reused bool
}

// batchPool recycles the batches of one engine. It is not shared by several: a
// channel that was made in a synctest bubble must stay there.
type batchPool struct{ free sync.Pool }

func (p *batchPool) get(n int) *batch {
	b, ok := p.free.Get().(*batch)
	if !ok {
		b = &batch{wake: make(chan struct{}, 1)}
	}
	if cap(b.calls) < n {
		b.calls = make([]call, n)
	}
	b.calls, b.left, b.reused = b.calls[:n], n, true
	return b
}

// maxKeptCalls is the largest batch that is kept for another use.
const maxKeptCalls = 1024

// put takes an answered batch back.
func (p *batchPool) put(b *batch) {
	if !b.reused || cap(b.calls) > maxKeptCalls {
		return
	}
	clear(b.calls)
	b.deadline, b.patience = time.Time{}, time.Time{}
	p.free.Put(b)
}

// callList is a first-in, first-out list of calls.
type callList struct{ first, last *call }

func (l *callList) push(c *call) {
	c.next = nil
	if l.last == nil {
		l.first = c
	} else {
		l.last.next = c
	}
	l.last = c
}

func (l *callList) pop() *call {
	c := l.first
	if c == nil {
		return nil
	}
	l.first = c.next
	if l.first == nil {
		l.last = nil
	}
	c.next = nil
	return c
}

// remove takes out the calls that drop is true for.
func (l *callList) remove(drop func(*call) bool) {
	all := *l
	*l = callList{}
	for c := all.pop(); c != nil; c = all.pop() {
		if !drop(c) {
			l.push(c)
		}
	}
}
