package owner

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/lease"
)

const (
	// idleWait is how long a watch waits while nothing hangs on how old its
	// answer is.
	idleWait = 10 * time.Second
	// retryFirst and retryLast are the pauses after calls that failed.
	retryFirst = 50 * time.Millisecond
	retryLast  = time.Second
)

// pause is a growing one.
type pause struct{ next time.Duration }

// wait waits longer each time, until ctx ends. It reports whether it may go on.
func (p *pause) wait(ctx context.Context) bool { return p.waitOr(ctx, nil) }

// waitOr is wait that now, which may be nil, cuts short.
func (p *pause) waitOr(ctx context.Context, now <-chan struct{}) bool {
	p.next = min(max(2*p.next, retryFirst), retryLast)
	timer := time.NewTimer(p.next)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-now:
		return true
	case <-ctx.Done():
		return false
	}
}

// watchTable reads the table again and again, until ctx ends. How long a read
// may wait is the loop's to say; it also ends a wait that has become too long.
func (o *Owner) watchTable(ctx context.Context) {
	var (
		index uint64
		again pause
	)
	for ctx.Err() == nil {
		w := cluster.Watch{Index: index, Wait: time.Duration(o.tableWait.Load())}
		read, cancel := context.WithTimeout(ctx, w.Wait+w.Wait/16+attemptTimeout)
		stop := o.cutShort(read, cancel, o.tableNow)
		t, err := o.cfg.Authority.Table(read, w)
		cut := stop()
		cancel()
		switch {
		case err == nil:
			o.asked("table", nil)
			index, again = t.Index, pause{}
			o.mail.post(func(c *core) { c.readTable(t) })
		case cut && ctx.Err() == nil:
			// What was lost meanwhile must show, and it does from the start alone.
			index = 0
		default:
			o.asked("table", err)
			index = 0
			o.mail.post(func(c *core) { c.unreadable("table", err) })
			again.waitOr(ctx, o.tableNow)
		}
	}
}

// cutShort cancels a read when now says that another one is wanted. stop ends
// that and reports whether it happened.
func (o *Owner) cutShort(ctx context.Context, cancel context.CancelFunc, now <-chan struct{}) (stop func() bool) {
	cut, done := make(chan bool, 1), make(chan struct{})
	o.running.Go(func() {
		select {
		case <-now:
			cancel()
			cut <- true
		case <-done:
			cut <- false
		case <-ctx.Done():
			cut <- false
		}
	})
	return func() bool {
		close(done)
		return <-cut
	}
}

// readAnew ends the wait of the watch: something was lost, and the table is to
// be read from the start.
func (c *core) readAnew() { nudge(c.o.tableNow) }

// pace sets how long a read of the table may wait: while a lock's time is being
// counted the machine needs two reads in each delay at least.
func (c *core) pace() {
	wait := idleWait
	if c.counts() {
		wait = c.delay() * 2 / 5
	}
	if was := time.Duration(c.o.tableWait.Swap(int64(wait))); wait < was {
		c.readAnew()
	}
}

// counts says whether there is a shard that nobody has, though it perhaps does
// not belong here yet, or one that belongs here and is not served.
func (c *core) counts() bool {
	if len(c.table.Locks) < len(c.want) {
		return true
	}
	for i := range c.table.Locks {
		if c.table.Locks[i].Holder == "" {
			return true
		}
	}
	for shard, want := range c.want {
		if want && c.serving[shard] == 0 {
			return true
		}
	}
	return false
}

// readTable takes a table. The machine gets locks as strings of its own.
func (c *core) readTable(t cluster.Table) {
	if t.Fell {
		c.place.authorityBack(c)
	}
	c.read, c.table = true, t
	c.o.known.noteLocks(t.Locks)
	c.readRecord(t.Record)
	locks := make([]lease.Lock, c.o.record.Shards)
	for _, l := range t.Locks {
		if int(l.Shard) < len(locks) {
			locks[l.Shard] = lease.Lock{Index: l.Index, Session: string(l.Holder), Value: leaseValue(l.Value)}
		}
	}
	c.do(c.m.Read(c.now(), lease.Reading{Index: t.Index, Locks: locks}))
	for shard := range c.routes {
		if c.serving[shard] == 0 {
			c.route(uint32(shard), c.routeOf(uint32(shard)))
		}
	}
	c.place.read(c, t.Placement)
}

// routeOf is the owner of a shard that this node does not serve, as the table
// has it.
func (c *core) routeOf(shard uint32) Route {
	l, found := c.table.Lock(shard)
	if !found || l.Holder == "" || l.Holder == c.session {
		return Route{}
	}
	return Route{l.Value.Owner, l.Value.Epoch}
}

// readRecord takes the cluster's record as it stands now. One that is gone is
// written again; under one that does not fit nothing can be owned.
func (c *core) readRecord(r *cluster.Record) {
	var wrong error
	switch r {
	case nil:
		c.place.authorityBack(c)
		c.do(c.m.Cluster(c.now(), "", c.record.Base))
		c.place.establish = true
	default:
		own := c.record
		own.ClusterID = c.o.cfg.Record.ClusterID
		if wrong = r.Fit(own); wrong == nil && r.LockDelay != own.LockDelay {
			wrong = errDelay(own.LockDelay, r.LockDelay)
		}
		if wrong == nil {
			c.place.establish = false
			c.record = *r
			c.do(c.m.Cluster(c.now(), recordID(r), r.Base))
		}
	}
	c.refuse(wrong)
}

