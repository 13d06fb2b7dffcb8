package grains

import (
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Bounds of a lock.
const (
	// MaxLease is the longest ttl of a lease, and the longest wait for one.
	MaxLease = 24 * time.Hour
	// MaxLockHolders and MaxLockWaiters are how many may hold a lock and wait
	// for it; fewer where owners are longer than 26 bytes, since the record is
	// bounded, too. Beyond that a shared request waits, and what would have to
	// wait is refused with OVERLOADED.
	MaxLockHolders = 100_000
	MaxLockWaiters = 100_000

	// maxLockBytes keeps a record within what a commit takes.
	maxLockBytes = 4 << 20

	maxOwnerBytes  = 128
	maxReasonBytes = 512
	// listedEntries bounds the lists in a reply.
	listedEntries = 1_000
	// comeBack is how long a waiter has, at most, to come back to its place
	// after a reload, or for its grant.
	comeBack = int64(5 * time.Second / time.Millisecond)
	// queueRetryAfter is what a waiter is told who finds the queue full.
	queueRetryAfter = time.Second
)

// Lock is the kind of locks: exclusive with a number of permits, or shared.
//
// # The states of an entry
//
// What an owner has of a lock is an entry, in one of three states. Each has one
// time, by the shard's clock, at which the lock itself ends that state.
//
//	           ┌────────────── the lock is free ──────────────┐
//	Acquire ───┤                                              ▼
//	           └─► queued ── head, and room ─► granted ──► held
//	               │ wait over,                 │ not come   │ lease over,
//	               │ not come back,             │ for,       │ released,
//	               ▼ cancelled                  ▼ cancelled  ▼ forced
//	              gone                         gone         gone
//
// queued: in the queue, with a parked call. Its time is the end of the wait.
//
// granted: it has a token and keeps others out, but its waiter does not know:
// the call was woken and has yet to run again. That run, or an Acquire of the
// same owner, or a Renew with the token, confirms it. Its time is
// min(ttl, 5 s) after the grant; then it is taken back and the next one's turn
// comes.
//
// held: its time is the end of the lease, which runs from the turn whose reply
// told of it.
//
// A cancelled wait leaves the queue at once. Where the grant crossed with it
// (granted) the grant is given back. A hold whose reply was made but never
// arrived is left alone, since that cannot be told here: its owner asks for it
// again, releases it by its name, or its lease ends.
//
// # Reloads
//
// The record has durations and no times, but for that of the next turn. The
// first turn after a reload starts them: a lease runs anew for its ttl, so it
// is longer by at most one ttl and never shorter; a grant has its
// min(ttl, 5 s) again; a waiter is away, and leaves the queue where it does not
// come back within its own min(ttl, 5 s). An away waiter keeps its place, also
// when the lock is granted to it, but a grant gives it no more time. So a
// renewal changes nothing durable, and commits nothing.
//
// The timer table finds a lock that nobody visits. Due is what it holds: not
// the next time exactly but an earlier one, so that it need not be moved with
// each renewal. When it comes, it is set to the next one. After a crash it
// brings the first turn no later than the old lease would have ended; so what
// nobody visits ends at most one ttl later, too.
type Lock struct{}

// Name implements actors.Kind.
func (Lock) Name() string { return "lock" }

// New implements actors.Kind.
func (Lock) New() actors.State { return &lock{} }

// Apply implements actors.State.
func (l *lock) Apply(t *actors.Turn, command, reply proto.Message) (bool, error) {
	l.start(t.Now())
	changed, err := l.command(t, command, reply)
	if _, parked := err.(*actors.Parked); err != nil && !parked { //nolint:errorlint // made here
		return false, err
	}
	return l.arm(t.Now()) || changed, err
}

func (l *lock) command(t *actors.Turn, command, reply proto.Message) (bool, error) {
	switch q := command.(type) {
	case nil:
		return l.expire(t), nil
	case *quernv1.LockServiceAcquireRequest:
		return method(l, t, q, reply, (*lock).acquire)
	case *quernv1.LockServiceRenewRequest:
		return method(l, t, q, reply, (*lock).renew)
	case *quernv1.LockServiceReleaseRequest:
		return method(l, t, q, reply, (*lock).release)
	case *quernv1.LockServiceForceReleaseRequest:
		return method(l, t, q, reply, (*lock).forceRelease)
	case *quernv1.LockServiceGetRequest:
		return method(l, t, q, reply, (*lock).get)
	default:
		return false, failure.New(failure.UnknownMethod, "a lock has no method for %T", command)
	}
}

// method runs a method with its reply in its own type.
func method[S, Q any, A proto.Message](s S, t *actors.Turn, q Q, reply proto.Message,
	run func(S, *actors.Turn, Q, A) (bool, error),
) (bool, error) {
	a, ok := reply.(A)
	if !ok {
		return false, failure.New(failure.UnknownMethod, "%T is no reply to %T", reply, q)
	}
	return run(s, t, q, a)
}

// wanted is a checked Acquire.
type wanted struct {
	owner     string
	ttl, wait int64 // milliseconds
	permits   uint32
	shared    bool
}

func parseAcquire(q *quernv1.LockServiceAcquireRequest) (w wanted, err error) {
	w = wanted{owner: q.GetOwner(), permits: max(q.GetPermits(), 1), shared: q.GetShared()}
	if err := checkText("owner", w.owner, maxOwnerBytes); err != nil {
		return w, err
	}
	if w.permits > MaxLockHolders {
		return w, failure.New(failure.InvalidField, "permits is %d; it is at most %d", w.permits, MaxLockHolders)
	}
	if w.ttl, err = leaseTime(q.GetTtl()); err != nil {
		return w, err
	}
	if q.GetWait() != nil {
		w.wait, err = millis("wait", q.GetWait(), 0, MaxLease)
	}
	return w, err
}

func checkText(field, s string, most int) error {
	switch {
	case s == "":
		return failure.New(failure.InvalidField, "%s is empty; it has 1 to %d bytes", field, most)
	case len(s) > most:
		return failure.New(failure.InvalidField, "%s has %d bytes; it has 1 to %d", field, len(s), most)
	case !utf8.ValidString(s):
		return failure.New(failure.InvalidField, "%s is not UTF-8", field)
	default:
		return nil
	}
}

func leaseTime(d *durationpb.Duration) (int64, error) { return millis("ttl", d, 1, MaxLease) }

// millis returns a duration within bounds in milliseconds, rounded up: never
// shorter than what was asked for.
func millis(field string, d *durationpb.Duration, least, most time.Duration) (int64, error) {
	if d != nil && !d.IsValid() {
		return 0, failure.New(failure.InvalidField, "%s is no valid duration", field)
	}
	v := d.AsDuration()
	if v < least || v > most {
		bound := "at least 0"
		if least > 0 {
			bound = "above 0"
		}
		return 0, failure.New(failure.InvalidField, "%s is %v; it is %s and at most %v", field, v, bound, most)
	}
	return int64((v + time.Millisecond - 1) / time.Millisecond), nil
}

func duration(ms int64) *durationpb.Duration {
	return durationpb.New(time.Duration(ms) * time.Millisecond)
}

// tellTTL puts a duration into a reply. A caller may have left an empty one
// there to be filled in.
func tellTTL(to **durationpb.Duration, ms int64) {
	d := *to
	if d == nil {
		*to = duration(ms)
		return
	}
	d.Seconds, d.Nanos = ms/1000, int32(ms%1000)*int32(time.Millisecond)
}

func (l *lock) acquire(t *actors.Turn, q *quernv1.LockServiceAcquireRequest, a *quernv1.LockServiceAcquireResponse) (bool, error) {
	w, err := parseAcquire(q)
	if err != nil {
		return false, err
	}
	e := l.find(w.owner)
	switch {
	case e == nil && t.Resumed(): // its wait is over, or its grant was forced away
		l.notHeld(w, a)
		return false, nil
	case l.permits != 0 && l.permits != w.permits:
		return false, failure.New(failure.InvalidField, "permits is %d; the lock is in use with %d", w.permits, l.permits)
	case e == nil:
		return l.enter(t, w, a)
	case e.shared != w.shared:
		return false, failure.New(failure.InvalidField, "the owner %q has the lock, or waits for it, %s; release that first or use another owner",
			w.owner, mode(e.shared))
	case e.state == queued:
		return l.stay(t, e, w, a)
	default:
		changed := l.confirm(t, e, w.ttl)
		l.isHeld(e, a)
		return changed, nil
	}
}

func mode(shared bool) string {
	if shared {
		return "shared"
	}
	return "exclusively"
}

// enter answers an owner who has nothing of the lock.
func (l *lock) enter(t *actors.Turn, w wanted, a *quernv1.LockServiceAcquireResponse) (bool, error) {
	free := l.queue.n == 0 && l.admits(w.shared)
	switch {
	case !free && w.wait == 0:
		l.notHeld(w, a)
		return false, nil
	case !free && l.queue.n >= MaxLockWaiters, l.bytes+len(w.owner)+entryBytes > maxLockBytes:
		return false, failure.New(failure.Overloaded, "the lock has %d holders and %d who wait, as many as it takes; try again later",
			l.holders.n, l.queue.n).After(queueRetryAfter)
	case free:
		e := l.add(&l.holders, w, held, t.Now()+w.ttl)
		l.setToken(e, t.Next())
		l.isHeld(e, a)
		return true, nil
	default:
		l.add(&l.queue, w, queued, t.Now()+w.wait)
		return true, t.Park(w.owner)
	}
}

// stay keeps a waiter's place. A try by an owner who waits elsewhere leaves
// that alone.
func (l *lock) stay(t *actors.Turn, e *lockEntry, w wanted, a *quernv1.LockServiceAcquireResponse) (changed bool, err error) {
	switch {
	case t.Resumed():
		return false, t.Park(w.owner)
	case w.wait == 0:
		l.notHeld(w, a)
		return false, nil
	}
	l.touch(e)
	changed = l.lease(e, w.ttl)
	e.away = false
	l.setDue(e, t.Now()+w.wait)
	return changed, t.Park(w.owner)
}

// confirm makes an entry held, and starts its lease.
func (l *lock) confirm(t *actors.Turn, e *lockEntry, ttl int64) (changed bool) {
	l.touch(e)
	changed = l.lease(e, ttl) || e.state != held
	e.state, e.away = held, false
	l.setDue(e, t.Now()+ttl)
	return changed
}

// lease sets an entry's ttl.
func (l *lock) lease(e *lockEntry, ttl int64) (changed bool) {
	changed = e.ttl != ttl
	e.ttl = ttl
	return changed
}

func (l *lock) isHeld(e *lockEntry, a *quernv1.LockServiceAcquireResponse) {
	a.Held, a.Token, a.Owner = true, e.token, e.owner
	tellTTL(&a.Ttl, e.ttl)
	a.Waiters = l.queue.n
}

func (l *lock) notHeld(w wanted, a *quernv1.LockServiceAcquireResponse) {
	a.Owner, a.Waiters, a.Position = w.owner, l.queue.n, l.queue.n+1
}

func notHolder(token uint64) error {
	return failure.New(failure.NotHolder, "the token %d does not hold the lock: it was released, its lease has ended, or it was never granted", token)
}

func (l *lock) renew(t *actors.Turn, q *quernv1.LockServiceRenewRequest, a *quernv1.LockServiceRenewResponse) (bool, error) {
	ttl, err := leaseTime(q.GetTtl())
	if err != nil {
		return false, err
	}
	e := l.findToken(q.GetToken())
	if e == nil {
		return false, notHolder(q.GetToken())
	}
	changed := l.confirm(t, e, ttl)
	a.Token, a.Owner, a.Waiters = e.token, e.owner, l.queue.n
	tellTTL(&a.Ttl, ttl)
	return changed, nil
}

func (l *lock) release(t *actors.Turn, q *quernv1.LockServiceReleaseRequest, a *quernv1.LockServiceReleaseResponse) (bool, error) {
	var e *lockEntry
	switch token, owner := q.GetToken(), q.GetOwner(); {
	case token != 0:
		if e = l.findToken(token); e == nil || owner != "" && owner != e.owner {
			return false, notHolder(token)
		}
	case owner == "":
		return false, failure.New(failure.InvalidField, "token and owner are both missing; give one")
	default:
		if e = l.find(owner); e == nil {
			return false, failure.New(failure.NotHolder, "the owner %q neither holds the lock nor waits for it", owner)
		}
	}
	a.Owner = e.owner
	l.leave(t, e)
	l.promote(t)
	a.Waiters = l.queue.n
	return true, nil
}

func (l *lock) forceRelease(t *actors.Turn, q *quernv1.LockServiceForceReleaseRequest, a *quernv1.LockServiceForceReleaseResponse) (bool, error) {
	if err := checkText("reason", q.GetReason(), maxReasonBytes); err != nil {
		return false, err
	}
	a.Released = l.holders.n
	a.Holders = l.listHolders(t.Now())
	for e := l.holders.first; e != nil; e = l.holders.first {
		l.remove(&l.holders, e)
	}
	l.promote(t)
	a.Waiters = l.queue.n
	return a.GetReleased() > 0, nil
}

func (l *lock) get(t *actors.Turn, _ *quernv1.LockServiceGetRequest, a *quernv1.LockServiceGetResponse) (bool, error) {
	a.Held, a.Permits, a.Holds, a.Waiters = l.holders.n > 0, l.permits, l.holders.n, l.queue.n
	a.Holders = l.listHolders(t.Now())
	for e := l.queue.first; e != nil && len(a.GetQueue()) < listedEntries; e = e.next {
		a.Queue = append(a.Queue, &quernv1.LockWaiter{Owner: e.owner, Shared: e.shared, Away: e.away})
	}
	return false, nil
}

func (l *lock) listHolders(now int64) (list []*quernv1.LockHolder) {
	for e := l.holders.first; e != nil && len(list) < listedEntries; e = e.next {
		left := e.due - now
		if e.state == granted {
			left = e.ttl // it runs from the confirmation
		}
		list = append(list, &quernv1.LockHolder{
			Owner: e.owner, Token: e.token, Shared: e.shared, Ttl: duration(max(0, left)), Unconfirmed: e.state == granted,
		})
	}
	return list
}

// Cancel implements actors.Canceler.
func (l *lock) Cancel(t *actors.Turn, command proto.Message) (changed bool) {
	q, ok := command.(*quernv1.LockServiceAcquireRequest)
	if !ok {
		return false
	}
	l.start(t.Now())
	if e := l.find(q.GetOwner()); e != nil && e.state != held {
		l.leave(t, e)
		l.promote(t)
		changed = true
	}
	return l.arm(t.Now()) || changed
}
