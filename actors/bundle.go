package actors

import (
	"time"
)

// Bundle gathers operations for one shard, which go there together: they find
// it idle or busy once, and have their turns in a row where nothing has to be
// waited for. Its zero value is empty and ready. One goroutine uses it at a time.
type Bundle struct{ calls callList }

// Add is [Runtime.Submit], but for the shard. What is refused at once goes to
// done before Add returns.
func (r *Runtime) Add(b *Bundle, op *Operation, deadline time.Time, done Completer) {
	c, err := r.newCall(op)
	if err != nil {
		done.Completed(0, err)
		return
	}
	if !deadline.IsZero() {
		c.deadline = deadline.UnixNano()
	}
	c.done = done
	b.calls.push(c)
}

// AddColumn is [Runtime.SubmitColumn], but for the shard. memo is of the session;
// it may be nil.
func (r *Runtime) AddColumn(b *Bundle, op *Operation, column Column, deadline time.Time, done Completer) {
	c, err := r.newColumn(op, column, deadline)
	if err != nil {
		done.Completed(0, err)
		return
	}
	c.done = done
	b.calls.push(c)
}

// SubmitBundle submits what the bundle has gathered, oldest first, and empties
// it. It takes all of it, or refuses all where the shard's queue is full.
func (r *Runtime) SubmitBundle(shard uint32, b *Bundle) {
	s, calls := r.shards[shard], b.calls.take()
	if calls.n == 0 || s.box.submitAll(calls) {
		return
	}
	s.counts.overloaded.Add(uint64(calls.n)) //nolint:gosec // not negative
	for c := calls.pop(); c != nil; c = calls.pop() {
		c.complete(errShardFull)
	}
}

// Fail answers what was added and not submitted, and empties the bundle.
func (b *Bundle) Fail(err error) {
	calls := b.calls.take()
	for c := calls.pop(); c != nil; c = calls.pop() {
		c.complete(err)
	}
}

// submitAll is submit for many operations. The queue may pass its limit by what
// is submitted at once.
func (m *mailbox) submitAll(calls callList) bool {
	oldest, newest := calls.first, calls.last
	stacked := false // the links go from the newest to the oldest
	for {
		top := m.head.Load()
		if top == nil {
			if !m.head.CompareAndSwap(nil, &m.busy) {
				continue
			}
			if stacked {
				turnRound(newest, oldest)
			}
			newest.next = nil
			m.todo = oldest
			m.drive(inlineCalls)
			return true
		}
		depth := int32(0)
		if top != &m.busy {
			if depth = top.depth.Load(); depth >= m.limit {
				if stacked {
					turnRound(newest, oldest)
				}
				return false
			}
		}
		if !stacked {
			turnRound(oldest, newest)
			stacked = true
		}
		newest.depth.Store(depth + int32(calls.n)) //nolint:gosec // as many as fit into a frame
		oldest.next = top
		if m.head.CompareAndSwap(top, newest) {
			return true
		}
	}
}

// turnRound makes the links of a list of calls go the other way.
func turnRound(first, last *call) {
	var before *call
	for c := first; ; {
		next := c.next
		c.next = before
		if c == last {
			return
		}
		before, c = c, next
	}
}
