package actors

import (
	"cmp"
	"container/heap"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
)

// parkedCalls is what a shard knows of its calls that wait for a wake-up.
type parkedCalls struct {
	n   int
	seq uint64 // of the last one
	// late holds those that nobody else watches, by their deadlines.
	late deadlines
	// next is the first deadline, in Unix nanoseconds; 0 is none. The sweeper
	// reads it.
	next atomic.Int64
}

// waiters are the calls that are parked at a grain under one name.
type waiters struct {
	name  string
	first *parking // of those that were not woken
	last  *parking
	n     int // those, and the woken ones that have not run again
}

// parking is a call's place among them. It is a part of the call.
type parking struct {
	call       *call
	grain      *grain
	group      *waiters
	prev, next *parking // in the group
	activation uint64
	seq        uint64
	late       int // in the heap; -1 where it is not there
}

func (w *waiters) add(p *parking) {
	p.prev = w.last
	if w.last == nil {
		w.first = p
	} else {
		w.last.next = p
	}
	w.last = p
}

func (w *waiters) remove(p *parking) {
	if p.prev == nil {
		w.first = p.next
	} else {
		p.prev.next = p.next
	}
	if p.next == nil {
		w.last = p.prev
	} else {
		p.next.prev = p.prev
	}
	p.prev, p.next = nil, nil
}

// Ticket gives up an operation that may wait. The shard undoes what the
// operation has left behind, and completes it with CANCELED, unless its answer
// was there before.
type Ticket struct {
	shard *shard
	given atomic.Bool
	// final: nobody will ask again under the operation's number.
	final  atomic.Bool
	parked *call // belongs to the shard's turn
}

// Cancel gives up. It may be called at any time, more than once, and on nil.
// Where it is final the end is kept under the operation's number, if it has one,
// so that a copy that comes late does not wait again; else its client may come
// back with the number.
func (t *Ticket) Cancel(final bool) {
	if t == nil {
		return
	}
	if final {
		t.final.Store(true)
	}
	if !t.given.Swap(true) {
		t.shard.box.post(func() { t.shard.giveUp(t) })
	}
}

// giveUp ends a parked call whose caller has gone. One that had no turn yet, or
// was woken, sees it for itself.
func (s *shard) giveUp(t *Ticket) {
	if t.parked != nil {
		s.endParked(t.parked, errGivenUp)
	}
}

// mayPark reports whether err is no failure but a wait, which only a kind that
// can undo it may ask for. A due turn and an item of a column have nobody who
// could wait.
func (s *shard) mayPark(g *grain, c *call, command proto.Message, err error) bool {
	_, parks := err.(*Parked) //nolint:errorlint // handlers return it bare
	_, cancels := g.state.(Canceler)
	return parks && cancels && command != nil && c.column == nil && c.steps == nil
}

var errLate = failure.New(failure.DeadlineExceeded, "the deadline passed while the operation waited; it was given back")

// parkedTurn ends a turn whose call has to wait.
func (s *shard) parkedTurn(g *grain, c *call, name string, before int, changed, resumed bool) {
	if refused := s.parkRefusal(resumed); refused != nil {
		s.undo(g)
		c.complete(refused)
		return
	}
	c.wrote = true
	if c.guard != nil {
		changed = s.noteGuard(g, c.guard) || changed
	}
	if changed {
		s.markChanged(g, before)
	}
	s.wakeUp(g)
	s.park(g, c, name)
}

func (s *shard) parkRefusal(resumed bool) error {
	switch {
	case s.drained != nil, s.rt.noWaits.Load():
		return errStopping
	case !resumed && s.rt.parked.Load() >= int64(s.rt.cfg.ParkLimit):
		s.counts.overloaded.Add(1)
		return errParkFull
	default:
		return nil
	}
}

func (s *shard) park(g *grain, c *call, name string) {
	c.plain = false
	w := g.extras().group(name)
	s.parked.seq++
	p := &c.parked
	*p = parking{call: c, grain: g, group: w, activation: s.activation, seq: s.parked.seq, late: -1}
	c.parking = p
	if c.client != nil {
		c.client.extras().released++ // to keep it resident
	}
	w.add(p)
	w.n++
	s.parked.n++
	s.rt.parked.Add(1)
	if c.ticket != nil {
		c.ticket.parked = c
	}
	if c.done != nil && c.deadline != 0 {
		heap.Push(&s.parked.late, c.parking)
		s.showLate()
	}
}

// group returns the waiters of a name, new ones where nobody waits under it.
func (x *extra) group(name string) *waiters {
	w := x.waiters[name]
	if w != nil {
		return w
	}
	if x.waiters == nil {
		x.waiters = make(map[string]*waiters)
	}
	if w = x.spare; w == nil {
		w = new(waiters)
	}
	x.spare, w.name = nil, name
	x.waiters[name] = w
	return w
}

// leave takes a parked call out of the list, because it was woken or ends.
func (s *shard) leave(c *call) {
	c.parking.group.remove(c.parking)
	s.left(c)
}

// left follows a call that is in no list any more.
func (s *shard) left(c *call) {
	s.parked.n--
	s.rt.parked.Add(-1)
	if c.ticket != nil {
		c.ticket.parked = nil
	}
	if g := c.client; g != nil {
		g.extra.released--
		g.tidy()
	}
	if p := c.parking; p.late >= 0 {
		heap.Remove(&s.parked.late, p.late)
		s.showLate()
	}
}

// depart ends a call's membership in its group, and reports whether it was the
// last. The call is in no list.
func (c *call) depart() (last bool) {
	p := c.parking
	c.parking = nil
	w := p.group
	w.n--
	if w.n > 0 {
		return false
	}
	if x := p.grain.extra; x != nil && x.waiters[w.name] == w {
		delete(x.waiters, w.name)
		w.name, x.spare = "", w
		p.grain.tidy()
	}
	return true
}

