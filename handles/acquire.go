package handles

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/quern-io/quern/failure"
)

// Bounds of asking again.
const (
	leastPause = 20 * time.Millisecond
	// mostPause is well within the 5 s that a waiter has to come back to its
	// place after a takeover.
	mostPause = time.Second
	// cleanupTimeout bounds the release of what a given-up Acquire may have
	// left behind.
	cleanupTimeout = 5 * time.Second
)

func (o LockOptions) withDefaults() LockOptions {
	if o.TTL == 0 {
		o.TTL = DefaultLockTTL
	}
	if o.Owner == "" {
		o.Owner = rand.Text()
	}
	return o
}

// untilWait is how long a request that is made now may wait, where the waiting
// began at began.
func (o LockOptions) untilWait(ctx context.Context, began time.Time) time.Duration {
	if o.Wait < 0 {
		return 0
	}
	left := maxLockWait
	if o.Wait > 0 {
		left = min(left, o.Wait-time.Since(began))
	}
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	return max(0, left)
}

// Try is Acquire without waiting.
func (l Lock) Try(ctx context.Context, o LockOptions) (*Lease, error) {
	o.Wait = -1
	return l.Acquire(ctx, o)
}

// Acquire waits for the lock and returns a lease that renews itself until it is
// released or lost. It fails with CONDITION_FAILED where the lock was not had
// in the time to wait, and with INVALID_FIELD where those who hold it or wait
// disagree on the permits, or the owner has it in the other mode.
//
// While it waits it outlasts the loss of nodes and connections: it asks again,
// and keeps its place over the loss of a node where it does so in time. A
// connection that breaks takes the place with it. Where ctx ends, or the outcome
// stays unknown, it gives back what it may have got, within the TTL; but not
// for an owner that was named in the options, who may hold the lock by another
// call.
func (l Lock) Acquire(ctx context.Context, o LockOptions) (*Lease, error) {
	named := o.Owner != ""
	o = o.withDefaults()
	w := waiting{lock: l, o: o, began: time.Now()}
	lease, err := w.run(ctx)
	if err != nil && w.perhaps && !named {
		go l.giveBack(context.WithoutCancel(ctx), o)
	}
	return lease, err
}

// waiting is one Acquire under way.
type waiting struct {
	lock  Lock
	o     LockOptions
	began time.Time
	// perhaps: the owner may have a hold or a place in the queue.
	perhaps bool
	tries   int
}

func (w *waiting) run(ctx context.Context) (*Lease, error) {
	for {
		started := time.Now()
		g, err := w.lock.grant(ctx, w.o, w.o.untilWait(ctx, w.began))
		w.perhaps = w.perhaps && err != nil || g.Held || failure.OutcomeOf(err) == failure.Unknown
		switch {
		case g.Held && time.Since(started) <= w.o.TTL/2:
			return newLease(ctx, w.lock, g, started), nil
		case g.Held:
			// It was granted at some time since: its lease may be over by now.
			// Asking again is re-entry, and starts it anew.
			continue
		case err == nil:
			err = failure.New(failure.ConditionFailed, "the lock %q is held by others; %d wait for it", w.lock.key, g.Waiters)
		case ctx.Err() != nil || w.o.Wait < 0 || !askAgain(err):
			return nil, err
		}
		if !w.pause(ctx, err) {
			return nil, err
		}
	}
}

// askAgain reports whether the same request can have another answer soon. The
// owner makes asking again harmless.
func askAgain(err error) bool {
	e, ok := errors.AsType[*failure.Error](err)
	return ok && (e.Retryable() || e.Reason == failure.OutcomeUnknown)
}

// pause waits before the next try. It returns false where the time to wait is
// over, or would be then.
func (w *waiting) pause(ctx context.Context, err error) bool {
	d := min(leastPause<<min(w.tries, 6), mostPause)
	if e, ok := errors.AsType[*failure.Error](err); ok {
		d = max(d, min(e.RetryAfter, mostPause))
	}
	d = jitter(min(d, max(leastPause, w.o.TTL/4)))
	w.tries++
	if w.o.untilWait(ctx, w.began) <= d {
		return false
	}
	return sleep(ctx, d)
}

// sleep returns false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// giveBack releases what an owner may have, until it is told that there is
// nothing. It is a help: the lease's end is what counts.
func (l Lock) giveBack(ctx context.Context, o LockOptions) {
	ctx, cancel := context.WithTimeout(ctx, min(o.TTL, cleanupTimeout))
	defer cancel()
	for {
		err := l.unguarded().ReleaseOwner(ctx, o.Owner)
		if err == nil || !askAgain(err) || !sleep(ctx, jitter(4*leastPause)) {
			return
		}
	}
}
