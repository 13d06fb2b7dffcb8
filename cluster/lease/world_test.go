package lease_test

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/quern-io/quern/cluster/lease"
)

const worldShards = 4

// world is several nodes, an authority with locks, a store, and a network that
// delays and loses what they say, all in one virtual time.
type world struct {
	rng  *rand.Rand
	omit lease.Omitted
	// blind: the store is not shared and nobody answers for it, so that time
	// alone keeps owners apart. Then every reader sees that the index fell, and
	// nothing is said of epochs and of what is in memory.
	blind bool
	// Clocks run at rates slow, fast or between, for which there is the margin.
	margin     time.Duration
	slow, fast float64
	now        time.Duration
	seq        int
	queue      events
	nodes      []*node
	locks      *authority
	store      [worldShards]uint64
	// calm: nothing is lost, and delays are short.
	calm bool
	// The last time that each shard was served.
	last [worldShards]served
	// wrong is the first broken promise.
	wrong string
	count map[string]int
	// log is what happened, of the latest.
	log []string
}

type served struct {
	epoch uint64
	by    string
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (e *events) Len() int { return len(*e) }

func (e *events) Less(i, j int) bool {
	a, b := (*e)[i], (*e)[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (e *events) Swap(i, j int) { (*e)[i], (*e)[j] = (*e)[j], (*e)[i] }

func (e *events) Push(x any) { *e = append(*e, x.(event)) } //nolint:errcheck // nothing else is pushed

func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newWorld(seed uint64, omit lease.Omitted, blind bool) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 3)), omit: omit, blind: blind, count: make(map[string]int)}
	w.margin, w.slow, w.fast = 200*time.Millisecond, 0.96, 1.04
	if seed%3 == 2 {
		w.margin, w.slow, w.fast = 700*time.Millisecond, 0.8, 1.22
	}
	w.locks = &authority{w: w, sessions: make(map[string]time.Duration)}
	for i := range 3 + w.rng.IntN(2) {
		n := &node{w: w, name: fmt.Sprint("n", i)}
		w.nodes = append(w.nodes, n)
		n.start()
	}
	w.reshuffle()
	w.locks.expire()
	return w
}

func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + d, w.seq, do})
}

// run plays events for a while and looks after each whether a promise broke.
func (w *world) run(d time.Duration) {
	for end := w.now + d; w.wrong == "" && len(w.queue) > 0 && w.queue[0].at <= end; {
		e := heap.Pop(&w.queue).(event) //nolint:errcheck // nothing else was pushed
		w.now = e.at
		e.do()
		w.look()
	}
}

// look checks that each shard is answered for by one node at most. A node that
// is paused would answer if it came back now.
func (w *world) look() {
	for shard := range uint32(worldShards) {
		var by *node
		for _, n := range w.nodes {
			if _, ok := n.machine.Serves(shard, n.clock()); !ok {
				continue
			}
			if by != nil {
				w.fail("shard %d is answered for by %s and by %s", shard, by.id, n.id)
			}
			by = n
		}
	}
}

func (w *world) fail(format string, args ...any) {
	if w.wrong == "" {
		w.note(format, args...)
		w.wrong = fmt.Sprintf(format, args...)
	}
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%v ", w.now.Round(time.Millisecond))+fmt.Sprintf(format, args...))
	if len(w.log) > 400 {
		w.log = slices.Delete(w.log, 0, 200)
	}
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) between(from, to time.Duration) time.Duration {
	return from + time.Duration(w.rng.Int64N(int64(to-from)))
}

// leg is how long a message takes, and whether it arrives at all.
func (w *world) leg() (time.Duration, bool) {
	switch {
	case w.calm:
		return w.between(0, 5*time.Millisecond), true
	case w.chance(2):
		return 0, false
	case w.chance(6):
		return w.between(0, 3*time.Second), true
	default:
		return w.between(0, 20*time.Millisecond), true
	}
}

// reshuffle says anew which node is to have which shard. While there are faults
// two are told so, as if they knew different placements, so that there is
// somebody who takes what another loses.
func (w *world) reshuffle() {
	for shard := range uint32(worldShards) {
		to := w.rng.IntN(len(w.nodes))
		also := w.rng.IntN(len(w.nodes))
		for i, n := range w.nodes {
			n.want[shard] = i == to || i == also && !w.calm
		}
	}
}

// authority keeps locks as Consul does. It helps with nothing: no lock-delay.
type authority struct {
	w *world
	// index is that of the last change as readers see it; raft only rises.
	index, raft uint64
	locks       [worldShards]lease.Lock
	// sessions holds when each was last renewed.
	sessions map[string]time.Duration
	// id and base are the cluster's record.
	id    string
	base  uint64
	saved *authority
	// history is another one after each time that something was lost.
	history int
	// stalled is until when nothing is answered.
	stalled time.Duration
}

const sessionTTL = 1500 * time.Millisecond

func (a *authority) change() uint64 {
	a.raft++
	a.index = a.raft
	return a.index
}

func (a *authority) read() lease.Reading {
	return lease.Reading{Index: a.index, Locks: slices.Clone(a.locks[:])}
}

func (a *authority) live(session string) bool {
	_, live := a.sessions[session]
	return live
}

