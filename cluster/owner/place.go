package owner

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/placement"
)

const (
	// collect is for how long changes of the members are gathered before a
	// placement is computed, and collectLeave where a member is leaving.
	collect      = 100 * time.Millisecond
	collectLeave = 10 * time.Millisecond
	// seekEvery is how often the lead is asked for while nobody has it.
	seekEvery = 100 * time.Millisecond
	// writeAgain is the pause after a write of record or placement that failed,
	// and for how long an older table than an own write is passed over.
	writeAgain = 500 * time.Millisecond
	// sessionAgain is the pause before sessions are asked for again, where a
	// member that could be given shards has none.
	sessionAgain = 200 * time.Millisecond
)

// place is where shards belong, as far as this node knows, and what it does
// about it while it leads.
type place struct {
	// known is the last placement that was read or written, index its index
	// there, and present whether the authority has it.
	known   *placement.Record
	index   uint64
	present bool
	// foreign: what the authority has was written by a newer version, and is
	// left alone.
	foreign bool
	// wrote is the index of an own write, and wroteAt when that was.
	wrote   uint64
	wroteAt time.Duration
	// wishes: what belongs here must be looked at again.
	wishes bool

	// leads: this node writes the placement.
	leads bool
	// stale: the placement must be computed again, at writeAt; 0 is unset.
	stale   bool
	writeAt time.Duration
	calling bool
	seekAt  time.Duration
	seeking bool

	// backAt is when this node came to know the authority, or to know it again,
	// and back are the members that passed since. Others that have shards are
	// waited for until held.
	backAt, held time.Duration
	back         map[string]bool
	awaited      awaited

	// establish: there is no record, and this node writes one.
	establish, establishing bool
	establishAt             time.Duration
}

// authorityBack notes that members may be missing only because the authority
// was away, or has forgotten them.
func (p *place) authorityBack(c *core) {
	p.backAt, p.back, p.stale = c.now(), make(map[string]bool), true
	p.awaited.anew(p.backAt)
}

// read takes the placement of a table.
func (p *place) read(c *core, read cluster.Placement) {
	if read.Index == p.index && (read.Index != 0) == p.present {
		return
	}
	if c.table.Index < p.wrote && !c.table.Fell && c.now() < p.wroteAt+writeAgain {
		return // older than the own write
	}
	p.index, p.stale, p.foreign = read.Index, true, false
	if p.present = read.Index != 0; !p.present {
		return // what was known counts on, and the leader writes it again
	}
	r, err := placement.Decode(read.Value, c.o.record.Shards)
	switch {
	case err == nil:
		p.adopt(c, r)
	case errors.Is(err, placement.ErrDamaged):
		c.o.cfg.Logger.Error("the placement is damaged and will be written anew", slog.Any("err", err))
		p.present = false
	default:
		c.o.cfg.Logger.Error("the placement cannot be read", slog.Any("err", err))
		p.foreign = true
	}
}

func (p *place) adopt(c *core, r *placement.Record) {
	p.known, p.present, p.wishes, c.moves.look = r, true, true, true
	p.awaited.look(c.now())
}

// due is when time alone makes something to do.
func (p *place) due() time.Duration {
	due := never
	for _, at := range []time.Duration{p.seekAt, p.establishAt, p.awaited.at} {
		if at != 0 {
			due = min(due, at)
		}
	}
	// An answer that is waited for makes a round by itself.
	for _, at := range []time.Duration{p.writeAt, p.held} {
		if at != 0 && !p.calling && p.leads {
			due = min(due, at)
		}
	}
	return due
}

// wish tells the machine what belongs here.
func (c *core) wish() {
	takes := c.takes()
	if !c.place.wishes && takes {
		return
	}
	c.place.wishes = false
	for shard := range c.want {
		s := uint32(shard)
		want := c.place.known.Node(s) == c.o.cfg.Member.Name && (takes || c.serving[shard] != 0)
		if want != c.want[shard] {
			c.want[shard] = want
			c.do(c.m.Want(c.now(), s, want))
		}
	}
}

