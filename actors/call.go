package actors

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// The life of a call's slot. The side that completes it swaps in answered; the
// caller moves it to parked before it blocks and to abandoned when it gives up.
//
//	waiting ──► answered            (completed before the caller blocked)
//	waiting ──► parked ──► answered (the completer wakes the caller)
//	            parked ──► abandoned ──► answered (nobody waits any more)
const (
	slotWaiting uint32 = iota
	slotParked
	slotAnswered
	slotAbandoned
)

// call is one operation on its way through a shard, or, where event is set,
// something that comes back into the shard. It is also the reply slot: whoever
// completes it may not touch it afterwards, since its caller may have put it
// back into the pool by then.
type call struct {
	// next links calls in the mailbox, in a grain's queue and at the gate,
	// one at a time.
	next *call
	// depth is the number of calls below this one in the mailbox's stack.
	// A pusher may read it of a call that has left the stack meanwhile.
	depth atomic.Int32

	state atomic.Uint32
	wake  chan struct{}
	home  *callPool

	// plain: an operation that has none of what stands in rare, and is of a
	// kind that does not park. See [shard.straight].
	plain     bool
	task      task
	admitted  bool  // had been accepted before it had to wait
	wrote     bool  // its turn changed something, or is not to be run again
	numbered  bool  // it put its result into its session, or took it from there
	reruns    uint8 // how often it ran on a state that was then undone
	kindIndex int
	done      Completer // takes the end where nobody waits
	grain     *grain    // at the gate: whose state it tells of
	event     func()
	deadline  int64 // Unix nanoseconds by the wall clock; 0 is none

	key, method    string
	command, reply proto.Message
	err            error
	epoch          uint64 // of the turn; 0 where there was none

	rare
	parked parking  // valid where parking is not nil
	pins   []*grain // that a waiting column keeps resident
}

// rare is what not all calls have. It is cleared as a whole.
type rare struct {
	session Session
	memo    *handles.Memo // of the session; may be nil
	client  *grain        // the session's, from the call's turn on
	once    string
	hash    uint64 // of the request, where once is set
	guard   *Guard
	ticket  *Ticket  // of a kind that parks; nil where nobody can give up
	parking *parking // its own parked, from the turn that parked it to its next one
	column  Column
	broken  map[string]error // the keys of a column that could not be read
	steps   []Step           // where it is a transaction
	opening *opening         // where it opens a session
	due     int64            // of the timer whose turn this is
}

// task tells an operation from what the shard does for itself or its clients.
type task uint8

const (
	taskOperation task = iota
	taskDue            // the turn of a timer
	taskOpen           // opens a session
	taskClose          // closes one
	taskWatch          // begins a watch
)

// callPool recycles the calls of one runtime. It is not shared by several: a
// channel that was made in a synctest bubble must stay there.
type callPool struct{ free sync.Pool }

func (p *callPool) get() *call {
	if c, ok := p.free.Get().(*call); ok {
		c.state.Store(slotWaiting)
		return c
	}
	return &call{home: p, wake: make(chan struct{}, 1)}
}

func (c *call) recycle() {
	if !c.plain {
		c.rare = rare{}
		if c.parked.call != nil {
			c.parked = parking{}
		}
		if cap(c.pins) > keptPins {
			c.pins = nil
		}
	}
	c.plain, c.task, c.admitted, c.wrote, c.numbered, c.reruns = false, taskOperation, false, false, false, 0
	c.next, c.done, c.kindIndex, c.grain, c.event, c.deadline = nil, nil, 0, nil, nil, 0
	c.key, c.method, c.command, c.reply, c.err, c.epoch = "", "", nil, nil, nil, 0
	c.home.free.Put(c)
}

// keptPins bounds what a recycled call keeps of a column's pins.
const keptPins = 1024

// complete answers the call. The caller may reuse it at once.
func (c *call) complete(err error) {
	if !c.plain {
		if len(c.pins) > 0 {
			c.unpin()
		}
		if c.parking != nil {
			c.depart()
		}
	}
	if done := c.done; done != nil {
		epoch := c.epoch
		c.recycle()
		done.Completed(epoch, err)
		return
	}
	c.err = err
	switch c.state.Swap(slotAnswered) {
	case slotParked:
		c.wake <- struct{}{}
	case slotAbandoned:
		c.recycle()
	default:
	}
}

// abandoned reports whether the caller has given up and nobody will look at the
// slot.
func (c *call) abandoned() bool { return c.state.Load() == slotAbandoned }

// givenUp reports whether nobody waits for the answer any more.
func (c *call) givenUp() bool { return c.abandoned() || c.ticket != nil && c.ticket.given.Load() }

// wait blocks until the call is answered or ctx ends, and returns the epoch of
// its turn, if it is known. It takes the call from its caller in either case.
func (c *call) wait(ctx context.Context) (epoch uint64, err error) {
	ended := ctx.Done()
	switch {
	case c.state.Load() != slotWaiting || !c.state.CompareAndSwap(slotWaiting, slotParked):
	case ended == nil:
		<-c.wake
	default:
		ticket := c.ticket
		select {
		case <-c.wake:
		case <-ended:
			if c.state.CompareAndSwap(slotParked, slotAbandoned) {
				ticket.Cancel(true)
				return 0, gaveUp(ctx)
			}
			<-c.wake
		}
	}
	epoch, err = c.epoch, c.err
	c.recycle()
	return epoch, err
}

// gaveUp is the error of an operation whose caller stopped waiting.
func gaveUp(ctx context.Context) error {
	err := ctx.Err()
	if err == context.DeadlineExceeded {
		return failure.Wrap(err, failure.DeadlineExceeded, "the deadline passed before the answer; the operation perhaps happened")
	}
	return failure.Wrap(err, failure.Canceled, "the caller gave up before the answer; the operation perhaps happened")
}

// callList is a first-in, first-out list of calls.
type callList struct {
	first, last *call
	n           int
}

func (l *callList) push(c *call) {
	c.next = nil
	if l.last == nil {
		l.first = c
	} else {
		l.last.next = c
	}
	l.last = c
	l.n++
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
	l.n--
	c.next = nil
	return c
}

// append moves all calls of another list to the end of this one.
func (l *callList) append(other *callList) {
	for c := other.pop(); c != nil; c = other.pop() {
		l.push(c)
	}
}

// take empties the list into a new one.
func (l *callList) take() callList {
	taken := *l
	*l = callList{}
	return taken
}
