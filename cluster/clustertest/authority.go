package clustertest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quern-io/quern/cluster"
)

// Join implements cluster.Membership.
func (c *Client) Join(ctx context.Context, m cluster.Member, lockDelay time.Duration) (cluster.Session, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	t, self := c.twin, memberKey{c.cluster, m.Incarnation}
	m.Passing = true
	var opened cluster.Session
	err := c.write(ctx, "join", func(now time.Time) error {
		t.setMember(self, member{Member: m, ttl: c.checkTTL, due: now.Add(c.checkTTL)})
		opened = t.drawSession()
		t.state.index++
		t.state.sessions[opened] = session{member: self, delay: lockDelay, ends: now.Add(sessionGrace * cluster.SessionTTL)}
		return nil
	})
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.self, c.renews, c.renewed = self, opened, time.Now()
	return opened, nil
}

// KeepAlive implements cluster.Membership.
func (c *Client) KeepAlive(ctx context.Context, s cluster.Session) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c.mu.Lock()
	self := c.self
	due := c.renews != s || time.Since(c.renewed) >= cluster.SessionTTL/2
	c.mu.Unlock()
	if s == "" {
		return noSession("keep alive")
	}
	t := c.twin
	err := c.write(ctx, "pass the check", func(now time.Time) error {
		m, found := t.state.members[self]
		if !found {
			return noSession("pass the check")
		}
		passed := m.Passing
		m.Passing, m.due = true, now.Add(m.ttl)
		t.state.members[self] = m
		if !passed {
			t.memberChanged(self.cluster)
		}
		return nil
	})
	if err != nil || !due {
		return err
	}
	err = c.write(ctx, "renew the session", func(now time.Time) error {
		held, found := t.state.sessions[s]
		if !found {
			return noSession("renew the session")
		}
		held.ends = now.Add(sessionGrace * cluster.SessionTTL)
		t.state.sessions[s] = held
		return nil
	})
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.renews, c.renewed = s, time.Now()
	}
	return err
}

// Announce implements cluster.Membership.
func (c *Client) Announce(ctx context.Context, s cluster.Session, state cluster.State) error {
	const what = "announce a state"
	ctx, cancel := bounded(ctx)
	defer cancel()
	c.mu.Lock()
	self := c.self
	c.mu.Unlock()
	return c.write(ctx, what, func(now time.Time) error {
		m, found := c.twin.state.members[self]
		if !found || s == "" {
			return noSession(what)
		}
		if err := c.alive(what, s); err != nil {
			return err
		}
		if m.Passing && m.State == state {
			m.due = now.Add(m.ttl)
			c.twin.state.members[self] = m
			return nil
		}
		m.Passing, m.State, m.due = true, state, now.Add(m.ttl)
		c.twin.setMember(self, m)
		return nil
	})
}

// Leave implements cluster.Membership.
func (c *Client) Leave(ctx context.Context, s cluster.Session) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	c.mu.Lock()
	self := c.self
	c.mu.Unlock()
	return c.write(ctx, "leave", func(now time.Time) error {
		if lead := (key{cluster: c.cluster, kind: aLeader}); s != "" && c.twin.state.entries[lead].holder == s {
			c.twin.put(lead, "", "")
		}
		c.twin.endSession(s, now)
		c.twin.removeMember(self, now)
		return nil
	})
}

// Members implements cluster.Membership.
func (c *Client) Members(ctx context.Context, w cluster.Watch) (members cluster.Members, err error) {
	t := c.twin
	index := func() uint64 { return max(1, t.state.roster[c.cluster]) }
	members.Index, members.Fell, err = c.watch(ctx, "read the members", w, index, func() { members.List = t.roster(c.cluster) })
	return members, err
}

