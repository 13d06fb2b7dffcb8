package lease

import "time"

// Value is what stands in a lock: who wrote it, under which epoch, and how it
// was left. The zero Value is that of a lock that was never taken.
type Value struct {
	// Epoch is that of the last acquisition. It stays when the lock is free.
	Epoch uint64
	// Owner is the incarnation that wrote the value.
	Owner string
	// Clean is set by a clean release, and zero in every other case.
	Clean Clean
}

// Clean is the record of a planned move, written by the owner in the unlock.
type Clean struct {
	// Receiver is the incarnation to which the shard was offered.
	Receiver string
	// Handoff is the id of the move. It is used once.
	Handoff string
}

// Lock is a shard's lock as a read found it.
type Lock struct {
	// Index is the authority's index of the last change of the lock; 0 means
	// that there is no entry.
	Index uint64
	// Session holds the lock; "" means that it is free.
	Session string
	Value   Value
}

// Reading is the answer to one read of all locks.
type Reading struct {
	// Index is the authority's index of the answer.
	Index uint64
	// Stale says that the answer may be of a server that lags behind. Such
	// an answer never counts.
	Stale bool
	// Locks are those of all shards in order; missing ones are zero.
	Locks []Lock
}

// Offer is the announcement of a planned move by the owner itself, before it
// releases the lock.
type Offer struct {
	Shard uint32
	// Epoch is the owner's, under which it will write the release.
	Epoch   uint64
	Handoff string
}

// Outcome says what became of a request.
type Outcome uint8

// The outcomes.
const (
	// Done: it took effect.
	Done Outcome = iota
	// Refused: it had no effect and never will.
	Refused
	// Unclear: it perhaps took effect, or will.
	Unclear
)

// Decision is what the machine wants done: one of [Create], [Acquire], [Prove],
// [Rewrite], [Raise], [Serve], [Extend], [Stop] and [Release]. Decisions are to
// be carried out in the order in which they come, and must not be changed.
// Those that ask for something are handed back with what became of it, always,
// and by a caller that waits no longer for an answer as [Unclear].
type Decision interface{ decision() }

// Create asks for the entry of a lock that is missing, free and with the zero
// Value, if it is missing still. What became of it is seen by the next read.
type Create struct{ Shard uint32 }

// Acquire asks for a lock, in one transaction that checks the index and writes
// the value. The answer goes to [Machine.Acquired].
type Acquire struct {
	Shard uint32
	// Index is that of the sighting, under which the lock must be still.
	Index   uint64
	Session string
	Value   Value

	attempt uint64
	start   time.Duration
	// found and since are of the sighting, known is the highest epoch then
	// known: a read that shows this acquisition may come before its answer.
	found Value
	known uint64
	since time.Duration
}

// Prove asks whether locks are held still, by consistent transactions that
// change nothing. Each answer goes to [Machine.Proved]; one that never came goes
// nowhere.
type Prove struct {
	Session string
	// Holds are the locks to look at. They may be split between several
	// transactions.
	Holds []Hold
	// By is when the answer is of no more use to the first of them.
	By time.Duration

	start time.Duration
}

// Hold is one acquisition of a lock, which a proof is about.
type Hold struct {
	Shard uint32
	grip  uint64
}

// Rewrite asks for a new value in a lock that is held, in one transaction that
// checks index and session. The answer goes to [Machine.Rewritten].
type Rewrite struct {
	Shard   uint32
	Index   uint64
	Session string
	Value   Value

	attempt uint64
	known   uint64
}

// Raise asks for an epoch at the store. The answer goes to [Machine.Raised].
// Where the store is not shared, the members are asked too, and one that
// answers with an epoch that is not below Epoch, or where From is set not From,
// refuses.
type Raise struct {
	Shard uint32
	Epoch uint64
	// From, where not zero, is the epoch that the store must have.
	From uint64

	attempt uint64
}

// Serve says that the shard may be answered for under Epoch, from now on and
// while the clock is below Until.
type Serve struct {
	Shard   uint32
	Epoch   uint64
	Until   time.Duration
	Inherit Inherit
}

// Extend moves the end of trust of shards that are served.
type Extend struct {
	Shards []uint32
	Until  time.Duration
}

// Stop says that the shard is not to be answered for any longer.
type Stop struct {
	Shard uint32
	Epoch uint64
	Why   Why
}

// Why says why a shard is served no longer.
type Why uint8

// The reasons.
const (
	// Lapsed: its trust ran out.
	Lapsed Why = iota
	// NotHeld: a proof did not find its lock.
	NotHeld
	// SessionEnded: the session that held its lock is gone.
	SessionEnded
	// Superseded: a higher epoch is known.
	Superseded
	// GivenUp: its release was asked for.
	GivenUp
)

// String returns the reason as logs write it.
func (w Why) String() string {
	return [...]string{"lapsed", "not_held", "session_ended", "superseded", "given_up"}[w]
}

// Release asks for the unlock of a lock, in one transaction that checks the
// index and writes the value. It is final: whatever becomes of it, the epoch is
// never served again. The answer goes to [Machine.Released].
type Release struct {
	Shard   uint32
	Index   uint64
	Session string
	Value   Value

	attempt uint64
}

func (Create) decision()  {}
func (Acquire) decision() {}
func (Prove) decision()   {}
func (Rewrite) decision() {}
func (Raise) decision()   {}
func (Serve) decision()   {}
func (Extend) decision()  {}
func (Stop) decision()    {}
func (Release) decision() {}

// Inherit says what an owner may start from, beside what a shared store has.
type Inherit struct {
	// Keep: what this node has in memory from its last time as the owner is
	// current, since nobody has raised an epoch in between.
	Keep bool
	// Handoff is the id of the copy that may be installed; "" means none.
	Handoff string
	// Replaces is the epoch that stood in the lock before; 0 means that there
	// was no record.
	Replaces uint64
	// Known is the highest epoch of the shard that the node knew of when it
	// chose its own.
	Known uint64
}

// Loads says whether states that a store which is not shared has from the epoch
// written may be loaded. Where neither they nor a copy may, the shard starts
// empty.
func (i Inherit) Loads(written uint64) bool {
	return written >= i.Known && (i.Replaces == 0 || written == i.Replaces)
}
