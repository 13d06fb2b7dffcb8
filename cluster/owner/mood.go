package owner

import (
	"context"
	"log/slog"
	"time"

	"github.com/quern-io/quern/cluster"
)

const (
	// skewEvery is how often the clock is compared, and skewAgain how often
	// while it is off.
	skewEvery = 10 * time.Second
	skewAgain = 2 * time.Second
	// skewTimeout bounds one comparison.
	skewTimeout = 2 * time.Second
	// announceAgain is the pause after an announcement that failed.
	announceAgain = 250 * time.Millisecond
)

// mood is what the node is about: what it was told, what it announces, and
// whether its clock is right.
type mood struct {
	// intent is what it was told, Ready at first.
	intent cluster.State
	// announced is what the members see, calling whether that is being changed,
	// and due when to try again.
	announced cluster.State
	calling   bool
	due       time.Duration
	waiting   []chan struct{}

	skew   time.Duration
	skewed bool
}

// state is what the node is to announce. One whose clock is off gets no shards,
// and keeps what it has.
func (m *mood) state() cluster.State {
	switch {
	case m.intent == cluster.Ready && m.skewed && m.announced == cluster.Joining:
		return cluster.Joining
	case m.intent == cluster.Ready && m.skewed:
		return cluster.Cordoned
	default:
		return m.intent
	}
}

func (c *core) intend(state cluster.State, done chan struct{}) {
	c.mood.intent, c.mood.due = state, 0
	c.mood.waiting = append(c.mood.waiting, done)
	c.setState()
}

// setState makes the node's state known here, before the members know it.
func (c *core) setState() {
	state := c.mood.state()
	if c.o.state.Swap(state) == state {
		return
	}
	c.o.cfg.Logger.Info("this node is about something else now", slog.String("node", c.o.cfg.Member.Name), slog.String("state", string(state)))
	c.dirty, c.place.wishes, c.place.stale, c.moves.look = true, true, true, true
}

// announce tells the members what the node is about, where they do not know.
func (c *core) announce(ctx context.Context) {
	m, state := &c.mood, c.mood.state()
	switch {
	case m.announced == state:
		m.due = never
		for _, done := range m.waiting {
			close(done)
		}
		m.waiting = nil
		return
	case m.calling || c.session == "":
		m.due = never
		return
	case c.now() < m.due && m.due != never:
		return
	}
	m.calling, m.due = true, never
	o, session := c.o, c.session
	o.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := o.cfg.Authority.Announce(ctx, session, state)
		cancel()
		o.asked("announce", err)
		o.mail.post(func(c *core) { c.announcedNow(session, state, err) })
	})
}

func (c *core) announcedNow(session cluster.Session, state cluster.State, err error) {
	c.mood.calling, c.mood.due = false, 0
	switch {
	case session != c.session:
	case err != nil:
		c.mood.due = c.now() + announceAgain
		c.o.cfg.Logger.Warn("announcing what this node is about failed", slog.Any("err", err))
	default:
		c.mood.announced, c.place.stale = state, true
	}
}

// firstSkew compares the clock before this node joins. A comparison that fails
// tells nothing.
func (o *Owner) firstSkew(ctx context.Context) (skewed bool) {
	if o.cfg.Skew == nil {
		return false
	}
	skew, err := o.compare(ctx)
	if err != nil {
		return false
	}
	o.mail.post(func(c *core) { c.compared(skew) })
	return skew.Abs() > MaxSkew
}

// watchSkew compares the clock again and again, until ctx ends.
func (o *Owner) watchSkew(ctx context.Context) {
	timer := time.NewTimer(skewAgain)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := skewEvery
		skew, err := o.compare(ctx)
		if err == nil {
			o.mail.post(func(c *core) { c.compared(skew) })
		}
		if err != nil || skew.Abs() > MaxSkew {
			next = skewAgain
		}
		timer.Reset(next)
	}
}

func (o *Owner) compare(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, skewTimeout)
	defer cancel()
	skew, err := o.cfg.Skew(ctx)
	if err != nil {
		o.cfg.Logger.DebugContext(ctx, "the clock could not be compared", slog.Any("err", err))
	}
	return skew, err
}

func (c *core) compared(skew time.Duration) {
	m, skewed := &c.mood, skew.Abs() > MaxSkew
	c.dirty = c.dirty || m.skew.Round(time.Second) != skew.Round(time.Second)
	m.skew = skew
	if skewed == m.skewed {
		return
	}
	m.skewed, m.due, c.dirty, c.place.wishes = skewed, 0, true, true
	if skewed {
		c.o.cfg.Logger.Error("the clock is off, this node takes no shards", slog.String("node", c.o.cfg.Member.Name), slog.Duration("skew", skew))
	} else {
		c.o.cfg.Logger.Info("the clock is right again", slog.String("node", c.o.cfg.Member.Name), slog.Duration("skew", skew))
	}
	c.setState()
}