// Sessions implements cluster.Membership.
func (c *Client) Sessions(ctx context.Context) (map[cluster.Incarnation]bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	alive := make(map[cluster.Incarnation]bool)
	err := c.arrive(ctx, arrival{}, func() {
		for _, s := range c.twin.state.sessions {
			if s.member.cluster == c.cluster {
				alive[s.member.incarnation] = true
			}
		}
	})
	if err != nil {
		return nil, fault("read the sessions", err)
	}
	return alive, nil
}

// Establish implements cluster.Registry.
func (c *Client) Establish(ctx context.Context, want cluster.Record) (cluster.Record, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	k := key{cluster: c.cluster, kind: aRecord}
	var record cluster.Record
	err := c.write(ctx, "establish the cluster", func(time.Time) error {
		if _, found := c.twin.state.entries[k]; !found {
			fresh, err := want.Complete()
			if err != nil {
				return err //nolint:wrapcheck // says all there is to say
			}
			fresh.Index = 0
			c.twin.put(k, fresh, "")
		}
		record = recordOf(c.twin.state.entries[k])
		return record.Fit(want)
	})
	if err != nil {
		return cluster.Record{}, err
	}
	return record, nil
}

// Table implements cluster.Registry.
func (c *Client) Table(ctx context.Context, w cluster.Watch) (cluster.Table, error) {
	t := c.twin
	var table cluster.Table
	index, fell, err := c.watch(ctx, "read the table", w,
		func() uint64 { return t.tableIndex(c.cluster) }, func() { table = t.table(c.cluster) })
	table.Index, table.Fell = index, fell
	return table, err
}

// Lead implements cluster.Registry.
func (c *Client) Lead(ctx context.Context, s cluster.Session) (bool, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var leads bool
	err := c.write(ctx, "take the lead", func(now time.Time) error {
		if err := c.alive("take the lead", s); err != nil {
			return err
		}
		v, _ := c.lock(key{cluster: c.cluster, kind: aLeader}, s, "", now)
		leads = v == cluster.Done
		return nil
	})
	return err == nil && leads, err
}

