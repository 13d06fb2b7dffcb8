package routing

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

const (
	// silence is how long a node says nothing before it is pinged, patience how
	// long after that it is given up, lookEvery how often that is looked at.
	silence   = time.Second
	patience  = 2 * time.Second
	lookEvery = 250 * time.Millisecond
	// queueTasks and queueBytes bound what waits for room in the owner's window.
	queueTasks = 16_384
	queueBytes = 8 << 20
	// linkRefs is how many sessions have numbers at a time: what a node takes.
	linkRefs = 16_384
	// frameBytes is what a frame has at most before the next one begins, but for
	// its last operation.
	frameBytes = 256 << 10
	// keptBuffer is the largest buffer that is kept.
	keptBuffer = 256 << 10
)

var (
	errBroken = failure.New(failure.Unreachable, "the owner of the key's shard cannot be reached at present")
	errQueue  = failure.New(failure.Overloaded, "too many operations wait for the owner of the key's shard; try again later").After(20 * time.Millisecond)
)

// link is one stream to another node, from its hello to its end.
type link struct {
	peer   *peer
	router *Router
	frames frame.Stream
	hello  *quernv1.StreamHello
	heard  atomic.Int64 // when a frame came last, in Unix nanoseconds
	wake   chan struct{}
	done   chan struct{} // closed when the link is over

	// Of the reader: what the frame under way has answered.
	answers taskList

	mu    sync.Mutex // guards what follows
	ended bool
	tasks []*task  // by id - 1
	free  []uint64 // ids
	// owed is how many of the tasks, and of what is done for sessions, have to be
	// answered without waiting for others.
	owed    int
	waits   map[*task]uint64 // ids of those that can be given up
	queue   taskList         // waits for room
	opens   map[uint32]*taskList
	closes  map[sessionKey]*taskList
	methods map[*handles.Method]uint32
	refs    map[sessionKey]uint32
	origins []handles.Origin // by shard
	cancels []cancelled

	head, operations, last []byte
	ready                  [][]byte // frames that are full
	sealed, handed         uint64   // how many frames were filled, and handed over
	spare                  []byte   // a frame that was sent
	pings                  uint64
	asked                  time.Time // when the last of them was due
}

// sessionKey names a session.
type sessionKey struct {
	shard uint32
	id    string
}

// cancelled is an operation that was given up, of which the owner is to be told.
type cancelled struct {
	id    uint64
	final bool
}

func newLink(p *peer, f frame.Stream, hello *quernv1.StreamHello) *link {
	l := &link{
		peer: p, router: p.router, frames: f, hello: hello, wake: make(chan struct{}, 1), done: make(chan struct{}),
		opens: make(map[uint32]*taskList), closes: make(map[sessionKey]*taskList),
		waits: make(map[*task]uint64), methods: make(map[*handles.Method]uint32), refs: make(map[sessionKey]uint32),
		origins: make([]handles.Origin, p.router.shards),
	}
	l.heard.Store(time.Now().UnixNano())
	l.head = frame.AppendNode(nil, p.router.self)
	l.rouse()
	return l
}

func (l *link) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run works until the stream breaks or ctx ends, and says why.
func (l *link) run(ctx context.Context) error {
	var all sync.WaitGroup
	ended := make(chan error, 3)
	for _, work := range []func() error{l.read, l.write, l.watch} {
		all.Go(func() { ended <- work() })
	}
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	close(l.done)
	l.frames.Close()
	all.Wait()
	return err
}

// put puts a task into the next frame, or behind others that wait for room. It
// fails with errBroken, or with what the task ends with. It needs mu.
func (l *link) put(t *task) *failure.Error {
	if l.ended {
		return errBroken
	}
	t.via = l.peer.addr
	if w := t.wait; w != nil {
		w.at(l)
	}
	if !t.windowless() && l.owed >= int(l.hello.GetWindow()) {
		if t.bytes == 0 {
			t.bytes = t.size()
		}
		if l.queue.n >= queueTasks || l.queue.bytes+t.bytes > queueBytes {
			return errQueue
		}
		t.unpacked()
		l.queue.push(t)
		return nil
	}
	return l.encode(t)
}

