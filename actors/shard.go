package actors

import (
	"strings"
	"sync/atomic"
	"time"

	pactor "github.com/asynkron/protoactor-go/actor"

	"github.com/quern-io/quern/failure"
)

// shard is the actor that owns all grains of one shard. All fields but the
// atomic ones and the mailbox belong to its turn.
//
// With many shards most of a small turn's time goes into fetching what it looks
// at. So what every turn needs stands first, in few cache lines, and the same
// holds for the parts: see [gate], [residents] and [watches].
type shard struct {
	rt      *Runtime
	box     *mailbox
	current *call
	kinds   []kindGrains
	epoch   atomic.Uint64
	phase   phase
	owned   atomic.Bool // whether phase is serving or, again, raising
	ready   atomic.Bool // whether phase is serving
	// waiting counts the calls in held, parked and at the gate.
	waiting int
	drained chan struct{} // not nil while the shard is to drain
	woken   []string      // by the turn that is run
	// chores: something may have become necessary that is no turn's work; see
	// endBatch.
	chores  bool
	turnArg Turn
	clock   shardClock
	counts  shardCounts

	residents residents
	gate      gate
	load      loadQueue
	watches   watches
	timers    timers

	id uint32
	// activation numbers the shard's lives in memory. What comes back into
	// the shard carries it, and is dropped where it is not the present one.
	activation uint64
	// granted is the last tenure that the owner of the leases gave, tenure that
	// of the present activation; nil where the runtime is not leased.
	granted  atomic.Pointer[tenure]
	tenure   *tenure
	leaving  callList       // answers that leave when the clock was looked at
	lapsed   int64          // the end of trust that was found to have passed; else 0
	refusal  *failure.Error // of the calls that come while idle or winding; nil: NOT_OWNER
	sequence uint64         // the last number that next returned
	scratch  []byte         // where replies are encoded
	items    []*grain       // of the column or transaction that is run
	undone   undoLog
	parked   parkedCalls
	held     callList // arrived while raising
	sessions sessionTable
	settled  chan struct{} // closed when a claim was served or lost
}

// shardCounts are read by the metrics.
type shardCounts struct {
	turns                                                  atomic.Uint64
	resident, sessions                                     atomic.Int64
	overloaded, panics, evicted, restarts, replays, events atomic.Uint64
	fenced, withheld, drains                               atomic.Uint64
	watchers                                               atomic.Int64
}

// batchCalls is how many calls run before the shard looks at its commit and
// its loads again.
const batchCalls = 64

func newShard(rt *Runtime, id uint32) *shard {
	s := &shard{id: id, rt: rt, box: newMailbox(rt.cfg.QueueLimit, &rt.calls)}
	s.box.interrupted = s.interrupted
	s.box.dead = func(c *call) {
		if c.event != nil {
			c.recycle()
			return
		}
		c.complete(errStopping)
	}
	s.turnArg.now, s.turnArg.next = s.now, s.next
	s.turnArg.wake = func(waiter string) { s.woken = append(s.woken, waiter) }
	s.forget()
	return s
}

// forget empties the memory.
func (s *shard) forget() {
	for i := range s.kinds {
		s.kinds[i].grains = nil // a session's memo may hold one of them, but not all
	}
	s.kinds = make([]kindGrains, len(s.rt.kinds))
	for i, k := range s.rt.kinds {
		undo := k.New()
		of := kindGrains{kind: k, grains: make(map[string]*grain), undo: undo}
		_, of.sized = undo.(Sizer)
		_, of.undoes = undo.(Undoer)
		_, of.pins = undo.(Pinner)
		s.kinds[i] = of
	}
	s.residents, s.undone = residents{}, undoLog{}
	s.counts.resident.Store(0)
}

