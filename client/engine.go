package client

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
)

// engine runs operations over one stream at a time. Callers add operations to
// the stream's next frame; the stream's writer sends whatever has gathered, so
// that callers share frames the more of them there are; its reader hands out
// the answers.
type engine struct {
	options Options
	shards  uint32 // set before the first operation
	batches batchPool

	mu sync.Mutex // guards what follows
	// links are the streams, nil where there is none at present: first home of
	// the client's own, then those to owners. turn counts whose it is of the
	// former; see nextTurn.
	links    []*link
	home     int
	turn     uint
	routes   routes
	owners   owners
	queue    callList
	sessions []*session // by shard; nil where none was wanted yet
	closed   bool
	down     error // why there is no stream, once that is known
	stats    Stats
	// timers are for what will be tried again: a call, or, where it is nil, a
	// session.
	timers map[*time.Timer]*call
	// closing is how many sessions are being closed; settled is closed when
	// none is left.
	closing int
	settled chan struct{}
}

// Stats are what a client has done so far.
type Stats struct {
	// Operations were answered or given up, of which Failed with an error.
	Operations, Failed uint64
	// Retries are attempts after an operation's first.
	Retries uint64
	// Frames were sent: under load many operations share one.
	Frames uint64
	// Connects counts the streams that came up.
	Connects uint64
}

func newEngine(o Options) *engine {
	return &engine{
		options: o, timers: make(map[*time.Timer]*call), settled: make(chan struct{}),
		routes: routes{news: make(chan struct{}, 1)},
	}
}

// Bounds of the pause before another attempt.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// run carries out operations and returns when each is answered, in its Err, or
// ctx has ended.
func (e *engine) run(ctx context.Context, ops []*handles.Operation) {
	b := e.batches.get(len(ops))
	for i, op := range ops {
		b.calls[i].op = op
	}
	e.carryOut(ctx, b)
	for i, op := range ops {
		op.Err = b.calls[i].err
	}
	e.batches.put(b)
}

// carryOut returns when each call of a batch is answered, or ctx has ended.
func (e *engine) carryOut(ctx context.Context, b *batch) {
	d, bounded := ctx.Deadline()
	if bounded {
		b.deadline, b.patience = d, d
	}
	if !bounded || e.options.Patience < 0 {
		b.patience = time.Now().Add(e.options.Patience)
	}
	e.mu.Lock()
	b.turn = e.nextTurn()
	for i := range b.calls {
		c := &b.calls[i]
		c.batch = b
		e.begin(c)
	}
	e.kick()
	e.mu.Unlock()
	select {
	case <-b.wake:
	case <-ctx.Done():
		e.leave(ctx, b)
	}
}

// kick wakes the stream's writer where there is something to send.
func (e *engine) kick() {
	for _, l := range e.links {
		if l != nil && (len(l.ready) > 0 || l.out.len() > 0 || len(l.cancels) > 0 || l.columns.open != nil) {
			l.wakeWriter()
		}
	}
}

// leave gives up what is not answered yet.
func (e *engine) leave(ctx context.Context, b *batch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unlist(b)
	for i := range b.calls {
		if c := &b.calls[i]; c.state != callAnswered {
			e.desert(c, contextEnded(ctx.Err()))
		}
	}
	e.kick() // what they have settled may have made room for others
	<-b.wake // it is there: all are answered
}

// desert answers a call before the node does. What flies still gets its answer,
// and only then is its number settled; it and what a timer points to keep their
// batch from being used again.
func (e *engine) desert(c *call, err error) {
	before := c.state
	if before == callFlying || before == callDelayed {
		c.batch.reused = false
	}
	e.answer(c, err)
	if before == callFlying {
		c.state = callLeft
		if c.waits {
			c.link.cancel(c.id)
		}
	}
}

// unlist takes the calls of a batch out of the lists in which they wait.
func (e *engine) unlist(b *batch) {
	own := func(c *call) bool { return c.batch == b }
	e.queue.remove(own)
	seen := make(map[*session]struct{})
	for i := range b.calls {
		c := &b.calls[i]
		if _, done := seen[c.session]; c.state == callNumber && !done {
			c.session.remove(own)
			seen[c.session] = struct{}{}
		}
	}
}