// PutPlacement implements cluster.Registry.
func (c *Client) PutPlacement(ctx context.Context, s cluster.Session, index uint64, value []byte) (uint64, error) {
	const what = "write the placement"
	if s == "" {
		return 0, noSession(what)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	t := c.twin
	var put uint64
	err := c.write(ctx, what, func(time.Time) error {
		k := key{cluster: c.cluster, kind: aPlacement}
		if t.state.entries[key{cluster: c.cluster, kind: aLeader}].holder != s || t.state.entries[k].index != index {
			return fmt.Errorf("clustertest: %s: %w", what, cluster.ErrIndexMoved)
		}
		put = t.put(k, string(value), "")
		return nil
	})
	if err != nil {
		return 0, err
	}
	return put, nil
}

// Create implements cluster.Locks.
func (c *Client) Create(ctx context.Context, locks []cluster.LockWrite) ([]cluster.Result, error) {
	return c.each(ctx, "create locks", locks, maxOps, func(k key, l cluster.LockWrite, _ time.Time) (cluster.Verdict, uint64) {
		if _, found := c.twin.state.entries[k]; found {
			return cluster.Moved, 0
		}
		return cluster.Done, c.twin.put(k, l.Value, "")
	}, nil)
}

// Acquire implements cluster.Locks.
func (c *Client) Acquire(ctx context.Context, s cluster.Session, locks []cluster.LockWrite) ([]cluster.Result, error) {
	const what = "acquire locks"
	return c.each(ctx, what, locks, maxOps/2, func(k key, l cluster.LockWrite, now time.Time) (cluster.Verdict, uint64) {
		e, found := c.twin.state.entries[k]
		switch {
		// Delays are looked at before anything else, as Consul does.
		case now.Before(c.twin.delays[k]):
			return cluster.Delayed, 0
		case c.alive(what, s) != nil:
			return cluster.Refused, 0
		case found && e.index == l.Index || e.holder != "" && e.holder != s:
			return c.lock(k, s, l.Value, now)
		default:
			return cluster.Moved, 0
		}
	}, func() error { return given(what, s) })
}

// Release implements cluster.Locks.
func (c *Client) Release(ctx context.Context, s cluster.Session, locks []cluster.LockWrite) ([]cluster.Result, error) {
	const what = "release locks"
	return c.each(ctx, what, locks, maxOps/2, func(k key, l cluster.LockWrite, _ time.Time) (cluster.Verdict, uint64) {
		switch e := c.twin.state.entries[k]; {
		case e.holder != s:
			return cluster.Gone, 0
		case e.index != l.Index:
			return cluster.Moved, 0
		default:
			return cluster.Done, c.twin.put(k, l.Value, "")
		}
	}, func() error { return given(what, s) })
}

// Prove implements cluster.Locks.
func (c *Client) Prove(ctx context.Context, s cluster.Session, shards []uint32) ([]cluster.Result, error) {
	const what = "prove locks"
	locks := make([]cluster.LockWrite, len(shards))
	for i, shard := range shards {
		locks[i].Shard = shard
	}
	return c.each(ctx, what, locks, maxOps, func(k key, _ cluster.LockWrite, _ time.Time) (cluster.Verdict, uint64) {
		if c.twin.state.entries[k].holder != s {
			return cluster.Gone, 0
		}
		return cluster.Done, 0
	}, func() error { return given(what, s) })
}

// lock takes or rewrites a lock for a session. The caller holds the twin's mu.
func (c *Client) lock(k key, s cluster.Session, value any, now time.Time) (cluster.Verdict, uint64) {
	switch e := c.twin.state.entries[k]; {
	case now.Before(c.twin.delays[k]):
		return cluster.Delayed, 0
	case e.holder != "" && e.holder != s:
		return cluster.Held, 0
	default:
		return cluster.Done, c.twin.put(k, value, s)
	}
}

func (c *Client) alive(what string, s cluster.Session) error {
	if _, found := c.twin.state.sessions[s]; !found {
		return noSession(what)
	}
	return nil
}

func given(what string, s cluster.Session) error {
	if s == "" {
		return noSession(what)
	}
	return nil
}

func noSession(what string) error {
	return fmt.Errorf("clustertest: %s: %w", what, cluster.ErrSessionLost)
}

// each does something to each lock, some together in one transaction, which is
// refused as a whole where one is. check, if not nil, says first whether a
// transaction can be.
func (c *Client) each(
	ctx context.Context, what string, locks []cluster.LockWrite, together int,
	do func(key, cluster.LockWrite, time.Time) (cluster.Verdict, uint64), check func() error,
) ([]cluster.Result, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	results := make([]cluster.Result, len(locks))
	for i, l := range locks {
		results[i] = cluster.Result{Shard: l.Shard, Verdict: cluster.Refused}
	}
	for from := 0; from < len(locks); from += together {
		chunk := locks[from:min(len(locks), from+together)]
		got := make([]cluster.Result, len(chunk))
		err := c.write(ctx, what, func(now time.Time) error {
			if check != nil {
				if err := check(); err != nil {
					return err
				}
			}
			refused := false
			for i, l := range chunk {
				got[i].Shard = l.Shard
				got[i].Verdict, got[i].Index = do(key{cluster: c.cluster, kind: aLock, shard: l.Shard}, l, now)
				refused = refused || got[i].Verdict == cluster.Refused
			}
			if refused {
				return noSession(what)
			}
			return nil
		})
		switch {
		case err == nil:
			copy(results[from:], got)
		case errors.Is(err, cluster.ErrSessionLost) && got[0].Verdict != cluster.Unknown:
			copy(results[from:], got)
			return results, err
		case errors.Is(err, cluster.ErrSessionLost), errors.Is(err, cluster.ErrDenied):
			return results, err
		default:
			// got may yet be written to, and nobody knows whether it was.
			for i := range chunk {
				results[from+i].Verdict = cluster.Unknown
			}
			return results, err
		}
	}
	return results, nil
}