// encode puts a task into the next frame. It needs mu.
func (l *link) encode(t *task) *failure.Error {
	switch t.kind {
	case taskOpen:
		l.head = frame.AppendOpen(l.head, t.shard)
		listOf(l.opens, t.shard).push(t)
		l.owed++
	case taskClose:
		l.head = frame.AppendSession(l.head, t.shard, t.session, true)
		listOf(l.closes, sessionKey{t.shard, t.session}).push(t)
		l.owed++
	default:
		if err := l.operation(t); err != nil {
			return err
		}
	}
	t.frame = l.sealed
	l.router.counts.passed.Inc()
	if len(l.operations) >= frameBytes {
		l.seal()
	}
	if w := t.wait; w != nil && w.given.Load() != givenNo { // given up meanwhile
		l.cancels = append(l.cancels, cancelled{id: t.id, final: w.given.Load() == givenFinal})
	}
	return nil
}

func listOf[K comparable](lists map[K]*taskList, key K) *taskList {
	l := lists[key]
	if l == nil {
		l = new(taskList)
		lists[key] = l
	}
	return l
}

// operation encodes an operation. It needs mu.
func (l *link) operation(t *task) *failure.Error {
	op := t.op
	o := frame.Operation{Method: l.method(op.Method), Hops: t.hops + 1}
	if s := &op.Session; s.ID != "" {
		o.Session = l.session(t.shard, s.ID)
		o.Number, o.Settled, o.SettledOther = s.Number, s.Settled, s.SettledOther
	}
	if !t.deadline.IsZero() {
		o.TimeoutMS = uint32(min(max(time.Until(t.deadline).Milliseconds(), 1), 1<<31))
	}
	o.ID = l.take(t)
	before := len(l.operations)
	if p := op.Passage; p != nil && p.Request != nil {
		o.Request = p.Request
		l.operations = frame.AppendRawOperation(l.operations, &o)
		p.Request = nil
	} else {
		b, err := appendOperation(l.operations, &o, op.Request)
		if err != nil {
			l.release(t)
			return failure.Wrap(err, failure.InvalidField, "the request does not encode: %v", err)
		}
		l.operations = b
	}
	return l.bound(t, before)
}

// appendOperation is frame.AppendOperation, where a message that panics, as one
// may that its owner changes meanwhile, fails alone.
func appendOperation(b []byte, o *frame.Operation, request proto.Message) (_ []byte, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("%w: %v", errPanicked, reason)
		}
	}()
	return frame.AppendOperation(b, o, request) //nolint:wrapcheck // as above
}

var errPanicked = errors.New("routing: panic")

// bound puts an operation that makes its frame too large into one of its own.
func (l *link) bound(t *task, before int) *failure.Error {
	limit := int(l.hello.GetMaxFrameBytes())
	if len(l.head)+len(l.operations)+len(l.last) <= limit {
		return nil
	}
	alone := slices.Clone(l.operations[before:])
	l.operations = l.operations[:before]
	if len(alone) > limit {
		l.release(t)
		return failure.New(failure.Limit, "the operation takes %d bytes, the shard's owner takes %d", len(alone), limit)
	}
	l.seal()
	l.operations = append(l.operations, alone...)
	return nil
}

// method is the number of a method on this stream.
func (l *link) method(m *handles.Method) uint32 {
	n, ok := l.methods[m]
	if !ok {
		n = uint32(len(l.methods)) + 1 //nolint:gosec // there are few methods
		l.methods[m] = n
		l.head = frame.AppendMethod(l.head, n, m.Procedure)
	}
	return n
}

// session is the number of a session on this stream. Where all numbers are in use
// they are given anew, from the next frame on: a frame's sessions come before its
// operations.
func (l *link) session(shard uint32, id string) uint32 {
	key := sessionKey{shard, id}
	n, ok := l.refs[key]
	if ok {
		return n
	}
	if len(l.refs) >= linkRefs {
		l.seal()
		clear(l.refs)
	}
	n = uint32(len(l.refs)) + 1 //nolint:gosec // at most linkRefs
	l.refs[key] = n
	l.head = frame.AppendRefSession(l.head, shard, n, id)
	return n
}

