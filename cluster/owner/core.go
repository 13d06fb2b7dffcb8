package owner

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/lease"
	"github.com/quern-io/quern/cluster/placement"
)

// core is what the loop alone touches: the machine, what was read last, and
// what is under way.
type core struct {
	o *Owner
	m *lease.Machine

	// record is the cluster's as it stands, or stood before it was lost.
	record  cluster.Record
	session cluster.Session
	table   cluster.Table
	members cluster.Members
	read    bool // whether there was a table
	// refused is why the cluster's record cannot be served under.
	refused error

	// Of each shard: whether it belongs here, the epoch under which it is
	// served, until when, its clock at the store, the epoch of what the store of
	// this node has, and who owns it.
	want    []bool
	serving []uint64
	began   []uint64 // the epoch of the last Serve
	until   []time.Duration
	times   []int64
	current []uint64
	routes  []Route

	work  work
	place place
	moves moves
	mood  mood
	// dirty says that the view has changed.
	dirty, fresh bool
}

func newCore(o *Owner) (*core, error) {
	r := &o.record
	m, err := lease.New(lease.Config{
		Shards: r.Shards, Incarnation: text(o.cfg.Member.Incarnation), Delay: r.LockDelay,
	})
	if err != nil {
		return nil, err //nolint:wrapcheck // says all there is to say
	}
	n := r.Shards
	c := &core{
		o: o, m: m, record: o.record, dirty: true, mood: mood{intent: cluster.Ready, announced: cluster.Joining},
		want: make([]bool, n), serving: make([]uint64, n), began: make([]uint64, n), until: make([]time.Duration, n),
		times: make([]int64, n), current: make([]uint64, n), routes: make([]Route, n),
	}
	c.place.known, c.place.back = placement.New(n), make(map[string]bool)
	c.place.awaited.anew(0)
	c.moves.under = make(map[uint32]bool)
	return c, nil
}

func (c *core) now() time.Duration { return c.o.cfg.Clock() }

// delay is LD.
func (c *core) delay() time.Duration { return c.o.record.LockDelay }

// loop takes events, one round after the other. Nothing in it waits for the
// authority, the store or a peer.
func (o *Owner) loop(ctx context.Context, c *core) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			c.stopAll()
			return
		case <-o.mail.news:
		case <-timer.C:
		}
		for _, event := range o.mail.take() {
			event(c)
		}
		c.round(ctx)
		timer.Reset(max(c.wake()-c.now(), time.Millisecond))
	}
}

// round does what is due after the events of a round.
func (c *core) round(ctx context.Context) {
	if now := c.now(); now >= c.m.Wake() {
		c.do(c.m.Clock(now))
	}
	c.announce(ctx)
	c.inquire(ctx)
	c.lead(ctx)
	c.wish()
	c.move(ctx)
	c.left()
	c.send(ctx)
	c.pace()
	c.freshen()
	c.publish()
}

// wake is when the next round is due without an event.
func (c *core) wake() time.Duration {
	return min(c.m.Wake(), c.mood.due, c.place.due(), c.moves.due(), c.staleAt())
}

// do carries decisions out: what concerns the runtime at once, what asks for
// something at the end of the round.
func (c *core) do(decisions []lease.Decision) {
	for _, d := range decisions {
		switch d := d.(type) {
		case lease.Serve:
			c.serve(d)
		case lease.Extend:
			c.o.cfg.Shards.Extend(d.Shards, d.Until)
			for _, shard := range d.Shards {
				c.until[shard] = d.Until
			}
		case lease.Stop:
			c.stop(d)
		default:
			c.work.add(c, d)
		}
	}
}

// serve begins to answer for a shard. What a store that is not shared has is
// dropped where it is not current.
func (c *core) serve(d lease.Serve) {
	o := c.o
	if !o.cfg.Shared {
		written := max(o.cfg.Store.Written(d.Shard), c.current[d.Shard])
		if !d.Inherit.Keep && !d.Inherit.Loads(written) {
			o.cfg.Store.Empty(d.Shard)
		}
		c.current[d.Shard] = d.Epoch
	}
	o.known.note(d.Shard, d.Epoch, o.cfg.Member.Incarnation)
	c.serving[d.Shard], c.began[d.Shard], c.until[d.Shard] = d.Epoch, d.Epoch, d.Until
	c.route(d.Shard, Route{o.cfg.Member.Incarnation, d.Epoch})
	c.moves.look = true
	if d.Inherit.Handoff == "" && !d.Inherit.Keep {
		o.stats.takeovers.Inc()
	}
	o.cfg.Shards.Serve(Serving{Shard: d.Shard, Epoch: d.Epoch, Time: c.times[d.Shard], Until: d.Until})
}

