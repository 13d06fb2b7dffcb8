package owner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/lease"
)

// Owner owns the shards that belong on this node. Its methods may be called
// concurrently.
type Owner struct {
	cfg   Config
	mail  *mail
	known known
	view  atomic.Pointer[View]
	stats stats

	// record is set by Start before anything reads it.
	record cluster.Record
	// state is what the node announces, and heard when the authority answered
	// last, by Config.Clock.
	state atomic.Value // cluster.State
	heard atomic.Int64
	// tableWait is how long the next read of the table may wait, and tableNow
	// ends the wait of the one under way, membersNow that of one of the members.
	tableWait  atomic.Int64
	tableNow   chan struct{}
	membersNow chan struct{}
	// silent says that a call to the authority got no answer, and none since did.
	silent atomic.Bool
	// lost are sessions that somebody found to be gone.
	lost chan cluster.Session

	running sync.WaitGroup
	mu      sync.Mutex
	begun   bool
	// end stops all goroutines; nil before Start.
	end     context.CancelFunc
	session cluster.Session
	closed  chan struct{}
	closing sync.Once
}

// New returns an owner that has not asked anybody for anything.
func New(cfg Config) (*Owner, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	o := &Owner{
		cfg: cfg, mail: newMail(), tableNow: make(chan struct{}, 1), membersNow: make(chan struct{}, 1),
		lost: make(chan cluster.Session, 1), closed: make(chan struct{}),
	}
	o.state.Store(cluster.Joining)
	self := cfg.Member
	self.State = cluster.Joining
	o.view.Store(&View{Self: self, changed: make(chan struct{})})
	return o, nil
}

// View returns what is known now. It is not nil.
func (o *Owner) View() *View { return o.view.Load() }

// Highest returns the highest epochs that are known here of these shards, in
// their order, but for those that the asking incarnation wrote.
func (o *Owner) Highest(asks cluster.Incarnation, shards []uint32) []uint64 {
	return o.known.besides(asks, shards)
}

// Offered takes a peer's word that it will release shards to this node. It
// fails with ErrSilent where the authority does not answer this node, which then
// could not take them; they are better off where they are.
func (o *Owner) Offered(from cluster.Incarnation, offers []Offer) error {
	if o.silent.Load() || !o.View().Fresh {
		return ErrSilent
	}
	o.mail.offer(func(c *core) {
		for _, offer := range offers {
			o.known.note(offer.Shard, offer.Epoch, from)
			c.do(c.m.Offered(c.now(), lease.Offer{
				Shard: offer.Shard, Epoch: offer.Epoch, Handoff: text(offer.Handoff),
			}))
		}
	})
	return nil
}

// Reraised takes the runtime's word that it has raised a shard's epoch at the
// store by compare-and-set from its own, and goes on under it.
func (o *Owner) Reraised(shard uint32, epoch uint64) {
	o.mail.post(func(c *core) { c.reraised(shard, epoch) })
}

// Fenced takes the runtime's word that the store refused epoch, and which one
// it has, 0 where that is not known.
func (o *Owner) Fenced(shard uint32, epoch, known uint64) {
	o.mail.post(func(c *core) { c.fenced(shard, epoch, known) })
}

// Announce says what this node is about from now on: cluster.Ready,
// cluster.Cordoned or cluster.Draining. It returns when the members can see it.
func (o *Owner) Announce(ctx context.Context, state cluster.State) error {
	switch state {
	case cluster.Ready, cluster.Cordoned, cluster.Draining:
	default:
		return fmt.Errorf("owner: a node cannot be told to be %q", state)
	}
	done := make(chan struct{})
	o.mail.post(func(c *core) { c.intend(state, done) })
	select {
	case <-done:
		return nil
	case <-o.closed:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("owner: announce %s: %w", state, ctx.Err())
	}
}

// Leave gives all shards away and takes this node out of the members: it
// announces that it drains, waits until each shard is drained, offered and
// released, and leaves. Where nobody is there to take them it drains and
// releases them. With the end of ctx it lets go of what is left, and fails with
// ErrNotGiven. Owner is closed afterwards.
func (o *Owner) Leave(ctx context.Context) error {
	o.mu.Lock()
	joined := o.session != ""
	o.mu.Unlock()
	if !joined {
		return o.Close(ctx)
	}
	var errs []error
	if err := o.giveAll(ctx); err != nil {
		errs = append(errs, err)
	}
	o.stop()
	o.mu.Lock()
	session := o.session
	o.mu.Unlock()
	// The end of the drain time must not leave a member behind.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	err := o.cfg.Authority.Leave(ctx, session)
	o.asked("leave", err)
	return errors.Join(append(errs, err)...)
}

// giveAll waits until this node holds nothing.
func (o *Owner) giveAll(ctx context.Context) error {
	gone := make(chan error, 1)
	o.mail.post(func(c *core) { c.leave(gone) })
	select {
	case err := <-gone:
		return err
	case <-o.closed:
		return ErrClosed
	case <-ctx.Done():
	}
	o.mail.post((*core).letGo)
	timer := time.NewTimer(leaveTimeout)
	defer timer.Stop()
	select {
	case err := <-gone:
		return errors.Join(ErrNotGiven, err)
	case <-o.closed:
	case <-timer.C:
	}
	return ErrNotGiven
}

// Close ends all goroutines. Shards that are served are stopped, and the locks
// left to the authority, which frees them when the member is missed: Leave is
// what a node does that ends in order. It waits whatever ctx says.
func (o *Owner) Close(context.Context) error {
	o.stop()
	return nil
}

func (o *Owner) stop() {
	o.closing.Do(func() {
		close(o.closed)
		o.mu.Lock()
		end := o.end
		o.mu.Unlock()
		if end != nil {
			end()
		}
	})
	o.running.Wait()
	o.stats.unregister(o.cfg.Metrics)
}

// asked notes a call to the authority and what came of it.
func (o *Owner) asked(call string, err error) {
	o.stats.asked(call, err)
	if err == nil || !errors.Is(err, cluster.ErrUnreachable) && !errors.Is(err, context.Canceled) &&
		!errors.Is(err, context.DeadlineExceeded) {
		o.heard.Store(int64(o.cfg.Clock()))
	}
	o.led(call, err)
}

// self is this node as it announces itself.
func (o *Owner) self() cluster.Member {
	m := o.cfg.Member
	m.State, _ = o.state.Load().(cluster.State)
	return m
}
