package handles

import (
	"context"
	"time"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// KindLock is the name of the lock's kind.
const KindLock = "lock"

// The lock's methods.
var (
	LockAcquire      = &Method{Kind: KindLock, Name: "Acquire", Procedure: "/quern.v1.LockService/Acquire", Write: true, Waits: true}
	LockRenew        = lockMethod("Renew", true)
	LockRelease      = lockMethod("Release", true)
	LockForceRelease = lockMethod("ForceRelease", true)
	LockGet          = lockMethod("Get", false)
)

func lockMethod(name string, write bool) *Method {
	return &Method{Kind: KindLock, Name: name, Procedure: "/quern.v1.LockService/" + name, Write: write}
}

var (
	lockAcquires = pool[quernv1.LockServiceAcquireRequest, quernv1.LockServiceAcquireResponse, *quernv1.LockServiceAcquireRequest, *quernv1.LockServiceAcquireResponse]{method: LockAcquire}
	lockRenewals = pool[quernv1.LockServiceRenewRequest, quernv1.LockServiceRenewResponse, *quernv1.LockServiceRenewRequest, *quernv1.LockServiceRenewResponse]{method: LockRenew}
	lockReleases = pool[quernv1.LockServiceReleaseRequest, quernv1.LockServiceReleaseResponse, *quernv1.LockServiceReleaseRequest, *quernv1.LockServiceReleaseResponse]{method: LockRelease}
	lockForces   = pool[quernv1.LockServiceForceReleaseRequest, quernv1.LockServiceForceReleaseResponse, *quernv1.LockServiceForceReleaseRequest, *quernv1.LockServiceForceReleaseResponse]{method: LockForceRelease}
	lockGets     = pool[quernv1.LockServiceGetRequest, quernv1.LockServiceGetResponse, *quernv1.LockServiceGetRequest, *quernv1.LockServiceGetResponse]{method: LockGet}
)

// Lock is a handle of one lock. It is held exclusively, by up to a number of
// permits, or shared; who waits gets it first in, first out.
//
// Every hold is a lease with a fencing token. [Lock.Acquire] and [Lock.Try]
// return a [Lease] that renews itself. The methods that take a token are for
// holds that outlive the program which asked for them.
//
// Every method returns a *failure.Error; besides what any operation can
// return, the reasons are named at the method.
type Lock struct {
	to    Invoker
	key   string
	guard *Guard
}

// NewLock returns a handle of the lock with this key. It does no I/O; an invalid
// key is refused by the first call.
func NewLock(to Invoker, key string) Lock { return Lock{to: to, key: key} }

// Key returns the lock's key.
func (l Lock) Key() string { return l.key }

// DefaultLockTTL is the lease's length where none is given.
const DefaultLockTTL = 30 * time.Second

// maxLockWait is the longest wait that one request can ask for.
const maxLockWait = 24 * time.Hour

// LockOptions say how a lock is asked for.
type LockOptions struct {
	// TTL is how long the lock stays taken when its holder is heard of no
	// more, at most 24 h; 0 is DefaultLockTTL.
	TTL time.Duration
	// Wait is how long to wait for the lock; 0 is as long as the context
	// lasts, negative is not at all.
	Wait time.Duration
	// Shared asks to hold it together with other shared owners.
	Shared bool
	// Permits is how many exclusive owners the lock takes at a time; 0 is 1.
	// All who hold it or wait for it must agree.
	Permits uint32
	// Owner is who holds it, 1 to 128 bytes; empty is a fresh one for each
	// call. An owner that holds the lock already gets the same token again:
	// it is one hold, and the first Release ends it.
	Owner string
}

// LockGrant is the answer to one request for a lock.
type LockGrant struct {
	Held bool
	// Token is the fencing token; 0 where it is not held.
	Token uint64
	Owner string
	// TTL is the lease's length.
	TTL time.Duration
	// Waiters is how many wait.
	Waiters int
}

// Grant asks for the lock in one request and leaves everything else to the
// caller: renewals, the release, and asking again, by the same owner, where
// the outcome is unknown.
func (l Lock) Grant(ctx context.Context, o LockOptions) (LockGrant, error) {
	o = o.withDefaults()
	return l.grant(ctx, o, o.untilWait(ctx, time.Now()))
}

func (l Lock) grant(ctx context.Context, o LockOptions, wait time.Duration) (LockGrant, error) {
	k := lockAcquires.get(l.key, "")
	k.request.Key, k.request.Guard = l.key, l.guard.message()
	k.request.Owner, k.request.Shared, k.request.Permits = o.Owner, o.Shared, o.Permits
	d := k.durations()
	k.request.Ttl, k.reply.Ttl = put(&d.ttl, o.TTL), put(&d.told, 0)
	if wait > 0 {
		k.request.Wait = put(&d.wait, wait)
	}
	if err := k.invoke(ctx, l.to); err != nil {
		return LockGrant{}, err
	}
	g := LockGrant{
		Held: k.reply.GetHeld(), Token: k.reply.GetToken(), Owner: o.Owner,
		TTL: k.reply.GetTtl().AsDuration(), Waiters: int(k.reply.GetWaiters()),
	}
	lockAcquires.put(k)
	return g, nil
}

// Renew starts the lease of a token anew, with a ttl above 0, at most 24 h. It
// fails with NOT_HOLDER where the token holds the lock no more.
func (l Lock) Renew(ctx context.Context, token uint64, ttl time.Duration) error {
	k := lockRenewals.get(l.key, "")
	d := k.durations()
	k.request.Key, k.request.Guard, k.request.Token, k.request.Ttl = l.key, l.guard.message(), token, put(&d.ttl, ttl)
	k.reply.Ttl = put(&d.told, 0)
	if err := k.invoke(ctx, l.to); err != nil {
		return err
	}
	lockRenewals.put(k)
	return nil
}

// Release ends the hold of a token. It fails with NOT_HOLDER where the token
// holds the lock no more.
func (l Lock) Release(ctx context.Context, token uint64) error { return l.release(ctx, token, "") }

// ReleaseOwner ends what an owner has, its hold or its place in the queue. It
// fails with NOT_HOLDER where that is nothing.
func (l Lock) ReleaseOwner(ctx context.Context, owner string) error { return l.release(ctx, 0, owner) }

func (l Lock) release(ctx context.Context, token uint64, owner string) error {
	k := lockReleases.get(l.key, "")
	k.request.Key, k.request.Guard, k.request.Token, k.request.Owner = l.key, l.guard.message(), token, owner
	if err := k.invoke(ctx, l.to); err != nil {
		return err
	}
	lockReleases.put(k)
	return nil
}

// ForceRelease ends all present holds and returns how many there were; the
// lock goes on to who waits. The reason, 1 to 512 bytes, is for the operator's
// log. Only the fencing token keeps the old holders from harm until they hear
// of it.
func (l Lock) ForceRelease(ctx context.Context, reason string) (int, error) {
	k := lockForces.get(l.key, "")
	k.request.Key, k.request.Guard, k.request.Reason = l.key, l.guard.message(), reason
	if err := k.invoke(ctx, l.to); err != nil {
		return 0, err
	}
	n := int(k.reply.GetReleased())
	lockForces.put(k)
	return n, nil
}

// LockInfo tells who holds a lock and who waits for it.
type LockInfo struct {
	// Permits is 0 where nobody holds it or waits.
	Permits uint32
	// Holds and Waiters are how many there are.
	Holds, Waiters int
	// Holders are the first 1,000 holds, in the order of their grants.
	Holders []LockHolder
	// Queue names the owners of the first 1,000 who wait, the next one first.
	Queue []string
}

// LockHolder is one hold.
type LockHolder struct {
	Owner  string
	Token  uint64
	Shared bool
	// TTL is what is left of the lease.
	TTL time.Duration
}

// Get returns who holds the lock and who waits for it.
func (l Lock) Get(ctx context.Context) (LockInfo, error) {
	k := lockGets.get(l.key, "")
	k.request.Key = l.key
	if err := k.invoke(ctx, l.to); err != nil {
		return LockInfo{}, err
	}
	info := LockInfo{Permits: k.reply.GetPermits(), Holds: int(k.reply.GetHolds()), Waiters: int(k.reply.GetWaiters())}
	for _, h := range k.reply.GetHolders() {
		info.Holders = append(info.Holders, LockHolder{h.GetOwner(), h.GetToken(), h.GetShared(), h.GetTtl().AsDuration()})
	}
	for _, w := range k.reply.GetQueue() {
		info.Queue = append(info.Queue, w.GetOwner())
	}
	lockGets.put(k)
	return info, nil
}
