package actors

// grain is a resident activation: the state of one key and what the shard must
// know of it. It belongs to its shard's turn.
//
// Invariant: a grain that is neither dirty nor flying equals its record.
type grain struct {
	key   string
	state State
	extra *extra // nil for most grains at most times
	// timer is the due time in the timer table once what is flying has
	// landed; 0 is none.
	timer int64
	kind  *kindGrains
	flags grainFlags
	place int32 // in the shard's ring
}

type grainFlags uint8

const (
	// loading: the record was not read yet; calls wait in extra.
	loading grainFlags = 1 << iota
	// dirty: changed since the last cut.
	dirty
	// flying: in the commit that is under way.
	flying
	// touched: used since the clock hand came by.
	touched
	// dropped: no longer in the shard.
	dropped
	// watched: it has a topic.
	watched
)

// extra is what few grains have.
type extra struct {
	// parked waits for the load. released counts the calls that had waited
	// and have not had their turn: until then the grain stays.
	parked   callList
	released int
	// once holds the kept answers; nil while they were not read.
	once *onceTable
	// guards holds the fencing tokens; nil while they were not read.
	guards *guardTable
	// loadOnce and loadGuards: the load that is under way reads them too.
	loadOnce, loadGuards bool
	// waiters are the calls that wait for a wake-up, by name; spare is for the
	// next name.
	waiters map[string]*waiters
	spare   *waiters
}

func (g *grain) is(f grainFlags) bool { return g.flags&f != 0 }
func (g *grain) set(f grainFlags)     { g.flags |= f }
func (g *grain) clear(f grainFlags)   { g.flags &^= f }

func (g *grain) extras() *extra {
	if g.extra == nil {
		g.extra = &extra{}
	}
	return g.extra
}

// once returns the grain's kept answers, nil where they were not read.
func (g *grain) once() *onceTable {
	if g.extra == nil {
		return nil
	}
	return g.extra.once
}

// evictable: durable, and nothing waits for it; a session, moreover, was not
// used lately.
func (g *grain) evictable(now int64) bool {
	if g.flags&(loading|dirty|flying) != 0 ||
		g.extra != nil && (g.extra.parked.n > 0 || g.extra.released > 0 || g.extra.loadOnce || g.extra.loadGuards || len(g.extra.waiters) > 0) {
		return false
	}
	if g.kind.pins {
		if p, ok := g.state.(Pinner); ok && p.Pinned() {
			return false
		}
	}
	ses := g.session()
	return ses == nil || !ses.open() || now-ses.used >= sessionPinned
}

// tidy lets go of extra where it holds nothing.
func (g *grain) tidy() {
	if x := g.extra; x != nil && x.once == nil && x.guards == nil && x.parked.n == 0 && x.released == 0 && !x.loadOnce && !x.loadGuards && len(x.waiters) == 0 {
		g.extra = nil
	}
}

// weight is what the grain counts towards the resident limit.
func (g *grain) weight() int {
	if ses := g.session(); ses != nil {
		return 1 + ses.weight()
	}
	n := 1
	if t := g.once(); t != nil {
		n += len(t.entries)
	}
	if t := g.guards(); t != nil {
		n += len(t.marks)
	}
	return n
}

// kindGrains holds a shard's grains of one kind.
type kindGrains struct {
	grains map[string]*grain
	undo   State             // holds the state from before the turn
	sized  bool              // its states are Sizers
	undoes bool              // they are Undoers; then undo is their log
	pins   bool              // they are Pinners
	topics map[string]*topic // by key; they outlive the eviction of their grains
	kind   Kind

	_ [8]byte // to a cache line
}

// residents chooses what to evict by the clock algorithm, which approximates
// "least recently used" without a write to other grains on each use: a hand
// goes round; a grain that was used since its last visit is passed over once.
type residents struct {
	weight int
	ring   []*grain
	hand   int
}

func (r *residents) add(g *grain) {
	g.place = int32(len(r.ring)) //nolint:gosec // fewer grains than 2^31 in a shard
	r.ring = append(r.ring, g)
	r.weight += g.weight()
}

// evict drops grains until the weight is at most limit. How many it looks at
// grows with the excess: each may have to be passed over once for its use, and
// some because they are not durable yet. To look at all of them twice is enough.
func (r *residents) evict(limit int, now int64) (evicted int) {
	for range min(64+2*max(0, r.weight-limit), 2*len(r.ring)) {
		if r.weight <= limit || len(r.ring) == 0 {
			return evicted
		}
		if r.hand >= len(r.ring) {
			r.hand = 0
		}
		g := r.ring[r.hand]
		switch {
		case g.is(touched):
			g.clear(touched)
			r.hand++
		case !g.evictable(now):
			r.hand++
		default:
			r.drop(g)
			if ses := g.session(); ses != nil {
				*ses = session{} // its memos may still hold the grain
			}
			evicted++
		}
	}
	return evicted
}

// drop forgets a grain. The last of the ring takes its place.
func (r *residents) drop(g *grain) {
	r.weight -= g.weight()
	delete(g.kind.grains, g.key)
	g.set(dropped)
	last := len(r.ring) - 1
	moved := r.ring[last]
	r.ring[g.place], moved.place = moved, g.place
	r.ring[last] = nil
	r.ring = r.ring[:last]
}
