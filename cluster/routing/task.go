package routing

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/fastproto"
)

// taskKind tells operations from what is done for sessions.
type taskKind uint8

const (
	taskOperation taskKind = iota
	taskOpen
	taskClose
)

// task is something that this node does not do by itself, or could not at first.
// It belongs to one place at a time: to the hold, to a link, to the runtime, or to
// who moves it from one to the other.
type task struct {
	router *Router
	next   *task
	kind   taskKind
	shard  uint32
	hops   uint32

	op       *handles.Operation // of an operation
	done     handles.Completer
	deadline time.Time // zero: none
	wait     *waiting  // of an operation that can be given up
	keep     bool      // it is not pooled
	dead     bool      // it was answered before the owner did
	counted  bool      // in the window of its link

	session string // of a session that is closed, or was opened
	opened  func(id string, epoch uint64, err error)
	closed  func(epoch uint64, err error)

	// perhaps: an earlier attempt was perhaps carried out.
	perhaps  bool
	attempts uint32
	until    time.Time // the end of being held; zero: it has not begun
	left     time.Time // when it left the hold last
	bytes    int       // what it counts in the hold
	// Who has refused it last, by address or this node's name, under which epoch of
	// the table, and when that may be asked again.
	refuser string
	epoch   uint64
	retryAt time.Time

	// On a link: its id there, the frame that it went into, and the answer.
	id     uint64
	frame  uint64
	via    string // the address of the node that has it, or had it last
	reply  []byte
	err    *failure.Error
	origin handles.Origin
}

// waiting is what gives an operation up.
type waiting struct {
	given atomic.Uint32 // givenNo, givenLeave or givenFinal

	mu   sync.Mutex       // guards what follows
	here func(final bool) // while the runtime has it
	link *link            // while a link has it
	turn uint64           // counts its places: what one of them returns late is of no other
	over bool             // it was answered
}

// at notes which link has the task; nil for the runtime, which has not said yet
// how it gives up, and for the hold. It returns the turn.
func (w *waiting) at(l *link) (turn uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn++
	w.here, w.link = nil, l
	return w.turn
}

const (
	givenNo uint32 = iota
	givenLeave
	givenFinal
)

// newTask makes a task of an operation that has just come.
func (r *Router) newTask(op *handles.Operation, shard uint32, deadline time.Time, done handles.Completer) *task {
	t, ok := r.tasks.Get().(*task)
	if !ok {
		t = new(task)
	}
	t.router, t.op, t.shard, t.deadline, t.done = r, op, shard, deadline, done
	op.Origin = handles.Origin{Shard: shard}
	if p := op.Passage; p != nil {
		t.hops, p.Routed = p.Hops, true
	}
	return t
}

// end answers the task, which is over then.
func (t *task) end(epoch uint64, err error) {
	if t.wait != nil && !t.wait.end() {
		return
	}
	switch t.kind {
	case taskOpen:
		t.opened(t.session, epoch, err)
		return
	case taskClose:
		t.closed(epoch, err)
		return
	case taskOperation:
	}
	r, done := t.router, t.done
	if !t.keep && t.wait == nil {
		*t = task{}
		r.tasks.Put(t)
	}
	done.Completed(epoch, err)
}

// end reports whether this is the first one.
func (w *waiting) end() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := !w.over
	w.over, w.here, w.link = true, nil, nil
	return first
}

// unpacked says that the bytes in which the operation came are no longer good.
func (t *task) unpacked() {
	if t.op != nil && t.op.Passage != nil {
		t.op.Passage.Request = nil
	}
}

// repeatable: another attempt cannot have a second effect. A session that was
// opened unknown to all expires.
func (t *task) repeatable() bool {
	return t.kind != taskOperation || t.op.Session.ID != "" || t.op.IdempotencyKey != "" || !t.op.Method.Write
}

// verdict is what is said of a task that this node ends with err. Of an earlier
// attempt, which may still arrive, that knows nothing.
func (t *task) verdict(err *failure.Error) *failure.Error {
	if !t.perhaps || t.kind != taskOperation || !t.op.Method.Write || err.Outcome() == failure.Unknown {
		return err
	}
	return failure.New(failure.OutcomeUnknown, "the operation perhaps happened; the last attempt failed: %s", err.Message)
}

// ruling is verdict of what the owner has said, who keeps some refusals.
func (t *task) ruling(err *failure.Error) *failure.Error {
	if kept(err.Reason) {
		return err
	}
	return t.verdict(err)
}

// kept tells the refusals of a kind, which are remembered with an operation's
// number or key, from those of the machinery.
func kept(r failure.Reason) bool {
	switch r {
	case failure.Limit, failure.Overflow, failure.ConditionFailed, failure.NotHolder, failure.InvalidField, failure.InvalidKey,
		failure.IDReused, failure.FencedToken, failure.CrossShard:
		return true
	default:
		return false
	}
}

// refused notes that somebody has refused the task since it does not serve the
// shard.
func (t *task) refused(r *Router, who string, err error) {
	t.refuser, t.epoch = who, r.table.at(t.shard).owner.Epoch
	if who == r.self {
		t.epoch, _ = r.local.Serving(t.shard)
	}
	t.returned(time.Now())
	t.attempts++
	pause := min(leastRetry<<min(t.attempts-1, 8), mostRetry)
	if e, ok := errors.AsType[*failure.Error](err); ok {
		pause = max(pause, min(e.RetryAfter, mostRetry))
	}
	t.retryAt = time.Now().Add(pause/2 + rand.N(pause)) //nolint:gosec // chance is enough
}

