package owner

import (
	"context"
	"log/slog"
	"time"

	"github.com/quern-io/quern/cluster"
)

const (
	// silentAfter is how many questions in a row a member leaves without an
	// answer that is not waited for any more.
	silentAfter = 2
	// askEvery is the time between two questions to one member, askedTimeout
	// bounds one, and askedAtOnce how many are under way.
	askEvery     = 500 * time.Millisecond
	askedTimeout = 500 * time.Millisecond
	askedAtOnce  = 32
	// maxMet bounds the names of which it is remembered who had them.
	maxMet = 4096
)

// awaited are the members that have shards and have not come back since the
// authority has. Who lives will, and keeps its shards for a while; so each is
// asked, by every node, whether it does. Who leads next then knows.
type awaited struct {
	// met is who passed last under a name, as far as this node knows.
	met map[string]cluster.Member
	// asked are the questions since the authority is back, under way how many
	// have no answer yet, and at when to look next; 0 is unset.
	asked    map[string]*asked
	underWay int
	at       time.Duration
}

// asked are the questions to one member.
type asked struct {
	calling bool
	at      time.Duration // of the next one
	silent  int           // those in a row that got no answer
}

// anew begins to ask from the start: what was not answered while this node was
// out of touch says nothing.
func (a *awaited) anew(now time.Duration) { a.asked, a.at = make(map[string]*asked), now }

// gone says whether a member was asked often enough and did not answer.
func (a *awaited) gone(name string) bool {
	q := a.asked[name]
	return q != nil && q.silent >= silentAfter
}

// meet remembers who passes, and of other names whoever is listed.
func (a *awaited) meet(list []cluster.Member, now time.Duration) {
	if a.met == nil || len(a.met)+len(list) > maxMet {
		a.met = make(map[string]cluster.Member)
	}
	for _, m := range list {
		if _, found := a.met[m.Name]; m.Passing || !found {
			a.met[m.Name] = m
		}
	}
	a.at = now
}

// missing calls yield for each name that has shards and was not seen to pass
// since the authority is back, with the first of its shards.
func (c *core) missing(yield func(name string, shard uint32)) {
	p := &c.place
	seen := map[string]bool{"": true, c.o.cfg.Member.Name: true}
	for _, m := range c.members.List {
		seen[m.Name] = seen[m.Name] || m.Passing
	}
	for shard := range c.o.record.Shards {
		if name := p.known.Node(shard); !seen[name] && !p.back[name] {
			seen[name] = true
			yield(name, shard)
		}
	}
}

// holdsBack is until when members that are missing keep what they had.
func (c *core) holdsBack() time.Duration { return c.place.backAt + c.delay() + 2*c.o.cfg.CheckTTL }

// inquire asks who is missing whether it lives, where that is due.
func (c *core) inquire(ctx context.Context) {
	a, now := &c.place.awaited, c.now()
	if a.at == 0 || now < a.at {
		return
	}
	a.at = 0
	if c.o.cfg.Peers == nil || c.session == "" || !c.read || c.members.Index == 0 || now >= c.holdsBack() {
		return // what changes that looks again
	}
	c.missing(func(name string, shard uint32) {
		m, met := a.met[name]
		if !met {
			return
		}
		q := a.asked[name]
		if q == nil {
			q = &asked{at: now}
			a.asked[name] = q
		}
		switch {
		case q.calling || q.silent >= silentAfter:
		case now < q.at:
			a.look(q.at)
		case a.underWay < askedAtOnce: // else the next answer looks again
			c.ask(ctx, m, shard, q)
		}
	})
}

// look has inquire run at that time.
func (a *awaited) look(at time.Duration) {
	if a.at == 0 || at < a.at {
		a.at = at
	}
}

// ask asks one member about one of its shards. Any answer will do; an error is
// none, as that of another incarnation at its address.
func (c *core) ask(ctx context.Context, m cluster.Member, shard uint32, q *asked) {
	o := c.o
	q.calling, q.at = true, c.now()+askEvery
	c.place.awaited.underWay++
	o.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, askedTimeout)
		_, err := o.cfg.Peers.Highest(ctx, m, o.cfg.Member.Incarnation, []uint32{shard})
		cancel()
		o.mail.post(func(c *core) { c.answered(m, q, err) })
	})
}

// answered takes what became of a question, also of one that is of no interest
// any more.
func (c *core) answered(m cluster.Member, q *asked, err error) {
	a := &c.place.awaited
	a.underWay--
	a.look(c.now())
	if q.calling = false; err == nil {
		q.silent = 0
		return
	}
	if q.silent++; q.silent == silentAfter && a.asked[m.Name] == q {
		c.place.stale = true
		c.o.cfg.Logger.Info("a member that is missing does not answer, and is not waited for", slog.String("node", m.Name), slog.Any("err", err))
	}
}