// Receive implements pactor.Actor.
func (s *shard) Receive(ctx pactor.Context) {
	switch ctx.Message().(type) {
	case *mailbox:
		s.run()
	case *pactor.Restarting:
		s.counts.restarts.Add(1)
		s.reload(failure.New(failure.OutcomeUnknown, "the shard was restarted; the operation perhaps happened"))
	case *pactor.Stopped:
		s.close()
		s.box.stopped = true
	default: // Started and Stopping: the runtime drives the shard by events
	}
}

// run works off a part of what the mailbox has gathered.
func (s *shard) run() {
	s.clock.begin()
	n := uint64(0)
	for range batchCalls {
		if s.gate.full() && !s.gate.inFlight {
			break
		}
		c := s.box.pop()
		if c == nil {
			break
		}
		s.handle(c)
		n++
	}
	s.counts.turns.Add(n)
	if s.chores || s.tenure != nil {
		s.endBatch()
	}
}

// endBatch starts what the turns have made necessary. What goes straight leaves
// nothing to do, but for a grain that becomes dirty or is watched.
func (s *shard) endBatch() {
	if limit := s.rt.residentPerShard; s.residents.weight > limit {
		s.counts.evicted.Add(uint64(s.residents.evict(limit, s.now()))) //nolint:gosec // not negative
	}
	show(&s.counts.resident, s.residents.weight)
	show(&s.counts.sessions, len(s.sessionGrains().grains))
	switch s.phase {
	case serving:
	case winding:
		s.goOnWinding()
		return
	default:
		return
	}
	s.startLoad()
	s.tellNoted()
	s.cut()
	s.unstall()
	s.timers.goOn(s)
	if s.tenure != nil {
		s.letGo()
	}
	// A page of timers goes on, and a shard closes, when the last call has run.
	s.chores = s.timers.cursor != nil || s.drained != nil
	if s.drained != nil && s.quiet() {
		s.close()
	}
}

// show sets a figure for the metrics. A store costs more than a look.
func show(figure *atomic.Int64, value int) {
	if figure.Load() != int64(value) {
		figure.Store(int64(value))
	}
}

// handle runs one call, or puts it where it has to wait.
func (s *shard) handle(c *call) {
	s.current = c
	if c.plain {
		if g := s.straight(c); g != nil {
			s.plainTurn(g, c)
			s.current = nil
			return
		}
	}
	s.chores = true
	if !s.stalls() {
		c.release()
	}
	switch {
	case c.event != nil:
		event := c.event
		event()
		c.recycle()
	case c.grain != nil:
		s.wait(&s.gate.stalled, c) // and keeps its grain resident
	case c.parking != nil && !s.stalls():
		s.admit(c) // whatever has become of its caller; see comeBack
	case c.task != taskDue && c.givenUp() && c.session.ID == "":
		c.complete(errGivenUp)
	case c.deadline != 0 && c.deadline <= time.Now().UnixNano():
		c.complete(failure.New(failure.DeadlineExceeded, "the deadline had passed before the operation's turn"))
	case s.waiting >= s.rt.cfg.WaitLimit && !c.admitted:
		s.counts.overloaded.Add(1)
		c.complete(errShardFull)
	case s.stalls():
		s.wait(&s.gate.stalled, c)
	default:
		s.admit(c)
	}
	s.current = nil
}

// straight returns the resident grain of a plain call for whose turn nothing has
// to be done or waited for, and nil for all others. It is a short cut: what
// handle does with such a call is the same.
func (s *shard) straight(c *call) *grain {
	if s.tenure != nil || c.grain != nil || c.deadline != 0 && c.deadline <= time.Now().UnixNano() || c.abandoned() ||
		s.phase != serving || s.gate.full() || s.waiting >= s.rt.cfg.WaitLimit {
		return nil
	}
	g := s.kinds[c.kindIndex].grains[c.key]
	if g == nil || g.is(loading) {
		return nil
	}
	g.set(touched)
	return g
}