func (c *core) stop(d lease.Stop) {
	c.o.cfg.Shards.Stop(d.Shard, d.Epoch)
	c.serving[d.Shard], c.until[d.Shard] = 0, 0
	c.route(d.Shard, Route{})
	if d.Why == lease.NotHeld {
		c.readAnew()
	}
	if d.Why != lease.GivenUp {
		c.o.cfg.Logger.Warn("a shard is not answered for", slog.Any("shard", d.Shard), slog.Any("epoch", d.Epoch), slog.String("why", d.Why.String()))
	}
}

func (c *core) stopAll() {
	for shard, epoch := range c.serving {
		if epoch != 0 {
			c.o.cfg.Shards.Stop(uint32(shard), epoch)
			c.serving[shard], c.until[shard] = 0, 0
		}
	}
	c.o.stats.leases.Store(0)
}

// owned counts the shards that are served.
func (c *core) owned() int {
	n := 0
	for _, epoch := range c.serving {
		if epoch != 0 {
			n++
		}
	}
	return n
}

func (c *core) route(shard uint32, r Route) {
	if c.routes[shard] != r {
		c.routes[shard], c.dirty = r, true
	}
}

func (c *core) reraised(shard uint32, epoch uint64) {
	c.o.known.note(shard, epoch, c.o.cfg.Member.Incarnation)
	if int(shard) < len(c.began) && c.serving[shard] == epoch && c.began[shard] == epoch {
		// The runtime had it before it was told to serve under it, and does not.
		c.do(c.m.Fenced(c.now(), shard, epoch, epoch))
		return
	}
	c.do(c.m.Reraised(c.now(), shard, epoch))
	if int(shard) >= len(c.serving) || epoch < c.serving[shard] {
		return
	}
	if c.serving[shard] == 0 {
		// It was to stop under the epoch that it had before.
		c.o.cfg.Shards.Stop(shard, epoch)
		return
	}
	c.serving[shard], c.current[shard] = epoch, epoch
	c.route(shard, Route{c.o.cfg.Member.Incarnation, epoch})
}

func (c *core) fenced(shard uint32, epoch, known uint64) {
	if c.o.cfg.Shared {
		c.o.known.note(shard, known, cluster.Incarnation{})
	}
	c.do(c.m.Fenced(c.now(), shard, epoch, known))
}

// staleAt is when the authority will have been silent for a delay.
func (c *core) staleAt() time.Duration {
	if !c.fresh {
		return never
	}
	return time.Duration(c.o.heard.Load()) + c.delay() + 1
}

// freshen notes whether the authority answers.
func (c *core) freshen() {
	fresh := c.session != "" && c.read && c.now() <= time.Duration(c.o.heard.Load())+c.delay()
	if fresh != c.fresh {
		c.fresh, c.dirty = fresh, true
		if !fresh && c.read {
			c.o.cfg.Logger.Warn("the authority does not answer", slog.String("node", c.o.cfg.Member.Name))
		}
	}
}

// publish replaces the view where it has changed.
func (c *core) publish() {
	c.o.stats.leases.Store(int64(c.owned()))
	c.o.stats.until.Store(int64(c.trust()))
	if !c.dirty {
		return
	}
	c.dirty = false
	v := &View{
		Self: c.o.self(), Record: c.record, Members: c.members.List, Shards: slices.Clone(c.routes),
		Fresh: c.fresh, Skew: c.mood.skew, Skewed: c.mood.skewed, Err: c.refused, changed: make(chan struct{}),
	}
	v.index()
	close(c.o.view.Swap(v).changed)
}

// trust is the earliest end of trust of what is served.
func (c *core) trust() time.Duration {
	first := never
	for shard, epoch := range c.serving {
		if epoch != 0 {
			first = min(first, c.until[shard])
		}
	}
	return first
}
