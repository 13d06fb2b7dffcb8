package routing

import (
	"sync"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

const (
	// holdTasks and holdBytes bound what is held.
	holdTasks = 16_384
	holdBytes = 16 << 20
	// holdPoll is how often the runtime is asked whether it serves by now what is
	// held; changes of the table are not waited for.
	holdPoll = 10 * time.Millisecond
)

// hold has what nobody serves at present.
type hold struct {
	wake chan struct{} // room for one

	mu     sync.Mutex // guards what follows
	tasks  taskList
	closed bool
}

// rouse lets the held be looked at.
func (h *hold) rouse() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// add reports whether there was room. It must be the last that the caller does
// with the task.
func (h *hold) add(t *task) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.tasks.n >= holdTasks || h.tasks.bytes+t.bytes > holdBytes {
		return false
	}
	h.tasks.push(t)
	if h.tasks.n == 1 {
		h.rouse()
	}
	return true
}

// take takes out those that want is true for.
func (h *hold) take(want func(*task) bool) []*task {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tasks.n == 0 {
		return nil
	}
	return h.tasks.remove(want)
}

// takeAll closes the hold and returns what was in it.
func (h *hold) takeAll() []*task {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	return h.take(func(*task) bool { return true })
}

// remove reports whether the task was here.
func (h *hold) remove(t *task) bool {
	return len(h.take(func(other *task) bool { return other == t })) > 0
}

func (h *hold) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tasks.n
}

// keep holds a task until somebody serves its shard, or answers it.
func (r *Router) keep(t *task) {
	t.unpacked()
	if t.kind == taskOperation {
		t.op.Origin = handles.Origin{Shard: t.shard}
	}
	now := time.Now()
	if t.until.IsZero() {
		t.until = now.Add(holdTime)
		if !t.deadline.IsZero() && t.deadline.Before(t.until) {
			t.until = t.deadline
		}
		t.bytes = t.size()
		r.holding.Do(func() { r.goes(r.release) })
		r.counts.held.Inc()
	}
	w := t.wait
	if w != nil {
		w.at(nil)
	}
	switch {
	case t.givenUp():
		t.end(0, t.verdict(errGivenUp))
	case r.ctx.Err() != nil || r.noWaits.Load():
		t.end(0, t.verdict(errStopping))
	case !now.Before(t.until) || !r.hold.add(t):
		r.refuse(t)
	case r.noWaits.Load() && r.hold.remove(t): // the end came meanwhile
		t.end(0, t.verdict(errStopping))
	case w != nil && w.given.Load() != givenNo && r.hold.remove(t): // given up meanwhile
		t.end(0, t.verdict(errGivenUp))
	}
}

// refuse ends a task that has waited in vain.
func (r *Router) refuse(t *task) {
	r.counts.refused.Inc()
	t.end(0, r.explain(t.shard, t.verdict(
		failure.New(failure.Moving, "shard %d is served by no node at present; try again", t.shard).After(movingRetry))))
}

// release lets go what is held as soon as it can go on.
func (r *Router) release() {
	timer := time.NewTimer(holdPoll)
	defer timer.Stop()
	for {
		select {
		case <-r.hold.wake:
		case <-timer.C:
		case <-r.ctx.Done():
			for _, t := range r.hold.takeAll() {
				t.end(0, t.verdict(errStopping))
			}
			return
		}
		now := time.Now()
		for _, t := range r.hold.take(func(t *task) bool { return !now.Before(t.until) || r.ready(t, now) }) {
			if !now.Before(t.until) && !r.ready(t, now) {
				r.refuse(t)
				continue
			}
			t.left = now
			r.route(t)
		}
		r.flush()
		if timer.Stop(); r.hold.count() > 0 {
			timer.Reset(holdPoll)
		}
	}
}

// ready reports whether a held task has somewhere to go. It does not block.
func (r *Router) ready(t *task, now time.Time) bool {
	if t.givenUp() {
		return true
	}
	if epoch, ok := r.local.Serving(t.shard); ok {
		return t.refuser != r.self || epoch != t.epoch || !now.Before(t.retryAt)
	}
	to := r.table.at(t.shard)
	if to.peer == nil {
		return false
	}
	if to.peer.link.Load() == nil {
		to.peer.connect()
		return false
	}
	return t.refuser != to.peer.addr || to.owner.Epoch != t.epoch || !now.Before(t.retryAt)
}

// route sends a task on its way that may have waited.
func (r *Router) route(t *task) {
	switch {
	case t.givenUp():
		t.end(0, t.verdict(errGivenUp))
	case r.here(t.shard):
		t.submitHere()
	default:
		r.send(t)
	}
}

// pass sends a task to the shard's owner.
func (r *Router) pass(t *task) {
	if l := r.send(t); l != nil {
		l.rouse()
	}
}

// send puts a task into the next frame to the shard's owner, or holds it. It
// returns the link, whose writer has to be roused, if it is on one.
func (r *Router) send(t *task) *link {
	to := r.table.at(t.shard)
	if t.hops >= MaxHops || to.peer == nil {
		r.unsent(t)
		return nil
	}
	l := to.peer.link.Load()
	if l == nil {
		to.peer.connect()
		r.unsent(t)
		return nil
	}
	l.mu.Lock()
	refused := l.put(t)
	l.mu.Unlock()
	if refused != nil {
		r.unput(t, refused)
		return nil
	}
	return l
}

// unput is what follows where a link does not take a task.
func (r *Router) unput(t *task, refused *failure.Error) {
	if refused == errBroken {
		r.unsent(t)
		return
	}
	t.end(0, t.verdict(refused))
}

// unsent holds a task for which there is no way at present. What another node has
// passed on goes back: that one holds it.
func (r *Router) unsent(t *task) {
	if t.hops == 0 {
		r.keep(t)
		return
	}
	t.end(0, r.explain(t.shard, t.verdict(
		failure.New(failure.NotOwner, "this node does not own shard %d", t.shard).After(leastRetry))))
}

// flush rouses the writers of all links.
func (r *Router) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		if l := p.link.Load(); l != nil {
			l.rouse()
		}
	}
}

// passList sends operations of one shard to its owner, together.
func (r *Router) passList(first *handles.Submission, shard uint32) {
	to := r.table.at(shard)
	var l *link
	if to.peer != nil {
		l = to.peer.link.Load()
	}
	var (
		back    taskList
		reasons []*failure.Error
	)
	if l != nil {
		l.mu.Lock()
	}
	for s := first; s != nil; {
		next := s.Next
		s.Next = nil
		t := r.newTask(&s.Op, shard, s.Deadline, s.Done)
		refused := errBroken
		if l != nil && t.hops < MaxHops {
			refused = l.put(t)
		}
		if refused != nil {
			back.push(t)
			reasons = append(reasons, refused)
		}
		s = next
	}
	if l != nil {
		l.mu.Unlock()
		l.rouse()
	} else if to.peer != nil {
		to.peer.connect()
	}
	for i := 0; back.first != nil; i++ {
		r.unput(back.pop(), reasons[i])
	}
}
