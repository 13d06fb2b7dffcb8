package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

const (
	// lockTTL is the lease that a worker asks for. It is much longer than a
	// cycle, so that only a lock that was left behind comes to its end.
	lockTTL = 30 * time.Second
	// lockPatience is how long a worker waits for a lock, and for the release
	// of one of which it does not know whether it holds it.
	lockPatience = 20 * time.Second
)

// lockLedger is what the run knows of each lock. It is a witness in memory: the
// lock's holders write themselves in and out.
type lockLedger struct{ accounts []lockAccount }

// lockAccount is one key's.
type lockAccount struct {
	holder atomic.Int64  // the worker who holds it, from 1 on; 0 is nobody
	top    atomic.Uint64 // the highest token that was granted
	cycles atomic.Int64  // acknowledged releases
	// perhaps counts the cycles of unknown outcome.
	perhaps atomic.Int64
}

func newLockLedger(keys int) *lockLedger { return &lockLedger{make([]lockAccount, keys)} }

// enter writes a worker in who was granted a token.
func (w *worker) enter(k int, token uint64) {
	a := &w.locks.accounts[k]
	if former := a.holder.Swap(int64(w.id + 1)); former != 0 {
		w.broken.note("%s was granted to worker %d under the token %d while worker %d held it", w.keys.name(k), w.id+1, token, former)
	}
	for {
		top := a.top.Load()
		if token <= top {
			w.broken.note("%s was granted under the token %d after %d", w.keys.name(k), token, top)
			return
		}
		if a.top.CompareAndSwap(top, token) {
			return
		}
	}
}

// cycle is a round of one operation: a lock is taken and given back.
func (g *generator) cycle(ctx context.Context, w *worker) (done int64, ok bool) {
	w.failures = w.failures[:0]
	k, _ := g.pick(w) // keys are used again
	w.owner++
	lock := handles.NewLock(w.target, w.keys.name(k))
	o := handles.LockOptions{TTL: lockTTL, Wait: lockPatience, Owner: w.ownerName()}
	grant, err := w.take(ctx, lock, o)
	if err != nil {
		w.failures = append(w.failures, failures{err, 1})
		w.leave(ctx, lock, o.Owner, err)
		return 0, true
	}
	w.enter(k, grant.Token)
	// Written out before the release is sent: it may have its effect at once.
	w.locks.accounts[k].holder.Store(0)
	if err := lock.Release(ctx, grant.Token); err != nil {
		w.failures = append(w.failures, failures{err, 1})
		if failure.OutcomeOf(err) == failure.Unknown {
			w.locks.accounts[k].perhaps.Add(1)
		}
		w.leave(ctx, lock, o.Owner, err)
		return 0, true
	}
	w.locks.accounts[k].cycles.Add(1)
	return 1, true
}

// take asks for a lock. A grant that came so late that its lease may be over is
// asked for again, by the same owner: that starts it anew.
func (*worker) take(ctx context.Context, lock handles.Lock, o handles.LockOptions) (handles.LockGrant, error) {
	for {
		began := time.Now()
		grant, err := lock.Grant(ctx, o)
		switch {
		case err != nil:
			return grant, err //nolint:wrapcheck // the recorder names its reason
		case !grant.Held:
			return grant, failure.New(failure.ConditionFailed, "the lock was not had in %v", lockPatience)
		case time.Since(began) < lockTTL/2:
			return grant, nil
		}
	}
}

// ownerName is fresh for each cycle.
func (w *worker) ownerName() string {
	return w.ownerPrefix + strconv.FormatInt(w.owner, 10)
}

// leave gives back what a cycle that failed may have left behind, so that the
// others need not wait for the lease's end.
func (*worker) leave(ctx context.Context, lock handles.Lock, owner string, err error) {
	if failure.OutcomeOf(err) != failure.Unknown && ctx.Err() == nil {
		return
	}
	_ = again(context.WithoutCancel(ctx), lockPatience, func(ctx context.Context) error { // its lease ends in any case
		err := lock.ReleaseOwner(ctx, owner)
		if errors.Is(err, failure.NotHolder) {
			return nil
		}
		return err //nolint:wrapcheck // nobody reads it
	})
}

// readLock returns who holds a lock.
func (g *generator) readLock(ctx context.Context, k int, patience time.Duration) (info handles.LockInfo, err error) {
	err = again(ctx, patience, func(ctx context.Context) error {
		var err error
		info, err = handles.NewLock(g.cfg.Target, g.keys.name(k)).Get(ctx)
		return err
	})
	if err != nil {
		return info, fmt.Errorf("bench: reading %s: %w", g.keys.name(k), err)
	}
	return info, nil
}

// prepareLocks makes sure that nobody else uses the locks, and notes the tokens
// that the run's must exceed.
func (g *generator) prepareLocks(ctx context.Context) error {
	return g.sweep(ctx, g.cfg.Keys, "prepare", func(ctx context.Context, k int) error {
		info, err := g.readLock(ctx, k, patienceBefore)
		if err == nil && info.Holds+info.Waiters > 0 {
			err = fmt.Errorf("%w: %s is held or waited for", ErrKeysUsed, g.keys.name(k))
		}
		return err
	})
}

// verifyLocks looks who still holds a lock or waits for it after the load. A
// hold of this run's whose release was acknowledged counts as a lost one; a
// holder or waiter that is none of the run's counts as doubled.
func (g *generator) verifyLocks(ctx context.Context) (t tally, unread int, err error) {
	found, read := make([]tally, g.cfg.Keys), make([]bool, g.cfg.Keys)
	err = g.sweep(ctx, g.cfg.Keys, "check", func(ctx context.Context, k int) error {
		info, err := g.readLock(ctx, k, patienceAfter)
		if err != nil {
			return err
		}
		found[k], read[k] = g.locks.compare(k, info, g.ownerPrefix()), true
		return nil
	})
	for k := range found {
		if !read[k] {
			t.acked += g.locks.accounts[k].cycles.Load()
			unread++
			continue
		}
		t.acked += found[k].acked
		t.applied += found[k].applied
		t.lost += found[k].lost
		t.doubled += found[k].doubled
	}
	return t, unread, err
}

func (l *lockLedger) compare(k int, info handles.LockInfo, own string) (t tally) {
	a := &l.accounts[k]
	t.acked = a.cycles.Load()
	t.applied = t.acked
	allowed := a.perhaps.Load() // of unknown outcome: may still be held
	for _, h := range info.Holders {
		switch {
		case !strings.HasPrefix(h.Owner, own):
			t.doubled++
		case allowed > 0:
			allowed--
		default:
			t.lost++
			t.applied--
		}
	}
	for _, owner := range info.Queue {
		if !strings.HasPrefix(owner, own) {
			t.doubled++
		}
	}
	return t
}

// ownerPrefix begins the names of the run's owners.
func (g *generator) ownerPrefix() string { return "bench:" + g.cfg.Run + ":" }
