package cluster

import (
	"context"
	"errors"
	"time"
)

// What the calls of an authority fail with. An error may also wrap the end of
// the caller's context, and says what was attempted.
var (
	// ErrUnreachable is an authority that did not answer in time, or has no
	// leader. A write that fails with it is perhaps done. Retryable.
	ErrUnreachable = errors.New("cluster: authority not reachable")
	// ErrDenied is an authority that does not allow what was asked. Nothing
	// was done. Retryable only when somebody has changed the rights.
	ErrDenied = errors.New("cluster: authority denies permission")
	// ErrSessionLost is a session that is gone, with all its locks. Nothing
	// was done. Join gives another one.
	ErrSessionLost = errors.New("cluster: session lost")
	// ErrIndexMoved is an entry that has changed since it was read. Nothing
	// was done. Retryable after another read.
	ErrIndexMoved = errors.New("cluster: entry changed meanwhile")
	// ErrRecord is a cluster's record that does not fit this node, or does
	// not read. Nothing was done. Terminal: somebody has to look at it.
	ErrRecord = errors.New("cluster: record does not fit")
)

// Cadence and bounds that are the same for every authority.
const (
	// DefaultCheckTTL is for how long a member counts as passing after it
	// has said so.
	DefaultCheckTTL = 2 * time.Second
	// DefaultLockDelay, MinLockDelay and MaxLockDelay are of LD, the time for
	// which a lock that became free is left alone.
	DefaultLockDelay = 2 * time.Second
	MinLockDelay     = time.Second
	MaxLockDelay     = time.Minute
	// DefaultProofEvery is how often an owner proves its locks.
	DefaultProofEvery = 500 * time.Millisecond
	// SessionTTL is for how long a session lives at least without a renewal:
	// a backstop, since a session ends with its member's check.
	SessionTTL = 10 * time.Second
)

// Authority is what the runtime needs of whoever decides about membership and
// ownership, for one cluster. It holds no policy: who may take which lock, and
// when, is decided by the caller. Its methods may be called concurrently.
//
// Each call is bounded by its context, and by a bound of the authority's own
// where the context has no deadline; it fails with an error that wraps one of
// the sentinels of this package, or context.Canceled where the caller gave up.
// Reads are never stale: what they return was so at some time during the call,
// by the authority's leader.
type Authority interface {
	Membership
	Registry
	Locks
}

// Membership is who is there.
type Membership interface {
	// Join registers this process as a passing member and opens a session for
	// its locks, which ends when the member is no longer passing. Locks that
	// are freed by its end, but not by Release, are left alone for lockDelay.
	// A process whose session was lost joins again, under its incarnation; it
	// gets a fresh session and must not count on anything it held before.
	Join(ctx context.Context, m Member, lockDelay time.Duration) (Session, error)
	// KeepAlive says that the member passes and renews the session when that
	// is due. It is to be called every third of the check's TTL. That it
	// succeeds proves nothing about locks. ErrSessionLost: join again.
	KeepAlive(ctx context.Context, s Session) error
	// Announce changes the state that the members see of the one who joined. It
	// passes then, as after KeepAlive, and its session and locks stay as they
	// are. ErrSessionLost: join again.
	Announce(ctx context.Context, s Session, state State) error
	// Leave ends the session and takes the member out. Locks should have been
	// released before; the lead is given up, so that another can have it at
	// once. A session or member that is gone is no error.
	Leave(ctx context.Context, s Session) error
	// Members waits as w says and returns all members.
	Members(ctx context.Context, w Watch) (Members, error)
	// Sessions returns which members have a session now. One that passes may
	// have lost its own while it did not, and not know it yet.
	Sessions(ctx context.Context) (map[Incarnation]bool, error)
}

// Registry is what a cluster has one of: its record and its placement.
type Registry interface {
	// Establish returns the cluster's record and writes it from want where
	// there is none. Zero fields of want take what the record has, or the
	// defaults where it is written. It fails with ErrRecord where the record
	// and want do not fit, see Record.Fit.
	Establish(ctx context.Context, want Record) (Record, error)
	// Table waits as w says and returns record, placement and all locks as
	// they were at one moment.
	Table(ctx context.Context, w Watch) (Table, error)
	// Lead takes the lock of the one who writes the placement, and reports
	// whether this session has it now. Taking it again is no error.
	Lead(ctx context.Context, s Session) (bool, error)
	// PutPlacement replaces the placement that was read under this index,
	// zero for none, and returns its new index. It fails with ErrIndexMoved
	// where the placement has changed, or the session does not lead; a write
	// whose answer was lost is told from another's by reading it.
	PutPlacement(ctx context.Context, s Session, index uint64, value []byte) (uint64, error)
}

// Locks is who holds what. Each method takes any number of shards, no shard
// twice, and returns one Result for each, in the order of the request, also
// with an error; the verdict Unknown comes with an error only.
type Locks interface {
	// Create makes locks that do not exist, free, with these values; those
	// that exist are left alone, with the verdict Moved. Index is ignored.
	Create(ctx context.Context, locks []LockWrite) ([]Result, error)
	// Acquire takes locks that are free and unchanged since their index was
	// read, and writes their values. A lock that the session holds already is
	// rewritten in the same way.
	Acquire(ctx context.Context, s Session, locks []LockWrite) ([]Result, error)
	// Release frees locks that the session holds and that are unchanged since
	// their index was read, and writes their values. A lock that was released
	// may be taken at once.
	Release(ctx context.Context, s Session, locks []LockWrite) ([]Result, error)
	// Prove reads, consistently, which of these locks the session holds: Done,
	// or Gone. Each was so at some time between call and return.
	Prove(ctx context.Context, s Session, shards []uint32) ([]Result, error)
}

// Session holds locks. The zero value is no session.
type Session string

// Watch says how long a read may wait for news.
type Watch struct {
	// Index is that of the last answer. The read waits until there is another
	// state than the one with that index. Zero waits for nothing. Where the
	// authority was restored before the read began, and its index is lower now,
	// the read may wait for all of Wait: begin with zero after an error.
	Index uint64
	// Wait bounds the wait, at most MaxWait; an authority may add a sixteenth.
	// The answer is complete even if nothing has changed. Zero or less waits
	// for nothing.
	Wait time.Duration
}

// MaxWait is the longest Watch.Wait that has an effect.
const MaxWait = 5 * time.Minute

// LockWrite is one lock to be written.
type LockWrite struct {
	Shard uint32
	// Index is the one under which the lock was read.
	Index uint64
	Value LockValue
}

// Result is what became of one lock of a request.
type Result struct {
	Shard   uint32
	Verdict Verdict
	// Index is the lock's after a write that was Done, else zero.
	Index uint64
}

// Verdict says what became of one lock.
type Verdict uint8

// The verdicts. But for Unknown and Done, nothing was or will be written.
const (
	// Unknown: perhaps done. The table tells, once the authority answers.
	Unknown Verdict = iota
	// Done: written, or proven.
	Done
	// Moved: the lock is not as it was under the index of the request.
	Moved
	// Held: another session holds it.
	Held
	// Delayed: the authority leaves it alone since its last holder was lost.
	Delayed
	// Gone: the session does not hold it, or it does not exist.
	Gone
	// Refused: the request failed as a whole, for the reason of the error.
	Refused
)

// String returns the verdict's name in lower case.
func (v Verdict) String() string {
	names := [...]string{"unknown", "done", "moved", "held", "delayed", "gone", "refused"}
	if int(v) < len(names) {
		return names[v]
	}
	return "invalid"
}