// expire ends sessions that were not renewed for long, again and again.
func (a *authority) expire() {
	defer a.w.after(100*time.Millisecond, a.expire)
	if a.w.now < a.stalled {
		return
	}
	for _, n := range a.w.nodes {
		for _, session := range n.sessions {
			if renewed, live := a.sessions[session]; live && a.w.now > renewed+sessionTTL {
				a.end(session)
			}
		}
	}
}

func (a *authority) end(session string) {
	delete(a.sessions, session)
	for i := range a.locks {
		if a.locks[i].Session == session {
			a.locks[i].Session, a.locks[i].Index = "", a.change()
		}
	}
}

func (a *authority) create(shard uint32) {
	if a.locks[shard].Index == 0 {
		a.locks[shard] = lease.Lock{Index: a.change()}
	}
}

// write changes a lock under a check of its index and of who holds it.
func (a *authority) write(shard uint32, index uint64, held, session, next string, v lease.Value) (lease.Outcome, uint64) {
	l := &a.locks[shard]
	if l.Index != index || l.Index == 0 || l.Session != held || !a.live(session) {
		return lease.Refused, 0
	}
	*l = lease.Lock{Index: a.change(), Session: next, Value: v}
	if v.Clean.Handoff != "" && !a.w.calm && a.w.chance(20) {
		// A clean release that is brought back is worth a try.
		a.saveAndRestore()
		for _, n := range a.w.nodes {
			if v.Clean.Receiver == n.id && a.w.chance(50) {
				n.cut = a.w.now + a.w.between(time.Second, 5*time.Second)
			}
		}
	}
	return lease.Done, l.Index
}

func (a *authority) saveAndRestore() {
	a.w.note("a snapshot is taken")
	a.save()
	a.w.after(a.w.between(time.Second, 8*time.Second), func() {
		if !a.w.calm {
			a.w.note("it is restored")
			a.restore()
		}
	})
}

func (a *authority) save() {
	c := *a
	c.sessions = make(map[string]time.Duration)
	for s := range a.sessions {
		c.sessions[s] = 0
	}
	a.saved = &c
}

// restore brings back what was saved. The index falls until the next change,
// and whoever does not read in between does not see it.
func (a *authority) restore() {
	if a.saved == nil {
		return
	}
	a.index, a.locks, a.id, a.base = a.saved.index, a.saved.locks, a.saved.id, a.saved.base
	a.history++
	a.sessions = make(map[string]time.Duration)
	for s := range a.saved.sessions {
		a.sessions[s] = a.w.now
	}
	if a.w.chance(50) {
		a.change()
	}
}

func (a *authority) empty() {
	a.index, a.raft, a.locks, a.sessions = 0, 0, [worldShards]lease.Lock{}, make(map[string]time.Duration)
	a.id, a.base, a.saved = "", 0, nil
	a.history++
}

// fault does one thing that happens to clusters.
func (w *world) fault() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	a := w.locks
	shard := w.rng.IntN(worldShards)
	for range 3 {
		if _, ok := n.machine.Serves(uint32(shard), n.clock()); !ok {
			shard = (shard + 1) % worldShards
		}
	}
	switch w.rng.IntN(18) {
	case 0, 1:
		n.paused = w.now + w.between(100*time.Millisecond, 5*time.Second)
		w.note("%s is paused until %v", n.id, n.paused)
	case 2, 3:
		n.cut = w.now + w.between(100*time.Millisecond, 5*time.Second)
		w.note("%s is cut off until %v", n.id, n.cut)
		if w.chance(50) {
			a.end(n.session)
		}
	case 4:
		a.stalled = w.now + w.between(100*time.Millisecond, 4*time.Second)
		w.note("the authority stalls until %v", a.stalled)
		if w.chance(50) {
			for _, n := range w.nodes {
				a.end(n.session)
			}
		}
	case 5:
		w.note("lock %d is deleted", shard)
		a.locks[shard] = lease.Lock{}
		a.change()
	case 6:
		w.note("the session of %s is ended", n.id)
		a.end(n.session)
	case 7:
		if w.chance(30) {
			w.note("the authority is emptied")
			a.empty()
		}
	case 8:
		a.saveAndRestore()
	case 9:
		w.note("a snapshot is restored")
		a.restore()
	case 10:
		w.note("%s is killed and started again", n.id)
		n.start()
	case 11:
		w.reshuffle()
	case 12, 13:
		w.note("answers to %s are slow, then it is cut off, and its session ended", n.id)
		n.slow = w.now + 2*time.Second
		w.after(w.between(500*time.Millisecond, 1500*time.Millisecond), func() {
			n.cut = w.now + w.between(2*time.Second, 5*time.Second)
			a.end(n.session)
		})
	case 14, 15:
		w.note("%s is cut off, loses its session, and has it back when it is there again", n.id)
		a.save()
		a.end(n.session)
		back := w.between(3*time.Second, 5*time.Second)
		n.cut = w.now + back
		w.after(back-100*time.Millisecond, func() {
			for _, other := range w.nodes {
				if other != n && !w.calm && w.chance(50) {
					other.cut = w.now + 2*time.Second
				}
			}
		})
		w.after(back, func() {
			if !w.calm {
				a.restore()
			}
		})
	case 16, 17:
		w.reshuffle()
	}
}
