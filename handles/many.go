package handles

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// MaxManyKeys is how many keys one AddMany takes.
const MaxManyKeys = 10_000

// AddMany adds deltas[i] to the counter keys[i], each by itself, and returns
// the new values in the order of the keys. Nil deltas add 1 to each. It returns
// a [*ManyError] where some of the adds failed: the others took effect. Any
// other error is a *failure.Error and tells of the call as a whole.
func AddMany(ctx context.Context, to Invoker, keys []string, deltas []int64) ([]int64, error) {
	reply := &quernv1.CounterServiceAddManyResponse{}
	op := &Operation{
		Method:  CounterAddMany,
		Request: &quernv1.CounterServiceAddManyRequest{Keys: keys, Deltas: deltas},
		Reply:   reply,
	}
	if err := to.Invoke(ctx, op); err != nil {
		return nil, err //nolint:wrapcheck // as every handle does
	}
	if len(reply.GetValues()) != len(keys) {
		return nil, failure.New(failure.OutcomeUnknown, "%d values came back for %d keys", len(reply.GetValues()), len(keys))
	}
	if len(reply.GetFailures()) == 0 {
		return reply.GetValues(), nil
	}
	all := &ManyError{Keys: len(keys)}
	for _, f := range reply.GetFailures() {
		all.Failed = append(all.Failed, KeyFailure{Index: int(f.GetIndex()), Err: manyFailure(f)})
	}
	return reply.GetValues(), all
}

// AddFailure says in the reply to a bulk add why the key in this place failed.
func AddFailure(place int, err error) *quernv1.AddManyFailure {
	f := &quernv1.AddManyFailure{Index: uint32(place), Message: err.Error(), Unknown: failure.OutcomeOf(err) == failure.Unknown} //nolint:gosec // at most MaxManyKeys
	if e, ok := errors.AsType[*failure.Error](err); ok {
		f.Reason, f.Message = e.Reason.String(), e.Message
	}
	f.Message = strings.ToValidUTF8(f.Message, "\uFFFD") // else the whole reply would not encode
	return f
}

func manyFailure(f *quernv1.AddManyFailure) *failure.Error {
	reason, known := failure.ParseReason(f.GetReason())
	if !known && !f.GetUnknown() {
		reason = failure.ConditionFailed // says "not done", as the node did
	}
	return &failure.Error{Reason: reason, Message: f.GetMessage()}
}

// ManyError tells which operations of a bulk call failed. The others were
// carried out.
type ManyError struct {
	// Keys is how many there were.
	Keys int
	// Failed are those that failed.
	Failed []KeyFailure
}

// KeyFailure is why the operation on one key failed.
type KeyFailure struct {
	// Index is the key's place in the call.
	Index int
	Err   *failure.Error
}

// Error implements error.
func (e *ManyError) Error() string {
	return fmt.Sprintf("quern: %d of %d keys failed, the first: %v", len(e.Failed), e.Keys, e.Failed[0].Err)
}

// Outcome is Unknown: a part of the call was perhaps done, or was done for sure.
// What became of each key is in Failed.
func (e *ManyError) Outcome() failure.Outcome { return failure.Unknown }

// Unwrap lets errors.Is and errors.As look at each failure.
func (e *ManyError) Unwrap() []error {
	all := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		all[i] = f.Err
	}
	return all
}
