package owner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/quern-io/quern/cluster"
)

// Start waits for the authority, joins the cluster and returns once this node
// is a member; shards come later, see View. It returns ErrName or ErrAddr where
// another process has this node's name or address and passes still after two
// check TTLs, an error
// that wraps cluster.ErrRecord where the cluster is another one than this
// node's, ErrClosed, or the context's error. Only the first two and the context's end
// are worth another try, with a new Owner.
func (o *Owner) Start(ctx context.Context) error {
	// The owner outlives the context of its start.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	if err := o.begin(end); err != nil {
		end()
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unhook := context.AfterFunc(life, cancel)
	defer unhook()
	err := o.start(ctx, life)
	o.running.Done()
	if err != nil {
		o.stop()
		return err
	}
	return nil
}

func (o *Owner) begin(end context.CancelFunc) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-o.closed:
		return ErrClosed
	default:
	}
	if o.begun {
		return errors.New("owner: started twice")
	}
	if err := o.stats.register(o.cfg.Metrics, o.cfg.Clock); err != nil {
		return err
	}
	o.begun, o.end = true, end
	o.running.Add(1) // for Start itself, so that Close waits for what it starts
	return nil
}

func (o *Owner) start(ctx, life context.Context) error {
	record, err := o.establish(ctx)
	if err != nil {
		return err
	}
	o.record = record
	o.known.size(record.Shards)
	o.tableWait.Store(int64(record.LockDelay * 2 / 5))
	c, err := newCore(o)
	if err != nil {
		return err
	}
	o.running.Go(func() { o.loop(life, c) })
	// Counts of free locks begin before this node is a member.
	o.running.Go(func() { o.watchTable(life) })
	skewed := o.firstSkew(ctx)
	session, err := o.enter(ctx, skewed)
	if err != nil {
		return err
	}
	o.running.Go(func() { o.watchMembers(life) })
	o.running.Go(func() { o.keep(life, session) })
	if o.cfg.Skew != nil {
		o.running.Go(func() { o.watchSkew(life) })
	}
	return nil
}

// establish waits until there is a record.
func (o *Owner) establish(ctx context.Context) (cluster.Record, error) {
	return establish(ctx, o.cfg.Authority, o.cfg.Record, o.cfg.Logger, func(err error) { o.asked("establish", err) })
}

// enter joins once no other process that passes has this name or address. Of two that come
// at the same moment each sees the other when both have joined; they leave and
// try again after pauses that differ.
func (o *Owner) enter(ctx context.Context, skewed bool) (cluster.Session, error) {
	if !skewed {
		o.state.Store(cluster.Ready)
	}
	for attempt := 0; ; attempt++ {
		if err := o.waitForPlace(ctx); err != nil {
			return "", err
		}
		session, err := o.joinAtLast(ctx)
		if err != nil {
			return "", err
		}
		// Where this cannot be read nobody was seen: the locks keep two apart.
		other, _ := o.rival(ctx, 0)
		if other == nil {
			return session, nil
		}
		err = o.cfg.Authority.Leave(ctx, session)
		o.asked("leave", err)
		o.mail.post(func(c *core) { c.sessionLost(session) })
		if attempt == maxEntries || ctx.Err() != nil {
			return "", errors.Join(o.taken(other), err, ctx.Err())
		}
		own := o.cfg.Member.Incarnation
		timer := time.NewTimer(time.Duration(own[15]) * o.cfg.CheckTTL / 512)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

const maxEntries = 5

func (o *Owner) joinAtLast(ctx context.Context) (cluster.Session, error) {
	for again := (pause{}); ; {
		session, err := o.join(ctx)
		if err == nil {
			return session, nil
		}
		o.cfg.Logger.WarnContext(ctx, "joining the cluster failed", slog.Any("err", err))
		if !again.wait(ctx) {
			return "", fmt.Errorf("owner: join: %w", errors.Join(ctx.Err(), err))
		}
	}
}

// waitForPlace waits until nobody who passes has this name or address, for two
// check TTLs: a process that was killed passes for one.
func (o *Owner) waitForPlace(ctx context.Context) error {
	var since time.Time
	for again := (pause{}); ; {
		other, err := o.rival(ctx, o.cfg.CheckTTL/4)
		switch {
		case err == nil && other == nil:
			return nil
		case err == nil && since.IsZero():
			since = time.Now()
			o.cfg.Logger.InfoContext(ctx, "waiting for the last process of this name or address to be missed", slog.String("node", other.Name), slog.String("addr", other.Addr))
		case err == nil && time.Since(since) > 2*o.cfg.CheckTTL:
			return o.taken(other)
		}
		if err != nil && !again.wait(ctx) {
			return fmt.Errorf("owner: read the members: %w", errors.Join(ctx.Err(), err))
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("owner: wait for name and address: %w", err)
		}
	}
}

// rival returns another process of this name, or else of this address, that
// passes. Where there is one it returns after wait, or when the members have
// changed.
func (o *Owner) rival(ctx context.Context, wait time.Duration) (*cluster.Member, error) {
	m, err := o.read(ctx, cluster.Watch{})
	other := o.rivalIn(m.List)
	if err != nil || other == nil || wait == 0 {
		return other, err
	}
	m, err = o.read(ctx, cluster.Watch{Index: m.Index, Wait: wait})
	return o.rivalIn(m.List), err
}

func (o *Owner) read(ctx context.Context, w cluster.Watch) (cluster.Members, error) {
	m, err := o.cfg.Authority.Members(ctx, w)
	o.asked("members", err)
	return m, err //nolint:wrapcheck // says all there is to say
}

func (o *Owner) rivalIn(list []cluster.Member) (rival *cluster.Member) {
	self := o.cfg.Member
	for i := range list {
		switch m := &list[i]; {
		case !m.Passing || m.Incarnation == self.Incarnation:
		case m.Name == self.Name:
			return m
		case m.Addr == self.Addr:
			rival = m
		}
	}
	return rival
}

// taken says what another member has that is this node's.
func (o *Owner) taken(other *cluster.Member) error {
	err := ErrName
	if other.Name != o.cfg.Member.Name {
		err = ErrAddr
	}
	return fmt.Errorf("%w: %s, incarnation %s at %s", err, other.Name, other.Incarnation, other.Addr)
}