// release lets go of the grains that were kept resident until the call's turn.
func (c *call) release() {
	if g := c.grain; g != nil {
		c.grain = nil
		g.extra.released--
		g.tidy()
	}
	if len(c.pins) > 0 {
		c.unpin()
	}
}

// admit finds the call's grain and runs its turn, now or after the load.
func (s *shard) admit(c *call) {
	switch s.phase {
	case serving:
		if s.barred() {
			if c.task == taskDue {
				s.timers.next.Store(1) // it is looked for again
			}
			c.complete(errNotOwner)
			return
		}
	case raising:
		if c.task == taskDue {
			c.complete(nil)
		} else {
			s.wait(&s.held, c)
		}
		return
	case closed:
		c.complete(errStopping)
		return
	case idle, fenced, winding:
		c.complete(s.refused())
		return
	}
	switch {
	case c.task == taskOpen:
		s.openSession(c)
		return
	case c.session.ID != "":
		if settled := s.enter(c); settled {
			return
		}
		if c.givenUp() && c.parking == nil {
			s.giveUpNumber(c, errGivenUp)
			return
		}
	}
	switch {
	case c.column != nil:
		s.admitColumn(c)
		return
	case c.steps != nil:
		s.admitSteps(c)
		return
	}
	if c.task != taskDue && s.crowds(c.kindIndex, c.key) {
		s.refuseCrowding(c)
		return
	}
	s.dispatch(s.find(c.kindIndex, c.key), c)
}

// refused is the answer of a shard that this node does not serve.
func (s *shard) refused() error {
	if s.refusal != nil {
		return s.refusal
	}
	return errNotOwner
}

// crowds reports whether so much of what is resident cannot be evicted that the
// shard takes no more, and a grain would be more.
func (s *shard) crowds(kindIndex int, key string) bool {
	return s.residents.weight >= 4*s.rt.residentPerShard+s.rt.cfg.WaitLimit && s.kinds[kindIndex].grains[key] == nil
}

func (s *shard) refuseCrowding(c *call) {
	s.counts.overloaded.Add(1)
	c.complete(errShardFull)
}

// find returns a resident grain, or one whose record is about to be read.
func (s *shard) find(kindIndex int, key string) *grain {
	k := &s.kinds[kindIndex]
	g := k.grains[key]
	if g != nil {
		if !g.is(touched) { // a write would take the line from other processors
			g.set(touched)
		}
		return g
	}
	g = s.newGrain(k, key)
	g.set(loading)
	s.load.want(g, false, false)
	return g
}

// newGrain makes a grain resident. The key may be a part of something larger,
// which must not stay in memory with it.
func (s *shard) newGrain(k *kindGrains, key string) *grain {
	key = strings.Clone(key)
	g := &grain{key: key, kind: k, state: k.kind.New()}
	if k.topics[key] != nil {
		g.set(watched)
	}
	k.grains[key] = g
	s.residents.add(g)
	return g
}

// dispatch runs the call's turn, unless something must be read first.
func (s *shard) dispatch(g *grain, c *call) {
	if s.lacks(g, c.once != "", c.guard != nil) {
		s.wait(&g.extras().parked, c)
		return
	}
	s.turn(g, c)
}

// wait puts an accepted call into a list until something has come back.
func (s *shard) wait(l *callList, c *call) {
	c.admitted = true
	s.waiting++
	l.push(c)
}

// resume lets the calls of a list have their turns, in the order in which they
// came. They are left to the runner rather than run here, so that none is
// forgotten if one of them unwinds the goroutine.
func (s *shard) resume(l *callList) {
	s.waiting -= l.n
	s.box.ready.append(l)
}

// interrupted answers the call during whose turn the runner's goroutine was
// unwound.
func (s *shard) interrupted() {
	c := s.current
	s.current = nil
	if c == nil || c.event != nil {
		return
	}
	s.counts.panics.Add(1)
	c.complete(failure.New(failure.OutcomeUnknown, "the turn was cut off; the operation perhaps happened"))
}