// takes says whether this node takes shards that it does not serve.
func (c *core) takes() bool { return !c.mood.skewed && c.moves.leaving == nil && c.refused == nil }

// lead does what one of all nodes does: it has the record and the placement
// written.
func (c *core) lead(ctx context.Context) {
	p, now := &c.place, c.now()
	p.seekAt, p.establishAt = later(p.seekAt, now), later(p.establishAt, now)
	able := c.session != "" && c.read && c.refused == nil
	p.leads = able && !p.establish && c.table.Record != nil && c.table.Leader == c.session && c.members.Index != 0 && !p.foreign
	if !p.leads {
		p.writeAt, p.held, p.stale = 0, 0, true
	}
	switch {
	case !able:
	case p.establish:
		c.establish(ctx)
	case p.leads:
		c.plan(ctx)
	case c.table.Record != nil && c.table.Leader == "" && !p.seeking && p.seekAt == 0:
		c.seek(ctx)
	}
}

// later keeps a time that has not come.
func later(at, now time.Duration) time.Duration {
	if at > now {
		return at
	}
	return 0
}

// establish writes the record of an authority that was emptied, from what this
// node knows.
func (c *core) establish(ctx context.Context) {
	p, o := &c.place, c.o
	if p.establishing || p.establishAt != 0 {
		return
	}
	p.establishing = true
	want := c.record
	want.Index, want.Base = 0, cluster.BaseEpoch(time.Now(), max(want.Base, o.known.highest()))
	o.cfg.Logger.WarnContext(ctx, "the cluster has no record and gets a new one", slog.Any("epoch", want.Base))
	o.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		_, err := o.cfg.Authority.Establish(ctx, want)
		cancel()
		o.asked("establish", err)
		o.mail.post(func(c *core) {
			p.establishing = false
			if err != nil {
				p.establishAt = c.now() + writeAgain
				c.o.cfg.Logger.WarnContext(ctx, "the cluster's record could not be written", slog.Any("err", err))
				return
			}
			p.establish = false // unless the next table says again that there is none
			c.readAnew()
		})
	})
}

// seek asks for the lead.
func (c *core) seek(ctx context.Context) {
	o, session := c.o, c.session
	c.place.seeking = true
	o.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		leads, err := o.cfg.Authority.Lead(ctx, session)
		cancel()
		o.asked("lead", err)
		o.mail.post(func(c *core) {
			c.place.seeking, c.place.seekAt, c.place.stale = false, c.now()+seekEvery, true
			switch {
			case errors.Is(err, cluster.ErrSessionLost):
				c.sessionGone(session)
			case leads && session == c.session:
				c.table.Leader = session
			}
		})
	})
}

// plan computes the placement and has it written where it has changed.
func (c *core) plan(ctx context.Context) {
	p, now := &c.place, c.now()
	if p.held != 0 && now >= p.held {
		p.held, p.stale = 0, true
	}
	if p.stale && p.writeAt == 0 {
		p.writeAt = now + c.gather()
	}
	p.stale = false
	if p.calling || p.writeAt == 0 || now < p.writeAt {
		return
	}
	p.writeAt = 0
	if p.known.Next(c.candidates(nil)) != p.known || !p.present {
		c.askSessions(ctx)
	}
}

// askSessions asks who of the members has a session, and places then.
func (c *core) askSessions(ctx context.Context) {
	o := c.o
	c.place.calling = true
	o.running.Go(func() {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		alive, err := o.cfg.Authority.Sessions(attempt)
		cancel()
		o.asked("sessions", err)
		o.mail.post(func(c *core) { c.heardSessions(ctx, alive, err) })
	})
}

