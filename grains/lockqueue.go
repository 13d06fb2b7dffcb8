package grains

import (
	"container/heap"

	"github.com/quern-io/quern/actors"
)

// lock is one lock. Its zero value is a free one.
//
// Invariants, after each turn: holders are all shared, or all exclusive and at
// most permits; the head of the queue could not be admitted; permits is 0 where
// both lists are empty; armed is 0 where both are empty, else not later than
// the due time of any entry.
type lock struct {
	lockCore
	// soonest and wide are found from the lists. wide is nil while there are
	// few entries: looking at each is faster than a map then.
	soonest dueHeap
	wide    *lockIndex
	log     *lockLog   // of the turn; nil where the shard undoes by Assign
	spare   *lockEntry // for the next owner
}

// lockCore is what a turn's undo puts back as a whole.
type lockCore struct {
	holders, queue entryList
	permits        uint32
	bytes          int   // of the record, about
	armed          int64 // see Due
	reloaded       bool  // was read from its record and has had no turn since
}

type entryState uint8

const (
	queued entryState = iota
	granted
	held
)

// lockEntry is what one owner has of a lock.
type lockEntry struct {
	prev, next *lockEntry
	owner      string
	token      uint64
	ttl        int64 // milliseconds
	due        int64 // when the lock ends the entry's state
	place      int32 // in the heap
	state      entryState
	shared     bool
	away       bool // from before a reload: nobody is known to be waiting
}

// entryList is a doubly linked list of entries.
type entryList struct {
	first, last *lockEntry
	n           uint32
}

// narrow is how many entries are searched without an index.
const narrow = 8

type lockIndex struct {
	owners map[string]*lockEntry
	tokens map[uint64]*lockEntry
}

// find returns an owner's entry.
func (l *lock) find(owner string) *lockEntry {
	if l.wide != nil {
		return l.wide.owners[owner]
	}
	for e := l.holders.first; e != nil; e = e.next {
		if e.owner == owner {
			return e
		}
	}
	for e := l.queue.first; e != nil; e = e.next {
		if e.owner == owner {
			return e
		}
	}
	return nil
}

// findToken returns the entry that a token was granted to, while it lasts.
func (l *lock) findToken(token uint64) *lockEntry {
	if l.wide != nil {
		return l.wide.tokens[token]
	}
	for e := l.holders.first; e != nil; e = e.next {
		if e.token == token {
			return e
		}
	}
	return nil
}

// admits reports whether the present holders leave room for one more.
func (l *lock) admits(shared bool) bool {
	switch {
	case l.holders.n == 0:
		return true
	case shared != l.holders.first.shared:
		return false
	case shared:
		return l.holders.n < MaxLockHolders
	default:
		return l.holders.n < l.permits
	}
}

// add appends an entry to a list.
func (l *lock) add(to *entryList, w wanted, state entryState, due int64) *lockEntry {
	e := l.spare
	l.spare = nil
	if e == nil {
		e = &lockEntry{}
	}
	*e = lockEntry{owner: w.owner, ttl: w.ttl, shared: w.shared, state: state, due: due}
	l.permits = w.permits
	l.bytes += len(e.owner) + entryBytes
	l.link(to, e)
	heap.Push(&l.soonest, e)
	if l.wide != nil {
		l.wide.owners[e.owner] = e
	} else if l.holders.n+l.queue.n > narrow {
		l.index()
	}
	return e
}

// index builds the maps.
func (l *lock) index() {
	l.wide = &lockIndex{make(map[string]*lockEntry), make(map[uint64]*lockEntry)}
	for _, list := range [...]*entryList{&l.holders, &l.queue} {
		for e := list.first; e != nil; e = e.next {
			l.wide.owners[e.owner] = e
			if e.token != 0 {
				l.wide.tokens[e.token] = e
			}
		}
	}
}

func (l *lock) setToken(e *lockEntry, token uint64) {
	e.token = token
	if l.wide != nil {
		l.wide.tokens[token] = e
	}
}

// setDue moves an entry in the heap. The entry was touched.
func (l *lock) setDue(e *lockEntry, due int64) {
	e.due = due
	heap.Fix(&l.soonest, int(e.place))
}

func (l *lock) link(to *entryList, e *lockEntry) {
	e.prev, e.next = to.last, nil
	if to.last == nil {
		to.first = e
	} else {
		l.touch(to.last)
		to.last.next = e
	}
	to.last = e
	to.n++
}