// begin takes a call on its way: to the stream, or to where it has to wait. It
// needs mu, as all that follows.
func (e *engine) begin(c *call) {
	if e.closed {
		e.answer(c, errClosed)
		return
	}
	if e.down != nil && e.options.Patience < 0 {
		e.answer(c, unreached(c, e.down))
		return
	}
	op := c.op
	c.waits = op.MayWait()
	if c.part == nil {
		c.shard = keyspace.Shard(op.Key, e.shards)
	}
	if op.Method.Write && !c.repeats() && !e.number(c) {
		return
	}
	e.send(c)
}

// number gives a call its number in the session at its shard. It returns false
// where the call has to wait for that.
func (e *engine) number(c *call) bool {
	s := e.sessions[c.shard]
	if s == nil {
		s = &session{shard: c.shard}
		s.waits.kept = 1
		e.sessions[c.shard] = s
	}
	c.session = s
	if c.number != 0 && c.sentAs == s.id {
		return true
	}
	if c.number != 0 && c.perhaps {
		e.answer(c, c.verdict(errSessionGone))
		return false
	}
	all := s.of(c)
	if s.state == sessionOpen && all.waiting.first == nil {
		if n, ok := all.next(); ok {
			c.number, c.sentAs = n, s.id
			return true
		}
	}
	c.state = callNumber
	all.waiting.push(c)
	e.open(s)
	e.renumber(s)
	return false
}

// open asks for a session where there is none.
func (e *engine) open(s *session) {
	l := e.owner(s.shard)
	if l == nil {
		l = e.up()
	}
	if s.state == sessionNone && l != nil {
		s.state, s.opener = sessionOpening, l
		l.open(s.shard)
	}
}

// send puts a call into the stream's next frame, or into the queue.
func (e *engine) send(c *call) {
	l := e.pick(c)
	if l == nil || e.queue.first != nil {
		c.state = callQueued
		e.queue.push(c)
		return
	}
	e.put(l, c)
}

func (e *engine) put(l *link, c *call) {
	if c.session != nil && c.sentAs != c.session.id {
		e.begin(c) // its session was replaced while it waited
		return
	}
	if err := l.put(c); err != nil {
		if c.perhaps && c.op.Method.Write {
			err = failure.New(failure.OutcomeUnknown, "the operation perhaps happened; it cannot be sent again: %s", err.Message)
		}
		e.answer(c, err)
		return
	}
	c.state = callFlying
	if c.attempts++; c.attempts > 1 {
		e.stats.Retries++
	}
}

// sharedFrame is how many bytes of operations gather in a stream's next frame
// before callers go to another stream.
const sharedFrame = 16 << 10

// nextTurn chooses the stream of a batch: the one whose next frame gathers, as
// long as that is small, else they take turns. A frame costs both ends more than
// most of what is in it, so that many streams are for those who fill them.
func (e *engine) nextTurn() uint {
	n := uint(e.home)
	if n == 0 {
		return 0
	}
	if l := e.links[e.turn%n]; l == nil || !l.gathers() {
		e.turn++
	}
	return e.turn
}

// pick returns a stream with room: the owner's, the one whose turn it is, or any;
// one to a node that is stopping only where there is no other.
func (e *engine) pick(c *call) *link {
	if l := e.owner(c.shard); l != nil {
		return l
	}
	var last *link
	n := uint(e.home)
	for i := range uint(len(e.links)) {
		at := i
		if i < n {
			at = (c.batch.turn + i) % n
		}
		switch l := e.links[at]; {
		case l == nil || l.full():
		case !l.stopping:
			return l
		case last == nil:
			last = l
		}
	}
	return last
}

// elsewhere reports whether there is a stream to a node that is not stopping.
func (e *engine) elsewhere() bool {
	return slices.ContainsFunc(e.links, func(l *link) bool { return l != nil && !l.stopping })
}

// up returns any stream, rather one to a node that is not stopping; nil where there
// is none.
func (e *engine) up() *link {
	var last *link
	for _, l := range e.links {
		if l != nil && !l.stopping {
			return l
		}
		if last == nil {
			last = l
		}
	}
	return last
}

