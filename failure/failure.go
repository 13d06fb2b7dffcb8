// Package failure holds the one error type that Quern shows to its users, in
// process and over the network, and the table of its reasons.
//
// A failure says three things: why (Reason), whether the operation happened
// (Outcome), and whether it makes sense to try again (Retryable). Anything
// that a caller of Quern gets and that is not an [Error] comes from outside:
// a context's end or a transport.
package failure

import (
	"errors"
	"fmt"
	"time"
)

// Outcome says whether the operation that failed took effect.
type Outcome uint8

const (
	// NotDone means that this attempt changed nothing, and never will.
	NotDone Outcome = iota
	// Unknown means that the operation perhaps happened.
	Unknown
)

// String returns the outcome as machine-readable output writes it.
func (o Outcome) String() string {
	if o == Unknown {
		return "unknown"
	}
	return "not_done"
}

// Error is a failed operation. It is immutable once returned.
type Error struct {
	// Reason is the machine-readable cause.
	Reason Reason
	// Message is one sentence for people: what was wrong and what to do.
	Message string
	// RetryAfter is how long to wait before the next attempt; zero where
	// the failure is not retryable or the caller may choose.
	RetryAfter time.Duration
	// Owner, where it is not nil, is who owns the operation's shard as far as
	// the one who answered knows.
	Owner *Owner
	// Cause is the underlying error, if any. It does not cross the network.
	Cause error
}

// Owner is a shard's owner.
type Owner struct {
	Shard uint32
	// Node is its name, Addr its gRPC listener's HOST:PORT, Epoch its ownership.
	Node, Addr string
	Epoch      uint64
}

// New returns a failure with a formatted message.
func New(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Wrap is New with a cause that errors.Is and errors.As can see.
func Wrap(cause error, reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...), Cause: cause}
}

// After returns a copy that asks the caller to wait for d before it retries.
func (e *Error) After(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// Owned returns a copy that says who owns the shard.
func (e *Error) Owned(o Owner) *Error {
	c := *e
	c.Owner = &o
	return &c
}

// Error returns the reason and the message.
func (e *Error) Error() string {
	return "quern: " + e.Reason.String() + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether target is a [Reason] equal to this failure's, so that
// errors.Is(err, failure.Overloaded) reads as it should.
func (e *Error) Is(target error) bool {
	r, ok := target.(Reason)
	return ok && r == e.Reason
}

// Outcome says whether the operation may have happened.
func (e *Error) Outcome() Outcome { return e.Reason.Outcome() }

// Retryable says whether the same call can succeed later without a change of
// its arguments.
func (e *Error) Retryable() bool { return e.Reason.Retryable() }

// OutcomeOf says what err tells about the operation: NotDone for nil and for a
// failure that says so, Unknown for everything else, since an error from
// outside cannot promise that nothing happened.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return NotDone
	}
	if many, ok := err.(interface{ Outcome() Outcome }); ok {
		return many.Outcome()
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Outcome()
	}
	return Unknown
}
