package grains

import (
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// comparison is a Comparison by its sign and its function.
type comparison struct {
	sign  string
	holds func(is, than int64) bool
}

var comparisons = map[quernv1.Comparison]comparison{
	quernv1.Comparison_COMPARISON_EQUAL:            {"==", func(is, than int64) bool { return is == than }},
	quernv1.Comparison_COMPARISON_NOT_EQUAL:        {"!=", func(is, than int64) bool { return is != than }},
	quernv1.Comparison_COMPARISON_LESS:             {"<", func(is, than int64) bool { return is < than }},
	quernv1.Comparison_COMPARISON_LESS_OR_EQUAL:    {"<=", func(is, than int64) bool { return is <= than }},
	quernv1.Comparison_COMPARISON_GREATER:          {">", func(is, than int64) bool { return is > than }},
	quernv1.Comparison_COMPARISON_GREATER_OR_EQUAL: {">=", func(is, than int64) bool { return is >= than }},
}

// Check implements actors.Checker.
func (c *counter) Check(_ *actors.Turn, condition proto.Message) error {
	q, ok := condition.(*quernv1.CounterCondition)
	if !ok {
		return failure.New(failure.UnknownMethod, "a counter has no condition %T", condition)
	}
	cmp, ok := comparisons[q.GetComparison()]
	switch {
	case !ok:
		return failure.New(failure.InvalidField, "the comparison %d is none of those that there are", q.GetComparison())
	case !cmp.holds(c.value, q.GetValue()):
		return failure.New(failure.ConditionFailed, "the counter is %d, not %s %d", c.value, cmp.sign, q.GetValue())
	default:
		return nil
	}
}

// Check implements actors.Checker.
func (e *entry) Check(_ *actors.Turn, condition proto.Message) error {
	q, ok := condition.(*quernv1.MapCondition)
	if !ok {
		return failure.New(failure.UnknownMethod, "a map entry has no condition %T", condition)
	}
	switch expected := q.GetExpected().(type) {
	case *quernv1.MapCondition_Version:
		return e.require(expected.Version)
	case *quernv1.MapCondition_Present:
		switch {
		case expected.Present && e.version == 0:
			return failure.New(failure.ConditionFailed, "there is no entry")
		case !expected.Present:
			return e.require(0)
		default:
			return nil
		}
	default:
		return failure.New(failure.InvalidField, "the condition asks for nothing; give a version, or present")
	}
}

// Check implements actors.Checker.
func (l *lock) Check(_ *actors.Turn, condition proto.Message) error {
	q, ok := condition.(*quernv1.LockCondition)
	switch {
	case !ok:
		return failure.New(failure.UnknownMethod, "a lock has no condition %T", condition)
	case q.GetToken() == 0:
		return failure.New(failure.InvalidField, "the token is 0, which no lock has given")
	case l.findToken(q.GetToken()) == nil:
		return failure.New(failure.ConditionFailed, "the token %d does not hold the lock", q.GetToken())
	default:
		return nil
	}
}