// pump sends what has been waiting for room.
func (e *engine) pump() {
	for e.queue.first != nil {
		l := e.pick(e.queue.first)
		if l == nil {
			return
		}
		e.put(l, e.queue.pop())
	}
}

// serve lets the calls that wait for a session have numbers.
func (e *engine) serve(s *session) {
	for _, all := range [...]*numbers{&s.usual, &s.waits} {
		for s.state == sessionOpen && all.waiting.first != nil {
			n, ok := all.next()
			if !ok {
				e.renumber(s)
				break
			}
			c := all.waiting.pop()
			c.number, c.sentAs = n, s.id
			e.send(c)
		}
	}
}

// answered takes the answer to a call that was on the stream.
func (e *engine) answered(c *call, l *link, err *failure.Error) {
	c.id = 0
	if c.state == callLeft {
		e.settle(c)
		return
	}
	if c.part == nil {
		c.op.Origin = e.owners.of(&l.owners, c.shard)
	}
	if err == nil {
		if broken := l.fill(c); broken != nil {
			err = failure.Wrap(broken, failure.OutcomeUnknown, "the reply does not decode: %v", broken)
		}
	}
	if err == nil {
		e.answer(c, nil)
		return
	}
	e.told(err.Owner)
	l.stopping = l.stopping || err.Reason == failure.Stopping
	e.failed(c, err)
}

// answer ends a call.
func (e *engine) answer(c *call, err error) {
	c.state, c.err = callAnswered, err
	e.stats.Operations++
	if err != nil {
		e.stats.Failed++
	}
	if c.id == 0 {
		e.settle(c)
	}
	if b := c.batch; b.left > 0 {
		if b.left--; b.left == 0 {
			b.wake <- struct{}{}
		}
	}
}

// settle says that nobody waits for the answer to a call's number.
func (e *engine) settle(c *call) {
	s := c.session
	if s == nil || c.number == 0 || c.sentAs != s.id {
		return
	}
	n := c.number
	c.number = 0
	if s.of(c).settle(n) {
		e.serve(s)
	}
}

// broke takes the calls of a stream that ended. Those whose caller waits are
// sent again.
func (e *engine) broke(l *link, err error) {
	now := time.Now()
	e.links[l.place] = nil
	if e.up() == nil {
		e.down = err
	}
	l.each(func(c *call) {
		c.id = 0
		if c.state == callLeft {
			e.settle(c)
			return
		}
		c.perhaps = true
		if now.After(c.batch.patience) {
			e.answer(c, unreached(c, err))
			return
		}
		e.begin(c)
	})
	for _, s := range e.sessions {
		if s != nil && s.state == sessionOpening && s.opener == l {
			s.state = sessionNone
			if s.wanted() {
				e.open(s)
			}
		}
	}
	e.kick()
}

// connected takes a stream that came up.
func (e *engine) connected(l *link) {
	e.links[l.place], e.down = l, nil
	e.stats.Connects++
	for _, s := range e.sessions {
		if s != nil && s.wanted() {
			e.open(s)
		}
	}
	e.pump()
	e.kick()
}

// giveUp answers what has waited for a stream for as long as it may.
func (e *engine) giveUp(now time.Time, why error) {
	e.drop(func(c *call) error {
		if now.Before(c.batch.patience) {
			return nil
		}
		return unreached(c, why)
	})
}

// giveUpAll answers everything that waits.
func (e *engine) giveUpAll(why *failure.Error) {
	e.drop(func(c *call) error { return c.verdict(why) })
}

// drop answers the waiting calls for which there is an error.
func (e *engine) drop(why func(*call) error) {
	late := func(c *call) bool {
		err := why(c)
		if err != nil {
			e.answer(c, err)
		}
		return err != nil
	}
	e.queue.remove(late)
	for _, s := range e.sessions {
		if s != nil {
			s.remove(late)
		}
	}
	e.kick()
}

// unreached is the error of a call for which there was no node.
func unreached(c *call, err error) *failure.Error {
	e := failure.Wrap(&unreachable{err: err}, failure.Unreachable, "no node can be reached: %v", err)
	return c.verdict(e)
}
