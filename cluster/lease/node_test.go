package lease_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/quern-io/quern/cluster/lease"
)

// node is one machine with what would be its shell: it carries out decisions,
// reads, keeps a session, hands shards over, and may be paused or cut off.
type node struct {
	w       *world
	name    string
	machine *lease.Machine
	// id is the incarnation; life tells what came for an earlier one.
	id   string
	life int
	// The clock runs at rate, from offset.
	rate   float64
	offset time.Duration
	// session is the one in use, and sessions are all that it ever had.
	session  string
	sessions []string
	want     [worldShards]bool
	// memory is the epoch at which each shard was served last in this life.
	memory [worldShards]uint64
	// paused, cut and slow are until when it is stopped, reaches nobody, and
	// gets answers late.
	paused, cut, slow time.Duration
	handoffs          int
	// history is that of the authority at the last read.
	history int
}

// start begins a new life. Messages of the former are still on their way.
func (n *node) start() {
	n.life++
	n.id = fmt.Sprintf("%s.%d", n.name, n.life)
	m, err := lease.New(lease.Config{Shards: worldShards, Incarnation: n.id, Margin: n.w.margin})
	if err != nil {
		n.w.fail("%s: %v", n.id, err)
		return
	}
	m.Omit(n.w.omit)
	n.machine, n.session, n.history, n.memory = m, "", -1, [worldShards]uint64{}
	n.paused, n.cut, n.slow = 0, 0, 0
	if n.rate == 0 {
		n.rate = n.w.slow + (n.w.fast-n.w.slow)*min(1, max(0, 2*n.w.rng.Float64()-0.5))
		n.offset = n.w.between(0, time.Hour)
	}
	n.every(100*time.Millisecond, n.poll)
	n.every(300*time.Millisecond, n.keep)
	n.every(70*time.Millisecond, n.tick)
	n.every(500*time.Millisecond, n.plan)
}

func (n *node) clock() time.Duration { return n.offset + time.Duration(float64(n.w.now)*n.rate) }

// later calls do in this life, after a pause if there is one then.
func (n *node) later(d time.Duration, do func()) {
	life := n.life
	var try func()
	try = func() {
		switch {
		case n.life != life:
		case n.w.now < n.paused:
			n.w.after(n.paused-n.w.now, try)
		default:
			do()
		}
	}
	n.w.after(d, try)
}

func (n *node) every(d time.Duration, do func(again func())) {
	var again func()
	again = func() { n.later(n.w.between(d/2, d*3/2), func() { do(again) }) }
	again()
}

// ask sends a request to the authority, or to the store, which never stalls.
// done is called once: with what the request returned, or with nil when no
// answer came in time.
func ask[T any](n *node, store bool, request func() T, done func(*T)) {
	w := n.w
	told := false
	tell := func(answer *T) {
		if !told {
			told = true
			done(answer)
		}
	}
	n.later(w.between(500*time.Millisecond, 3*time.Second), func() { tell(nil) })
	there, ok := w.leg()
	if !ok || !store && w.now < n.cut {
		return
	}
	var arrive func()
	arrive = func() {
		if !store && w.now < w.locks.stalled {
			w.after(w.locks.stalled-w.now, arrive)
			return
		}
		answer := request()
		if back, ok := w.leg(); ok && (store || w.now >= n.cut) {
			if w.now < n.slow {
				back += w.between(500*time.Millisecond, 1500*time.Millisecond)
			}
			n.later(back, func() { tell(&answer) })
		}
	}
	w.after(there, arrive)
}

// tick tells the machine the time.
func (n *node) tick(again func()) {
	n.do(n.machine.Clock(n.clock()))
	again()
}

// poll reads the locks, now and then from a server that lags behind.
func (n *node) poll(again func()) {
	a := n.w.locks
	lagging, lag := a.read(), n.w.chance(5)
	history := 0
	ask(n, false, func() lease.Reading {
		if lag {
			lagging.Stale = true
			return lagging
		}
		history = a.history
		return a.read()
	}, func(r *lease.Reading) {
		if r != nil {
			if n.w.blind && !r.Stale && history != n.history {
				r.Index, n.history = 0, history
			}
			n.do(n.machine.Read(n.clock(), *r))
		}
		again()
	})
}