// heardSessions places the shards on members that have a session. What is not
// written now is looked at again, since nothing tells of a session that began.
func (c *core) heardSessions(ctx context.Context, alive map[cluster.Incarnation]bool, err error) {
	p := &c.place
	p.calling = false
	if !p.leads {
		return
	}
	switch {
	case errors.Is(err, cluster.ErrDenied):
		alive = nil // as before there was this right to ask for
	case err != nil:
		p.writeAt = c.now() + writeAgain
		c.o.cfg.Logger.WarnContext(ctx, "the members' sessions could not be read, nothing is placed", slog.Any("err", err))
		return
	}
	next := p.known.Next(c.candidates(alive))
	if slices.ContainsFunc(c.members.List, func(m cluster.Member) bool { return c.sessionless(&m, alive) }) {
		p.writeAt = c.now() + sessionAgain
	}
	if next == p.known && p.present {
		return
	}
	value, err := next.Encode()
	if err != nil {
		c.o.cfg.Logger.ErrorContext(ctx, "the placement cannot be written", slog.Any("err", err))
		return
	}
	c.put(ctx, next, value)
}

// sessionless reports whether a member passes, and has lost its session before:
// it could take no shard. alive is nil where that was not asked.
func (c *core) sessionless(m *cluster.Member, alive map[cluster.Incarnation]bool) bool {
	return alive != nil && m.Passing && m.Incarnation != c.o.cfg.Member.Incarnation && !alive[m.Incarnation]
}

func (c *core) gather() time.Duration {
	for _, m := range c.members.List {
		if m.Passing && m.State == cluster.Draining {
			return collectLeave
		}
	}
	if c.mood.intent == cluster.Draining {
		return collectLeave
	}
	return collect
}

// candidates are the members as placement sees them. One that has shards and
// was not seen since the authority is back keeps them for a while, and gets no
// more: it is perhaps only later than this node. But one that does not answer
// when it is asked will not come. Nor does one get any that has no session, of
// those that alive has; all have one where it is nil.
func (c *core) candidates(alive map[cluster.Incarnation]bool) []placement.Member {
	p := &c.place
	self := c.o.self()
	members := []placement.Member{candidate(self)}
	for _, m := range c.members.List {
		if m.Passing && m.Incarnation != self.Incarnation {
			of := candidate(m)
			of.Cordoned = of.Cordoned || c.sessionless(&m, alive)
			members = append(members, of)
		}
	}
	p.held = 0
	until := c.holdsBack()
	if c.now() >= until {
		return members
	}
	c.missing(func(name string, _ uint32) {
		if !p.awaited.gone(name) {
			members = append(members, placement.Member{Name: name, Cordoned: true})
			p.held = until
		}
	})
	return members
}

func candidate(m cluster.Member) placement.Member {
	return placement.Member{
		Name: m.Name, Draining: m.State == cluster.Draining,
		Cordoned: m.State == cluster.Cordoned || m.State == cluster.Joining,
	}
}

func (c *core) put(ctx context.Context, next *placement.Record, value []byte) {
	o, session, index := c.o, c.session, c.place.index
	c.place.calling = true
	o.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		wrote, err := o.cfg.Authority.PutPlacement(ctx, session, index, value)
		cancel()
		o.asked("place", err)
		o.mail.post(func(c *core) { c.placed(next, wrote, err) })
	})
}

func (c *core) placed(next *placement.Record, wrote uint64, err error) {
	p := &c.place
	p.calling = false
	if err != nil {
		// Whether it was written, and by whom else, the next table tells.
		p.writeAt = c.now() + writeAgain
		c.o.cfg.Logger.Warn("the placement was not written", slog.Any("err", err))
		return
	}
	c.o.stats.placements.Inc()
	c.o.cfg.Logger.Info("placement", slog.Any("version", next.Version()))
	p.index, p.wrote, p.wroteAt, p.stale = wrote, wrote, c.now(), true
	p.adopt(c, next)
}
