package actors

import "google.golang.org/protobuf/proto"

// Kind is a type of grain. Its grains run inside their shard's turn, so they
// must be pure: no I/O, no locks, no goroutines, no clock but the turn's.
type Kind interface {
	// Name identifies the kind on the wire and in the store, for ever. It is
	// 1 to 64 bytes.
	Name() string
	// New returns the state of a grain that has no record.
	New() State
}

// State is the state of one grain. The shard calls it from one goroutine at a
// time.
type State interface {
	// Apply runs one command and fills in reply. Where it returns an error,
	// which must be a *failure.Error, the shard undoes whatever was changed.
	// An error is an answer like any other: it is kept under the operation's
	// idempotency key, and it waits at the gate.
	//
	// A nil command is the turn of a state whose Due has come.
	Apply(t *Turn, command, reply proto.Message) (changed bool, err error)
	// Assign makes the receiver equal to another state of its kind. The
	// shard uses it to undo a turn.
	Assign(from State)
	// Due is when the state wants a turn of its own, in Unix milliseconds
	// by the shard's clock; 0 is never.
	Due() int64
	// Append appends the record of the state to b. A state that appends
	// nothing has no record.
	Append(b []byte) ([]byte, error)
	// Decode replaces the state by that of a record. It keeps no reference
	// to record.
	Decode(record []byte) error
}

// Sizer is a State whose record can be larger than a few hundred bytes.
type Sizer interface {
	// Size returns about how many bytes the record has. The shard bounds its
	// commits by it, and asks with each turn.
	Size() int
}

// Turn is what a handler may know about its surroundings. It is valid during
// Apply only.
type Turn struct {
	now func() int64
	key string
	// What only some kinds ask for; see park.go.
	next    func() uint64
	wake    func(waiter string)
	resumed bool
	parked  Parked
}

// TurnAt returns a turn at a fixed time, for testing a kind by itself.
func TurnAt(key string, now int64) *Turn {
	return &Turn{key: key, now: func() int64 { return now }}
}

// Now returns the shard's clock in Unix milliseconds. It never goes back, also
// not over a restart or a move.
func (t *Turn) Now() int64 { return t.now() }

// Key returns the grain's key.
func (t *Turn) Key() string { return t.key }
