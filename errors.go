package quern

import "github.com/quern-io/quern/failure"

// Error is a failed operation: why, whether it perhaps happened, and whether
// to try again.
type Error = failure.Error

// Reason is the machine-readable cause of an Error, and a target of errors.Is.
type Reason = failure.Reason

// Outcome says whether a failed operation took effect.
type Outcome = failure.Outcome

// The outcomes.
const (
	NotDone        = failure.NotDone
	OutcomeUnknown = failure.Unknown
)

// The reasons that a program is likely to look for; package failure has all.
const (
	Overloaded       = failure.Overloaded
	Stopping         = failure.Stopping
	NotOwner         = failure.NotOwner
	Moving           = failure.Moving
	Limit            = failure.Limit
	Overflow         = failure.Overflow
	IDReused         = failure.IDReused
	ConditionFailed  = failure.ConditionFailed
	FencedToken      = failure.FencedToken
	CrossShard       = failure.CrossShard
	StoreUnavailable = failure.StoreUnavailable
)

// OutcomeOf says what an operation's error tells about its effect.
func OutcomeOf(err error) Outcome { return failure.OutcomeOf(err) }