// keep renews the session or opens one, and keeps the cluster's record.
func (n *node) keep(again func()) {
	a := n.w.locks
	session, highest := n.session, uint64(0)
	for shard := range uint32(worldShards) {
		highest = max(highest, n.machine.Highest(shard))
	}
	type answer struct {
		live bool
		id   string
		base uint64
	}
	ask(n, false, func() answer {
		if a.id == "" {
			a.id, a.base = fmt.Sprint("cluster-", n.w.now), max(uint64(n.w.now/time.Second), highest)
			a.change()
		}
		live := a.live(session)
		if live {
			a.sessions[session] = n.w.now
		}
		return answer{live, a.id, a.base}
	}, func(got *answer) {
		defer again()
		if got == nil {
			return
		}
		n.do(n.machine.Cluster(n.clock(), got.id, got.base))
		if session != "" && !got.live && session == n.session {
			n.session = ""
			n.do(n.machine.SessionLost(n.clock()))
		}
		if n.session == "" {
			n.open()
		}
	})
}

func (n *node) open() {
	id := fmt.Sprintf("%s-s%d", n.id, len(n.sessions))
	n.sessions = append(n.sessions, id)
	ask(n, false, func() bool {
		n.w.locks.sessions[id] = n.w.now
		return true
	}, func(ok *bool) {
		if ok != nil && n.session == "" {
			n.session = id
			n.do(n.machine.SessionBegan(n.clock(), id))
		}
	})
}

// plan tells the machine what it is to have, gossips, and begins moves.
func (n *node) plan(again func()) {
	defer again()
	w := n.w
	for shard := range uint32(worldShards) {
		n.do(n.machine.Want(n.clock(), shard, n.want[shard]))
		peer := w.nodes[w.rng.IntN(len(w.nodes))]
		if d, ok := w.leg(); ok && peer != n && w.chance(30) {
			epoch := n.machine.Highest(shard)
			peer.later(d, func() { peer.do(peer.machine.Heard(peer.clock(), shard, epoch)) })
		}
		switch epoch, ok := n.machine.Serves(shard, n.clock()); {
		case ok && !n.want[shard]:
			n.move(shard, epoch)
		case ok && !w.blind && w.chance(4):
			n.reraise(shard, epoch)
		}
	}
}

// reraise raises the epoch of a shard that is served from its own, as a runtime
// does after a commit whose outcome is unclear, and tells what came of it.
func (n *node) reraise(shard uint32, from uint64) {
	ask(n, true, func() raised {
		row := &n.w.store[shard]
		if *row != from {
			return raised{lease.Refused, *row}
		}
		*row++
		return raised{lease.Done, *row}
	}, func(got *raised) {
		w := n.w
		switch {
		case got == nil:
		case got.outcome == lease.Refused:
			w.count["fenced"]++
			n.do(n.machine.Fenced(n.clock(), shard, from, got.row))
		default:
			if epoch, ok := n.machine.Serves(shard, n.clock()); ok && epoch == from {
				w.count["reraised"]++
				w.last[shard], n.memory[shard] = served{got.row, n.id}, got.row
			}
			n.do(n.machine.Reraised(n.clock(), shard, got.row))
			if epoch, ok := n.machine.Serves(shard, n.clock()); ok && epoch < got.row {
				w.fail("%s serves %d#%d after it was raised to #%d", n.id, shard, epoch, got.row)
			}
		}
	})
}

// move offers a shard to a node that wants it, and releases it when the offer
// was taken. Some moves are broken off.
func (n *node) move(shard uint32, epoch uint64) {
	w := n.w
	to := slices.IndexFunc(w.nodes, func(r *node) bool { return r.want[shard] })
	if to < 0 {
		return
	}
	r := w.nodes[to]
	n.handoffs++
	clean := lease.Clean{Receiver: r.id, Handoff: fmt.Sprintf("%s-h%d", n.id, n.handoffs)}
	there, ok := w.leg()
	back, also := w.leg()
	if !ok {
		return
	}
	r.later(there, func() {
		r.do(r.machine.Offered(r.clock(), lease.Offer{Shard: shard, Epoch: epoch, Handoff: clean.Handoff}))
		switch {
		case !also:
		case w.chance(10):
			r.later(back, func() { r.do(r.machine.Withdrawn(r.clock(), shard, clean.Handoff)) })
		default:
			n.later(back, func() {
				if now, ok := n.machine.Serves(shard, n.clock()); ok && now == epoch {
					n.do(n.machine.GiveUp(n.clock(), shard, clean))
				}
			})
		}
	})
}