// returned lets the time to be held begin anew where the task was with somebody
// for a while since.
func (t *task) returned(now time.Time) {
	if !t.left.IsZero() && now.Sub(t.left) > awayTime {
		t.until, t.attempts = time.Time{}, 0
	}
	t.left = time.Time{}
}

// submitHere gives the task to the runtime.
func (t *task) submitHere() {
	r := t.router
	switch {
	case t.kind == taskOpen:
		r.local.OpenSession(t.shard, func(id string, epoch uint64, err error) {
			t.session = id
			t.Completed(epoch, err)
		})
	case t.kind == taskClose:
		r.local.CloseSession(t.shard, t.session, t.Completed)
	case t.wait == nil:
		r.local.Submit(t.op, t.deadline, t)
	default:
		turn := t.wait.at(nil)
		t.wait.began(turn, r.local.SubmitWait(t.op, t.deadline, t))
	}
}

// began notes how the runtime gives the operation up, unless the turn has ended
// inside the call that began it.
func (w *waiting) began(turn uint64, cancel func(final bool)) {
	if cancel == nil {
		return
	}
	w.mu.Lock()
	ended := w.over || w.turn != turn
	if !ended {
		w.here = cancel
	}
	w.mu.Unlock()
	if ended {
		return
	}
	if given := w.given.Load(); given != givenNo {
		cancel(given == givenFinal) // it came in between
	}
}

// Completed implements handles.Completer: the runtime has ended the operation.
func (t *task) Completed(epoch uint64, err error) {
	if err == nil || !elsewhere(err) {
		if e, ok := errors.AsType[*failure.Error](err); ok && t.perhaps {
			err = t.ruling(e)
		}
		t.end(epoch, err)
		return
	}
	r := t.router
	if t.hops > 0 {
		t.end(epoch, r.explain(t.shard, err))
		return
	}
	t.refused(r, r.self, err)
	r.keep(t)
}

// cancel gives the operation up.
func (t *task) cancel(final bool) {
	given := givenLeave
	if final {
		given = givenFinal
	}
	w := t.wait
	w.given.Store(given)
	w.mu.Lock()
	here, link, over := w.here, w.link, w.over
	w.mu.Unlock()
	switch {
	case over:
	case here != nil:
		here(final)
	case link != nil:
		link.cancel(t, final)
	case t.router.hold.remove(t):
		t.end(0, t.verdict(errGivenUp))
	}
}

// givenUp reports whether nobody waits for the task any more.
func (t *task) givenUp() bool { return t.wait != nil && t.wait.given.Load() != givenNo }

// answered takes the owner's answer.
func (t *task) answered() {
	r := t.router
	if t.dead {
		return
	}
	if t.err != nil {
		r.failed(t)
		return
	}
	if t.kind == taskOperation {
		t.op.Origin = t.origin
		if t.op.Passage != nil {
			t.op.Passage.Reply = t.reply
		} else if err := fastproto.Unmarshal(t.reply, t.op.Reply, nil); err != nil {
			t.end(0, failure.Wrap(err, failure.OutcomeUnknown, "the reply does not decode: %v", err))
			return
		}
	}
	t.end(t.origin.Epoch, nil)
}

// failed decides what follows a refusal by the owner, or by who was taken for it.
func (r *Router) failed(t *task) {
	e := t.err
	r.learn(e.Owner)
	again := e.Reason == failure.NotOwner || e.Reason == failure.Moving || e.Reason == failure.Stopping
	if again && t.hops == 0 && r.ctx.Err() == nil {
		t.refused(r, t.via, e)
		r.keep(t)
		return
	}
	if t.kind == taskOperation {
		t.op.Origin = t.origin
	}
	var err error = t.ruling(e)
	if again {
		err = r.explain(t.shard, err)
	}
	t.end(t.origin.Epoch, err)
}

// windowless says that the owner does not count the task in the stream's window.
func (t *task) windowless() bool { return t.kind == taskOperation && t.op.MayWait() }

// size is about what the task holds in memory.
func (t *task) size() int {
	if t.kind != taskOperation {
		return 64
	}
	return 256 + proto.Size(t.op.Request)
}

// late reports whether the deadline has passed.
func (t *task) late(now time.Time) bool { return !t.deadline.IsZero() && now.After(t.deadline) }

// taskList is a first-in, first-out list.
type taskList struct {
	first, last *task
	n, bytes    int
}

func (l *taskList) push(t *task) {
	t.next = nil
	if l.last == nil {
		l.first = t
	} else {
		l.last.next = t
	}
	l.last = t
	l.n++
	l.bytes += t.bytes
}

func (l *taskList) pop() *task {
	t := l.first
	if t == nil {
		return nil
	}
	if l.first = t.next; l.first == nil {
		l.last = nil
	}
	t.next = nil
	l.n--
	l.bytes -= t.bytes
	return t
}

// remove takes out those that drop is true for, in their order.
func (l *taskList) remove(drop func(*task) bool) (out []*task) {
	all := *l
	*l = taskList{}
	for t := all.pop(); t != nil; t = all.pop() {
		if drop(t) {
			out = append(out, t)
		} else {
			l.push(t)
		}
	}
	return out
}
