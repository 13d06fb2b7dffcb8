package owner

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/lease"
)

const (
	// movesAtOnce bounds the shards that are on their way to others at one time,
	// but for a node that leaves.
	movesAtOnce = 32
	// moveAgain is the pause after an offer that failed, and offersTried after
	// how many of them a shard is released without one.
	moveAgain   = 500 * time.Millisecond
	offersTried = 8
	// offerTimeout bounds one offer.
	offerTimeout = time.Second
	// lastDrain bounds the drain of shards that nobody is there to take.
	lastDrain = 20 * time.Second
)

// moves are the shards on their way to others.
type moves struct {
	// look: there is perhaps something to move, also at at; 0 is unset.
	look  bool
	at    time.Duration
	under map[uint32]bool
	// failed counts offers that failed, one after the other.
	failed  int
	leaving *leaving
}

// leaving is a Leave that waits.
type leaving struct {
	gone chan<- error
	told bool
}

// moving is one shard on its way.
type moving struct {
	shard   uint32
	epoch   uint64
	handoff cluster.HandoffID
}

func (m *moves) due() time.Duration {
	if m.at == 0 {
		return never
	}
	return m.at
}

// move begins to give away what is served here and belongs elsewhere.
func (c *core) move(ctx context.Context) {
	m := &c.moves
	if m.at != 0 && c.now() >= m.at {
		m.at, m.look = 0, true
	}
	if !m.look || c.session == "" || m.at != 0 && m.leaving == nil {
		return
	}
	m.look = false
	alone := m.leaving != nil && !c.anyoneElse()
	batches := make(map[cluster.Incarnation][]moving)
	members := make(map[cluster.Incarnation]cluster.Member)
	for i, epoch := range c.serving {
		shard := uint32(i)
		if epoch == 0 || m.under[shard] || m.leaving == nil && len(m.under) >= movesAtOnce {
			continue
		}
		to, ok := c.receiver(shard)
		if !ok && !alone {
			continue
		}
		m.under[shard] = true
		members[to.Incarnation] = to
		batches[to.Incarnation] = append(batches[to.Incarnation], moving{shard, epoch, cluster.HandoffID(uuid.New())})
	}
	for id, batch := range batches {
		must := m.leaving != nil || m.failed >= offersTried
		c.o.running.Go(func() { c.o.hand(ctx, members[id], batch, must, c.delay()) })
	}
}

// receiver is the live member on which a shard belongs, where that is not this
// node.
func (c *core) receiver(shard uint32) (cluster.Member, bool) {
	name := c.place.known.Node(shard)
	if name == "" || name == c.o.cfg.Member.Name {
		return cluster.Member{}, false
	}
	for _, m := range c.members.List {
		if m.Name == name && m.Passing {
			return m, true
		}
	}
	return cluster.Member{}, false
}

// anyoneElse says whether another member can take shards.
func (c *core) anyoneElse() bool {
	for _, m := range c.members.List {
		if m.Passing && m.Name != c.o.cfg.Member.Name && (m.State == cluster.Ready || m.State == "") {
			return true
		}
	}
	return false
}

// hand gives shards to a member: it offers all of them, then drains each and
// has it released. An offer comes first, so that a receiver that does not
// answer costs no pause. Where must is set it goes on without; the receiver
// then waits for a delay. The zero member is nobody.
func (o *Owner) hand(ctx context.Context, to cluster.Member, batch []moving, must bool, delay time.Duration) {
	nobody := to.Incarnation == cluster.Incarnation{}
	offered := false
	if !nobody && o.cfg.Peers != nil {
		err := o.offer(ctx, to, batch)
		if offered = err == nil; !offered {
			o.cfg.Logger.WarnContext(ctx, "a member does not take an offer of shards", slog.String("node", to.Name), slog.Any("err", err))
		}
		o.mail.post(func(c *core) { c.offeredNow(offered) })
		if !offered && !must {
			o.mail.post(func(c *core) { c.notMoved(batch) })
			return
		}
	}
	// An offer counts for a delay.
	timeout := delay * 3 / 4
	if nobody {
		timeout = lastDrain
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, m := range batch {
		wg.Go(func() {
			err := o.cfg.Shards.Drain(ctx, m.shard, m.epoch)
			if err != nil {
				o.cfg.Logger.WarnContext(ctx, "a shard could not be drained", slog.Any("shard", m.shard), slog.Any("epoch", m.epoch), slog.Any("err", err))
			}
			o.mail.post(func(c *core) { c.drained(to, m, offered && err == nil) })
		})
	}
	wg.Wait()
}

func (o *Owner) offer(ctx context.Context, to cluster.Member, batch []moving) error {
	ctx, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	offers := make([]Offer, len(batch))
	for i, m := range batch {
		offers[i] = Offer{Shard: m.shard, Epoch: m.epoch, Handoff: m.handoff}
	}
	return o.cfg.Peers.Offer(ctx, to, o.cfg.Member.Incarnation, offers) //nolint:wrapcheck // logged
}

func (c *core) offeredNow(ok bool) {
	if c.moves.failed++; ok {
		c.moves.failed = 0
	}
}

// notMoved leaves shards where they are for a while.
func (c *core) notMoved(batch []moving) {
	for _, m := range batch {
		delete(c.moves.under, m.shard)
	}
	c.moves.at = c.now() + moveAgain
}

// drained releases a shard that answers nothing any more. Under another epoch
// than the one that was offered it is not clean.
func (c *core) drained(to cluster.Member, m moving, clean bool) {
	delete(c.moves.under, m.shard)
	c.moves.look = true
	if c.serving[m.shard] == 0 {
		return
	}
	var left lease.Clean
	if clean && c.serving[m.shard] == m.epoch {
		left = lease.Clean{Receiver: text(to.Incarnation), Handoff: text(m.handoff)}
	}
	c.do(c.m.GiveUp(c.now(), m.shard, left))
}

// leave begins to give everything away.
func (c *core) leave(gone chan<- error) {
	if c.moves.leaving != nil {
		gone <- ErrClosed
		return
	}
	c.moves.leaving = &leaving{gone: gone}
	c.place.wishes, c.moves.look = true, true
	c.mood.intent, c.mood.due = cluster.Draining, 0
	c.setState()
}

// letGo releases everything at once.
func (c *core) letGo() {
	for shard, epoch := range c.serving {
		if epoch != 0 {
			c.do(c.m.GiveUp(c.now(), uint32(shard), lease.Clean{}))
		}
	}
}

// left tells a Leave when nothing is held any more.
func (c *core) left() {
	l := c.moves.leaving
	if l == nil || l.told {
		return
	}
	if c.owned() == 0 && c.m.Holding() == 0 {
		l.told = true
		l.gone <- nil
		return
	}
	c.moves.look = true // members may have come or gone
}
