package handles

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/quern-io/quern/failure"
)

// maxLeaseMargin bounds how long before its end a lease counts as lost.
const maxLeaseMargin = 500 * time.Millisecond

// Lease is a held lock. It renews itself until it is released or lost; release
// it in either case. Its methods may be called concurrently.
//
// # Trust
//
// A lease is trusted until the start of the last renewal that succeeded, plus
// its TTL, less a margin of a tenth of it, at most 500 ms. The node starts the
// TTL when it has the request, which is later, so nothing of the network's time
// is in this. Renewals go out at a third of the TTL; each may take a third, and
// no longer than the trust that is left; then the next one follows. The clocks
// of this machine and of the node must run at nearly the same rate.
//
// A program that was stopped (a debugger, a suspended machine) sees Lost late.
// What must not happen twice is to be protected by the token.
type Lease struct {
	lock  Lock
	token uint64
	owner string
	ttl   time.Duration

	stop  context.CancelFunc // ends the renewals
	lost  chan struct{}
	ended chan struct{} // the renewals have ended

	mu struct {
		sync.Mutex
		until    time.Time
		over     bool  // lost is closed
		err      error // why it was lost
		released bool
		perhaps  bool // a release was tried, with an unknown outcome
	}
}

// newLease begins the renewals of a grant that was asked for at started.
func newLease(ctx context.Context, lock Lock, g LockGrant, started time.Time) *Lease {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &Lease{
		lock: lock, token: g.Token, owner: g.Owner, ttl: g.TTL,
		stop: cancel, lost: make(chan struct{}), ended: make(chan struct{}),
	}
	trusted := l.trust(started)
	go l.keep(ctx, started, trusted)
	return l
}

// Token returns the fencing token. It is higher than that of every earlier
// grant of the lock.
func (l *Lease) Token() uint64 { return l.token }

// Owner returns who holds the lock.
func (l *Lease) Owner() string { return l.owner }

// TTL returns how long the lock stays taken after the last renewal.
func (l *Lease) TTL() time.Duration { return l.ttl }

// Lost returns a channel that is closed when the lock must be used no more,
// before it can be another's: the renewals did not succeed in time, the hold
// was taken away, or Release was called. A forced release is the exception: it
// is noticed by the next renewal only.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Until returns when the lease will be lost unless it is renewed before. Every
// renewal moves it on. Work that cannot be stopped at once begins to stop
// before it.
func (l *Lease) Until() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.until
}

// Err says why the lease was lost: a *failure.Error, with the reason NOT_HOLDER
// where the node said so, and FENCED_TOKEN where it refused the handle's guard. It is nil while the lease is held, and where it was
// ended by Release.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.err
}

// Release closes Lost, ends the renewals and gives the lock back. It fails with
// NOT_HOLDER where the lock had been taken away before. After any other error
// the lock is perhaps held until the lease ends; Release may be called again.
// Once it has succeeded, another call does nothing.
func (l *Lease) Release(ctx context.Context) error {
	l.end(nil)
	l.stop()
	l.mu.Lock()
	released := l.mu.released
	l.mu.Unlock()
	var err error
	if !released {
		err = l.settle(l.lock.unguarded().Release(ctx, l.token))
	}
	select {
	case <-l.ended:
	case <-ctx.Done():
	}
	return err
}

// settle notes what became of a release.
func (l *Lease) settle(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.mu.released = true
	case errors.Is(err, failure.NotHolder):
		before := l.mu.released || l.mu.perhaps
		l.mu.released = true
		if before {
			return nil // by the try whose answer was lost
		}
	case failure.OutcomeOf(err) == failure.Unknown:
		l.mu.perhaps = true
	}
	return err
}

// end closes lost, once.
func (l *Lease) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.mu.over {
		l.mu.over, l.mu.err = true, err
		close(l.lost)
	}
}

// renewal is the result of one attempt.
type renewal struct {
	started time.Time
	err     error
}

// keep renews the lease until ctx ends or trust does. Attempts run beside it,
// so that one that hangs does not hold up the end of trust.
func (l *Lease) keep(ctx context.Context, started, trusted time.Time) {
	defer close(l.ended)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	defer l.stop()

	end := time.NewTimer(time.Until(trusted))
	defer end.Stop()
	next := time.NewTimer(time.Until(started.Add(jitter(l.ttl / 3))))
	defer next.Stop()
	results := make(chan renewal, 1)
	var last error
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			l.end(l.outOfTime(last))
			return
		case <-next.C:
			attempts.Go(func() { results <- l.renew(ctx, trusted) })
		case r := <-results:
			switch last = r.err; {
			case r.err == nil:
				trusted = l.trust(r.started)
				end.Reset(time.Until(trusted))
				next.Reset(time.Until(r.started.Add(jitter(l.ttl / 3))))
			case errors.Is(r.err, failure.NotHolder), errors.Is(r.err, failure.FencedToken):
				l.end(r.err)
				return
			default:
				next.Reset(l.pause(r.err))
			}
		}
	}
}

// outOfTime is why a lease was lost that no attempt could renew.
func (l *Lease) outOfTime(last error) error {
	if last == nil {
		return failure.New(failure.OutcomeUnknown, "the lease of %v was not renewed in time: no answer came", l.ttl)
	}
	return failure.Wrap(last, failure.OutcomeUnknown, "the lease of %v was not renewed in time; the last try: %v", l.ttl, last)
}

// trust notes and returns until when a lease counts whose last proof was begun
// at started.
func (l *Lease) trust(started time.Time) time.Time {
	until := started.Add(l.ttl - min(l.ttl/10, maxLeaseMargin))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.until = until
	return until
}

// renew makes one attempt.
func (l *Lease) renew(ctx context.Context, trusted time.Time) renewal {
	started := time.Now()
	deadline := started.Add(l.ttl / 3)
	if deadline.After(trusted) {
		deadline = trusted
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return renewal{started, l.lock.Renew(ctx, l.token, l.ttl)}
}

// pause is how long to wait after an attempt that failed: what the node asks
// for, within a range that leaves room for more attempts.
func (l *Lease) pause(err error) time.Duration {
	d := min(l.ttl/30, mostPause)
	if e, ok := errors.AsType[*failure.Error](err); ok {
		d = max(d, min(e.RetryAfter, l.ttl/10))
	}
	return jitter(d)
}

// jitter shortens a time by up to a tenth, so that many do not act at once.
func jitter(d time.Duration) time.Duration {
	if d < 10 {
		return d
	}
	return d - rand.N(d/10) //nolint:gosec // needs no secrecy
}
