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
// is a member; shards come later, see View. It returns ErrName where another
// process has this node's name and passes still after two check TTLs, an error
// that wraps cluster.ErrRecord where the cluster is another one than this
// node's, ErrClosed, or the context's error. Only ErrName and the context's end
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

// enter joins once no other process that passes has this name. Of two that come
// at the same moment each sees the other when both have joined; they leave and
// try again after pauses that differ.
func (o *Owner) enter(ctx context.Context, skewed bool) (cluster.Session, error) {
	if !skewed {
		o.state.Store(cluster.Ready)
	}
	for attempt := 0; ; attempt++ {
		if err := o.waitForName(ctx); err != nil {
			return "", err
		}
		session, err := o.joinAtLast(ctx)
		if err != nil {
			return "", err
		}
		// Where this cannot be read nobody was seen: the locks keep two apart.
		if other, _ := o.namesake(ctx, 0); other == nil {
			return session, nil
		}
		err = o.cfg.Authority.Leave(ctx, session)
		o.asked("leave", err)
		o.mail.post(func(c *core) { c.sessionLost(session) })
		if attempt == maxEntries || ctx.Err() != nil {
			return "", errors.Join(ErrName, err, ctx.Err())
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

// waitForName waits until nobody who passes has this name, for two check TTLs:
// a process that was killed passes for one.
func (o *Owner) waitForName(ctx context.Context) error {
	var since time.Time
	for again := (pause{}); ; {
		other, err := o.namesake(ctx, o.cfg.CheckTTL/4)
		switch {
		case err == nil && other == nil:
			return nil
		case err == nil && since.IsZero():
			since = time.Now()
			o.cfg.Logger.InfoContext(ctx, "waiting for the last process of this name to be missed", slog.String("node", other.Name), slog.String("addr", other.Addr))
		case err == nil && time.Since(since) > 2*o.cfg.CheckTTL:
			return fmt.Errorf("%w: %s, incarnation %s at %s", ErrName, other.Name, other.Incarnation, other.Addr)
		}
		if err != nil && !again.wait(ctx) {
			return fmt.Errorf("owner: read the members: %w", errors.Join(ctx.Err(), err))
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("owner: wait for the name: %w", err)
		}
	}
}

// namesake returns another process of this name that passes. Where there is one
// it returns after wait, or when the members have changed.
func (o *Owner) namesake(ctx context.Context, wait time.Duration) (*cluster.Member, error) {
	find := func(w cluster.Watch) (*cluster.Member, uint64, error) {
		m, err := o.cfg.Authority.Members(ctx, w)
		o.asked("members", err)
		for i := range m.List {
			if other := &m.List[i]; other.Passing && other.Name == o.cfg.Member.Name && other.Incarnation != o.cfg.Member.Incarnation {
				return other, m.Index, err
			}
		}
		return nil, m.Index, err //nolint:wrapcheck // says all there is to say
	}
	other, index, err := find(cluster.Watch{})
	if err != nil || other == nil || wait == 0 {
		return other, err
	}
	other, _, err = find(cluster.Watch{Index: index, Wait: wait})
	return other, err
}