// do carries decisions out.
func (n *node) do(decisions []lease.Decision) {
	for _, d := range decisions {
		n.carry(d)
	}
}

type written struct {
	outcome lease.Outcome
	index   uint64
}

func (n *node) carry(d lease.Decision) {
	a := n.w.locks
	write := func(shard uint32, index uint64, held, session, next string, v lease.Value, tell func(lease.Outcome, uint64) []lease.Decision) {
		ask(n, false, func() written {
			outcome, at := a.write(shard, index, held, session, next, v)
			return written{outcome, at}
		}, func(got *written) {
			if got == nil {
				got = &written{outcome: lease.Unclear}
			}
			n.do(tell(got.outcome, got.index))
		})
	}
	switch d := d.(type) {
	case lease.Create:
		ask(n, false, func() bool { a.create(d.Shard); return true }, func(*bool) {})
	case lease.Acquire:
		write(d.Shard, d.Index, "", d.Session, d.Session, d.Value, func(o lease.Outcome, index uint64) []lease.Decision {
			return n.machine.Acquired(n.clock(), d, o, index)
		})
	case lease.Rewrite:
		write(d.Shard, d.Index, d.Session, d.Session, d.Session, d.Value, func(o lease.Outcome, index uint64) []lease.Decision {
			return n.machine.Rewritten(n.clock(), d, o, index)
		})
	case lease.Release:
		write(d.Shard, d.Index, d.Session, d.Session, "", d.Value, func(lease.Outcome, uint64) []lease.Decision {
			return n.machine.Released(n.clock(), d)
		})
	case lease.Prove:
		n.prove(d)
	case lease.Raise:
		n.raise(d)
	case lease.Serve:
		n.serve(d)
	case lease.Stop:
		n.w.note("%s stops %d#%d: %v", n.id, d.Shard, d.Epoch, d.Why)
		n.w.count["stopped: "+d.Why.String()]++
	case lease.Extend:
	}
}

func (n *node) prove(p lease.Prove) {
	a := n.w.locks
	ask(n, false, func() []uint32 {
		var missing []uint32
		for _, h := range p.Holds {
			if a.locks[h.Shard].Session != p.Session || !a.live(p.Session) {
				missing = append(missing, h.Shard)
			}
		}
		return missing
	}, func(missing *[]uint32) {
		if missing != nil {
			n.do(n.machine.Proved(n.clock(), p, *missing))
		}
	})
}

type raised struct {
	outcome lease.Outcome
	row     uint64
}

func (n *node) raise(r lease.Raise) {
	ask(n, true, func() raised {
		row := &n.w.store[r.Shard]
		was := *row
		if n.w.blind {
			return raised{lease.Done, 0}
		}
		if was >= r.Epoch || r.From != 0 && was != r.From {
			return raised{lease.Refused, was}
		}
		*row = r.Epoch
		return raised{lease.Done, was}
	}, func(got *raised) {
		if got == nil {
			got = &raised{outcome: lease.Unclear}
		}
		n.do(n.machine.Raised(n.clock(), r, got.outcome, got.row))
	})
}

// serve checks what a node may rely on when it begins.
func (n *node) serve(s lease.Serve) {
	w, i := n.w, s.Inherit
	last := &w.last[s.Shard]
	w.note("%s serves %d#%d, %+v", n.id, s.Shard, s.Epoch, i)
	w.count["served"]++
	if w.blind {
		return
	}
	if s.Epoch < last.epoch || s.Epoch == last.epoch && last.by != n.id {
		w.fail("%s serves %d#%d after #%d", n.id, s.Shard, s.Epoch, last.epoch)
	}
	if i.Keep {
		w.count["kept"]++
		if last.by != n.id {
			w.fail("%s keeps its memory of %d, which %s has served meanwhile", n.id, s.Shard, last.by)
		}
	}
	if i.Handoff != "" {
		w.count["handed"]++
		if last.epoch != i.Replaces {
			w.fail("%s installs a copy of %d#%d, which was served under #%d meanwhile", n.id, s.Shard, i.Replaces, last.epoch)
		}
	}
	if mine := n.memory[s.Shard]; mine != 0 && i.Loads(mine) {
		w.count["loaded"]++
		if last.epoch != mine {
			w.fail("%s loads states of %d#%d, which was served under #%d meanwhile", n.id, s.Shard, mine, last.epoch)
		}
	}
	*last, n.memory[s.Shard] = served{s.Epoch, n.id}, s.Epoch
}
