package actors

import "google.golang.org/protobuf/proto"

// Parked is what Apply returns instead of an error where the command has no
// answer yet. Unlike a refusal it lets the turn's changes stand: they are
// committed like any other, so a place in a queue is durable. The call is held
// under the waiter's name until a later turn wakes it; then its command is run
// again, with [Turn.Resumed] true, and answers or parks once more.
//
// A parked call that is run on a state which was read anew, after a reload of
// the shard, is not resumed: it is a new call to that state. One whose change
// the store refuses is answered with that refusal. Only a [Canceler] may park,
// and no item of a column.
type Parked struct { //nolint:errname // it takes an error's place and is none
	// Waiter names whom to wake. Several calls may be parked under one name
	// at a grain; all of them are woken together.
	Waiter string
}

// Error implements error.
func (p *Parked) Error() string { return "actors: " + p.Waiter + " waits" }

// Park returns the answer of a command that has to wait, a [*Parked]. It is
// valid until the turn is over.
func (t *Turn) Park(waiter string) error {
	t.parked.Waiter = waiter
	return &t.parked
}

// Canceler is a State that parks commands.
type Canceler interface {
	State
	// Cancel undoes what a parked command has left in the state, since its
	// caller has gone. The shard calls it, as a turn of its own, for the last
	// of the calls that were parked under a waiter's name, also where that
	// was woken and has not been run again.
	Cancel(t *Turn, command proto.Message) (changed bool)
}

// Undoer is a State that is too large to be copied before each turn. The shard
// calls Begin before each Apply and Cancel instead of undo.Assign(state), and
// Undo where it would call state.Assign(undo).
type Undoer interface {
	State
	// Begin starts a turn. log is a state of the same kind in which the
	// receiver may note what the turn changes; it belongs to the turn, and
	// serves all states of the kind in the shard, one after the other.
	Begin(log State)
	// Undo takes back what was changed since Begin.
	Undo()
}

// Pinner is a State that can hold what its record does not, such as the times
// at which leases end. The shard evicts no grain that is pinned.
type Pinner interface {
	Pinned() bool
}

// Resumed reports whether the command was parked before and has been woken.
func (t *Turn) Resumed() bool { return t.resumed }

// Wake lets the calls that are parked under a waiter's name run again, after
// this turn. Where none is parked it does nothing.
// What the turn undoes wakes nobody.
func (t *Turn) Wake(waiter string) { t.wake(waiter) }

// Next returns a number that is higher than any it has returned in this shard,
// also before a restart or a move.
func (t *Turn) Next() uint64 { return t.next() }

// TestTurn describes a turn for testing a kind by itself.
type TestTurn struct {
	Key string
	// Now is in Unix milliseconds.
	Now     int64
	Resumed bool
	Next    func() uint64
	// Wake takes the names of the woken; nil wakes nobody.
	Wake func(waiter string)
}

// Turn returns the turn.
func (o TestTurn) Turn() *Turn {
	t := TurnAt(o.Key, o.Now)
	t.resumed, t.next, t.wake = o.Resumed, o.Next, o.Wake
	if t.wake == nil {
		t.wake = func(string) {}
	}
	return t
}

// WithNext returns the turn with other numbers, for testing a kind that wraps
// another.
func (t *Turn) WithNext(next func() uint64) *Turn {
	other := *t
	other.next = next
	return &other
}