// wakeUp lets the calls run again that the last turn has woken.
func (s *shard) wakeUp(g *grain) {
	for i, name := range s.woken {
		s.woken[i] = ""
		if g.extra == nil {
			continue
		}
		w := g.extra.waiters[name]
		for w != nil && w.first != nil {
			c := w.first.call
			s.leave(c)
			c.grain = g
			g.extra.released++
			s.box.ready.push(c)
		}
	}
	s.woken = s.woken[:0]
}

// comeBack begins the next turn of a call that was parked. It reports whether
// the call goes on as one that was woken, whether it is then the last one of its
// name, or has ended here since nobody waits for it any more. After a reload it
// is a call like any other.
func (s *shard) comeBack(g *grain, c *call) (resumed, last, ended bool) {
	p := c.parking
	resumed = p.activation == s.activation && p.grain == g
	var err *failure.Error
	switch {
	case c.givenUp():
		err = errGivenUp
	case c.done != nil && c.deadline != 0 && c.deadline <= time.Now().UnixNano():
		err = errLate
	case c.once != "" && g.once().entries[c.once] != nil:
		s.forsake(c) // answered already, as another request perhaps
		return false, false, false
	default:
		last = c.depart()
		return resumed, resumed && last, false
	}
	s.forsake(c)
	s.giveUpNumber(c, err)
	return resumed, false, true
}

// giveUpNumber answers a call whose caller has gone with err. Where it has gone
// for good that is kept under the call's number.
func (s *shard) giveUpNumber(c *call, err *failure.Error) {
	final := c.session.ID != "" && c.ticket != nil && c.ticket.final.Load()
	if final && (c.client == nil || c.client.is(dropped)) {
		// Its session is not at hand: admit finds it, and comes here again.
		c.client, c.admitted = nil, true
		s.box.ready.push(c)
		return
	}
	if g := c.client; final && g.session().open() && c.kept() == nil {
		if l := g.session().lane(&c.session); c.session.Number > l.done {
			weight, bytes := g.weight(), g.session().bytes()
			l.keepRefusal(c.session.Number, err)
			s.resultKept(c, weight, bytes)
		}
	}
	c.complete(err)
}

// endParked ends a call that is parked, and gives back what it has asked for.
func (s *shard) endParked(c *call, err *failure.Error) {
	g := c.parking.grain
	c.epoch = s.epoch.Load()
	s.leave(c) // before anything can complete it
	if broken := s.expire(g, c); broken != nil {
		s.rt.log.Warn("due turn failed", slog.Any("shard", s.id), slog.Any("err", broken))
	}
	s.forsake(c)
	s.giveUpNumber(c, err)
}

// forsake gives back what a parked call has asked for, since it ends without
// another turn of its handler. A call that is not parked has asked for nothing.
func (s *shard) forsake(c *call) {
	p := c.parking
	if p == nil {
		return
	}
	if last := c.depart(); last && p.activation == s.activation && p.grain.flags&(dropped|loading) == 0 {
		s.cancel(p.grain, c)
	}
}

// cancel runs the turn that undoes what a call has left in the state.
func (s *shard) cancel(g *grain, c *call) {
	canceler, ok := g.state.(Canceler)
	if !ok {
		return
	}
	before, returned := g.size(), false
	g.begin()
	defer func() {
		if returned {
			return
		}
		reason := recover()
		s.undo(g)
		s.counts.panics.Add(1)
		s.rt.log.Error("cancel panicked", slog.String("kind", g.kind.kind.Name()), slog.Any("shard", s.id),
			slog.Any("panic", reason), slog.String("stack", string(debug.Stack())))
		if reason == nil { // a Goexit: nobody comes back to answer
			s.current = nil
			c.complete(errGivenUp)
		}
	}()
	s.turnArg.key = g.key
	changed := canceler.Cancel(&s.turnArg, c.command)
	returned = true
	if changed {
		s.markChanged(g, before)
	}
	s.wakeUp(g)
}

// failWaiters answers the calls that are parked at a grain with err.
func (s *shard) failWaiters(g *grain, err error) {
	if g.extra == nil {
		return
	}
	for _, w := range g.extra.waiters {
		for w.first != nil {
			c := w.first.call
			s.leave(c)
			c.complete(err)
		}
	}
}

// failParked answers all parked calls with err. Their places stay.
func (s *shard) failParked(err error) {
	if s.parked.n == 0 {
		return
	}
	for i := range s.kinds {
		for _, g := range s.kinds[i].grains {
			s.failWaiters(g, err)
		}
	}
}

// failHeldWaits answers the calls that could wait once more when their shard
// serves again.
func (s *shard) failHeldWaits() {
	calls := s.held.take()
	for c := calls.pop(); c != nil; c = calls.pop() {
		if !s.rt.parks[c.kindIndex] || c.ticket == nil {
			s.held.push(c)
			continue
		}
		s.waiting--
		c.complete(errStopping)
	}
}

// holdParked makes the parked calls new ones for the next activation, in the
// order in which they came.
func (s *shard) holdParked() {
	var calls []*call
	for i := range s.kinds {
		if s.parked.n == 0 {
			break
		}
		for _, g := range s.kinds[i].grains {
			if g.extra == nil {
				continue
			}
			for _, w := range g.extra.waiters {
				for w.first != nil {
					c := w.first.call
					s.leave(c)
					calls = append(calls, c)
				}
			}
		}
	}
	slices.SortFunc(calls, func(a, b *call) int { return cmp.Compare(a.parking.seq, b.parking.seq) })
	for _, c := range calls {
		c.depart()
		c.wrote, c.client = false, nil
		s.wait(&s.held, c)
	}
}