// refuse notes why nothing can be owned, or that it can be again.
func (c *core) refuse(wrong error) {
	if (wrong == nil) == (c.refused == nil) {
		return
	}
	c.refused, c.dirty, c.place.wishes = wrong, true, true
	if wrong != nil {
		c.o.cfg.Logger.Error("the cluster's record does not fit, this node owns nothing", slog.Any("err", wrong))
		c.do(c.m.SessionLost(c.now()))
		return
	}
	c.o.cfg.Logger.Info("the cluster's record fits again")
	c.do(c.m.SessionBegan(c.now(), string(c.session)))
}

func (c *core) unreadable(what string, err error) {
	if errors.Is(err, cluster.ErrRecord) {
		c.refuse(err)
	}
	c.o.cfg.Logger.Debug("a read of the authority failed", slog.String("what", what), slog.Any("err", err))
}

// watchMembers reads the members again and again, until ctx ends.
func (o *Owner) watchMembers(ctx context.Context) {
	var (
		index uint64
		again pause
	)
	for ctx.Err() == nil {
		read, cancel := context.WithTimeout(ctx, idleWait+idleWait/16+attemptTimeout)
		stop := o.cutShort(read, cancel, o.membersNow)
		m, err := o.cfg.Authority.Members(read, cluster.Watch{Index: index, Wait: idleWait})
		cut := stop()
		cancel()
		switch {
		case err == nil:
			o.asked("members", nil)
			index, again = m.Index, pause{}
			o.mail.post(func(c *core) { c.readMembers(m) })
		case cut && ctx.Err() == nil:
			index = 0
		default:
			o.asked("members", err)
			index = 0
			again.waitOr(ctx, o.membersNow)
		}
	}
}

func (c *core) readMembers(m cluster.Members) {
	if m.Fell {
		c.place.authorityBack(c)
	}
	c.members, c.dirty = m, true
	c.place.stale, c.moves.look = true, true
	c.place.awaited.meet(m.List, c.now())
	for i := range m.List {
		if m.List[i].Passing {
			c.place.back[m.List[i].Name] = true
		}
	}
}

// keep keeps the member passing and its session alive, and joins again when the
// session is lost, until ctx ends.
func (o *Owner) keep(ctx context.Context, session cluster.Session) {
	ticker := time.NewTicker(o.cfg.CheckTTL / 3)
	defer ticker.Stop()
	for {
		if !o.renew(ctx, session, ticker.C) {
			return
		}
		o.mail.post(func(c *core) { c.sessionLost(session) })
		var again pause
		for {
			next, err := o.join(ctx)
			if err == nil {
				session = next
				break
			}
			o.cfg.Logger.WarnContext(ctx, "joining the cluster again failed", slog.Any("err", err))
			if !again.wait(ctx) {
				return
			}
		}
	}
}

// renew returns true when the session is lost, and false with the end of ctx.
func (o *Owner) renew(ctx context.Context, session cluster.Session, due <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case gone := <-o.lost:
			if gone == session {
				return true
			}
		case <-due:
			attempt, cancel := context.WithTimeout(ctx, o.cfg.CheckTTL/3)
			err := o.cfg.Authority.KeepAlive(attempt, session)
			cancel()
			o.asked("keep_alive", err)
			if errors.Is(err, cluster.ErrSessionLost) {
				return true
			}
		}
	}
}

// join registers this node and tells the loop of the session.
func (o *Owner) join(ctx context.Context) (cluster.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	self := o.self()
	session, err := o.cfg.Authority.Join(ctx, self, o.record.LockDelay)
	o.asked("join", err)
	if err != nil {
		return "", err //nolint:wrapcheck // says all there is to say
	}
	o.mu.Lock()
	o.session = session
	o.mu.Unlock()
	o.mail.post(func(c *core) { c.sessionBegan(session, self.State) })
	return session, nil
}

// sessionGone ends a session that an answer said to be gone, and has keep open
// another one.
func (c *core) sessionGone(s cluster.Session) {
	if s == "" || s != c.session {
		return
	}
	select {
	case <-c.o.lost: // of an earlier one
	default:
	}
	c.o.lost <- s // the loop alone sends
	c.sessionLost(s)
}

func (c *core) sessionLost(s cluster.Session) {
	if s == "" || s != c.session {
		return
	}
	c.o.cfg.Logger.Warn("the session is lost", slog.String("session", string(s)))
	c.session = ""
	c.place.authorityBack(c)
	c.do(c.m.SessionLost(c.now()))
	c.readAnew()
}

func (c *core) sessionBegan(s cluster.Session, announced cluster.State) {
	c.session, c.mood.announced, c.dirty = s, announced, true
	c.place.authorityBack(c)
	c.readAnew() // whoever gave a session answers reads, too
	nudge(c.o.membersNow)
	if c.refused == nil {
		c.do(c.m.SessionBegan(c.now(), string(s)))
	}
}