// take gives a task its id.
func (l *link) take(t *task) uint64 {
	if n := len(l.free); n > 0 {
		t.id = l.free[n-1]
		l.free = l.free[:n-1]
		l.tasks[t.id-1] = t
	} else {
		l.tasks = append(l.tasks, t)
		t.id = uint64(len(l.tasks))
	}
	if t.counted = !t.windowless(); t.counted {
		l.owed++
	}
	if t.wait != nil {
		l.waits[t] = t.id
	}
	return t.id
}

// release takes the id back. What was given up under it must not hit another.
func (l *link) release(t *task) {
	if t.counted {
		l.owed--
	}
	delete(l.waits, t)
	l.tasks[t.id-1] = nil
	l.free = append(l.free, t.id)
	if len(l.cancels) > 0 {
		l.cancels = slices.DeleteFunc(l.cancels, func(c cancelled) bool { return c.id == t.id })
	}
	t.id = 0
}

// cancel gives up an operation that may wait, if it is still under way.
func (l *link) cancel(t *task, final bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id, ok := l.waits[t]; ok && !l.ended {
		l.cancels = append(l.cancels, cancelled{id: id, final: final})
		l.rouse()
	}
}

// endWaits answers what waits with STOPPING. The owner is told that its clients may
// come back; what it says to that is nobody's.
func (l *link) endWaits() {
	l.mu.Lock()
	var all []*task
	for t, id := range l.waits {
		if t.counted {
			continue
		}
		t.perhaps = t.perhaps || t.frame < l.handed // the answer may be on its way
		l.tasks[id-1] = &task{router: l.router, op: &handles.Operation{Method: t.op.Method}, dead: true, id: id, shard: t.shard}
		l.cancels = append(l.cancels, cancelled{id: id})
		all = append(all, t)
		delete(l.waits, t)
	}
	l.mu.Unlock()
	l.rouse()
	for _, t := range all {
		t.end(0, t.verdict(errStopping))
	}
}

// seal ends the frame that gathers. It needs mu.
func (l *link) seal() {
	if len(l.head)+len(l.operations)+len(l.last) == 0 {
		return
	}
	b := append(l.spare[:0], l.head...)
	b = append(append(b, l.operations...), l.last...)
	l.spare = nil
	l.ready = append(l.ready, b)
	l.sealed++
	l.head, l.last = l.head[:0], l.last[:0]
	if l.operations = l.operations[:0]; cap(l.operations) > 2*keptBuffer {
		l.operations = nil
	}
}

// write sends what has gathered.
func (l *link) write() error {
	for {
		select {
		case <-l.wake:
		case <-l.done:
			return nil
		}
		runtime.Gosched() // who is ready to run may have more
		for b := l.next(nil); b != nil; b = l.next(b) {
			if err := l.frames.Send(b); err != nil {
				return err //nolint:wrapcheck // of the transport
			}
		}
	}
}

// next returns a frame to be sent, nil where there is none. sent is the last one.
func (l *link) next(sent []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sent != nil && cap(sent) <= keptBuffer {
		l.spare = sent
	}
	if len(l.ready) == 0 {
		for _, c := range l.cancels {
			if c.final {
				l.last = frame.AppendCancel(l.last, c.id)
			} else {
				l.last = frame.AppendLeave(l.last, c.id)
			}
		}
		l.cancels = l.cancels[:0]
		l.seal()
	}
	if len(l.ready) == 0 {
		return nil
	}
	b := l.ready[0]
	l.ready[0] = nil
	if l.ready = l.ready[1:]; len(l.ready) == 0 {
		l.ready = nil
	}
	l.handed++
	return b
}

var errSilent = errors.New("routing: the node is silent")

// watch gives up a stream whose node is silent.
func (l *link) watch() error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-l.done:
			return nil
		}
		if err := l.look(time.Now()); err != nil {
			return err
		}
	}
}

func (l *link) look(now time.Time) error {
	heard := time.Unix(0, l.heard.Load())
	if now.Sub(heard) < silence {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked.After(heard) {
		if now.Sub(l.asked) >= patience {
			return fmt.Errorf("%w for %v", errSilent, now.Sub(heard).Round(time.Millisecond))
		}
		return nil
	}
	l.asked = now
	l.pings++
	l.last = frame.AppendPing(l.last, l.pings)
	l.rouse()
	return nil
}