func (l *lock) unlink(from *entryList, e *lockEntry) {
	if e.prev == nil {
		from.first = e.next
	} else {
		l.touch(e.prev)
		e.prev.next = e.next
	}
	if e.next == nil {
		from.last = e.prev
	} else {
		l.touch(e.next)
		e.next.prev = e.prev
	}
	from.n--
}

// remove ends an entry.
func (l *lock) remove(from *entryList, e *lockEntry) {
	l.touch(e)
	l.unlink(from, e)
	heap.Remove(&l.soonest, int(e.place))
	l.bytes -= len(e.owner) + entryBytes
	if l.wide != nil {
		delete(l.wide.owners, e.owner)
		delete(l.wide.tokens, e.token)
	}
	if l.holders.n+l.queue.n == 0 {
		l.permits, l.wide = 0, nil
	}
	*e = lockEntry{}
	l.spare = e
}

// leave ends an entry, whatever it is, and answers who waits for it.
func (l *lock) leave(t *actors.Turn, e *lockEntry) {
	if e.state == held {
		l.remove(&l.holders, e)
		return
	}
	if !e.away {
		t.Wake(e.owner)
	}
	if e.state == queued {
		l.remove(&l.queue, e)
	} else {
		l.remove(&l.holders, e)
	}
}

// promote grants the lock to the head of the queue, as often as there is room.
func (l *lock) promote(t *actors.Turn) {
	for e := l.queue.first; e != nil && l.admits(e.shared); e = l.queue.first {
		l.touch(e)
		l.unlink(&l.queue, e)
		l.link(&l.holders, e)
		e.state = granted
		l.setToken(e, t.Next())
		due := e.due // whoever is away has its time already
		if !e.away {
			due = t.Now() + min(e.ttl, comeBack)
			t.Wake(e.owner)
		}
		l.setDue(e, due)
	}
}

// expire ends what is due, in the order in which it came due, so that a waiter
// whose wait ended after the lease ahead of it gets the lock.
func (l *lock) expire(t *actors.Turn) (changed bool) {
	for len(l.soonest) > 0 && l.soonest[0].due <= t.Now() {
		l.leave(t, l.soonest[0])
		l.promote(t)
		changed = true
	}
	return changed
}

// start gives times to what was read from a record. Undo does not take it
// back, or a refused call would make the leases longer.
func (l *lock) start(now int64) {
	if !l.reloaded {
		return
	}
	l.reloaded = false
	for e := l.holders.first; e != nil; e = e.next {
		e.due = now + e.ttl
		if e.state == granted {
			e.away, e.due = true, now+min(e.ttl, comeBack)
		}
	}
	for e := l.queue.first; e != nil; e = e.next {
		e.away, e.due = true, now+min(e.ttl, comeBack)
	}
	heap.Init(&l.soonest)
	if l.log != nil {
		l.log.core = l.lockCore
	}
}

// arm keeps armed within its invariant, and reports whether it moved. An
// armed time that has come is set anew.
func (l *lock) arm(now int64) (moved bool) {
	next := int64(0)
	if len(l.soonest) > 0 {
		next = l.soonest[0].due
		if now < l.armed && l.armed <= next {
			return false
		}
	}
	moved = l.armed != next
	l.armed = next
	return moved
}

// Due implements actors.State.
func (l *lock) Due() int64 { return l.armed }

// Pinned implements actors.Pinner: a lock that is read anew starts its leases
// anew, so it must not be evicted and read again and again.
func (l *lock) Pinned() bool { return l.holders.n > 0 || l.queue.n > 0 }

// dueHeap is a heap of all entries by their due times.
type dueHeap []*lockEntry

// Len implements heap.Interface.
func (h *dueHeap) Len() int { return len(*h) }

// Less implements heap.Interface. At the same time a hold ends before a wait:
// whoever still waited then gets the lock.
func (h *dueHeap) Less(i, j int) bool {
	a, b := (*h)[i], (*h)[j]
	return a.due < b.due || a.due == b.due && a.token != 0 && b.token == 0
}

// Swap implements heap.Interface.
func (h *dueHeap) Swap(i, j int) {
	a, b := (*h)[j], (*h)[i]
	(*h)[i], (*h)[j] = a, b
	a.place, b.place = int32(i), int32(j) //nolint:gosec // at most 200,000
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	e, _ := x.(*lockEntry)
	e.place = int32(len(*h)) //nolint:gosec // at most 200,000
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
