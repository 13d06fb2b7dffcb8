package handles_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func TestAddFailure(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err             error
		reason, message string
		unknown         bool
	}{
		"refused":       {failure.New(failure.Limit, "too much"), "LIMIT", "too much", false},
		"unknown":       {failure.New(failure.OutcomeUnknown, "who knows"), "OUTCOME_UNKNOWN", "who knows", true},
		"no failure":    {errors.New("strange"), "", "strange", true},
		"bytes in text": {failure.New(failure.Limit, "\xff is too much"), "LIMIT", "\uFFFD is too much", false},
	} {
		f := handles.AddFailure(7, test.err)
		if f.GetIndex() != 7 || f.GetReason() != test.reason || f.GetMessage() != test.message || f.GetUnknown() != test.unknown {
			t.Errorf("%s: %v", name, f)
		}
		if _, err := proto.Marshal(&quernv1.CounterServiceAddManyResponse{Failures: []*quernv1.AddManyFailure{f}}); err != nil {
			t.Errorf("%s: the reply does not encode: %v", name, err)
		}
	}
}
