package wire_test

import (
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/wire"
)

func TestEveryReasonComesBack(t *testing.T) {
	t.Parallel()
	for r := failure.Reason(0); ; r++ {
		if back, ok := failure.ParseReason(r.String()); !ok || back != r {
			return // past the last one
		}
		e := failure.New(r, "why")
		if e.Retryable() {
			e = e.After(3 * time.Second)
		}
		st := wire.Status(e)
		back, ok := wire.FromStatus(st)
		if !ok || *back != *e || st.Code() != wire.Code(e) {
			t.Errorf("%v: got %+v %v", r, back, st.Code())
		}
	}
}

// TestReasonsOfNewerPeers checks that a reason which this build does not know
// keeps its promise: the outcome, and with it whether a repeat is safe.
func TestReasonsOfNewerPeers(t *testing.T) {
	t.Parallel()
	for code := codes.OK + 1; code <= codes.Unauthenticated; code++ {
		for _, outcome := range []string{"not_done", "unknown", ""} {
			st, err := status.New(code, "text").WithDetails(&errdetails.ErrorInfo{
				Reason: "NEW", Domain: wire.Domain, Metadata: map[string]string{"outcome": outcome},
			})
			if err != nil {
				t.Fatal(err)
			}
			e, ok := wire.FromStatus(st)
			if !ok || e.Message != "NEW: text" {
				t.Fatalf("%v: got %+v", code, e)
			}
			if outcome != "not_done" && e.Outcome() != failure.Unknown {
				t.Errorf("%v, outcome %q: %v says that it is not done", code, outcome, e.Reason)
			}
			if known := wire.Code(e); known != code && e.Outcome() == failure.NotDone {
				t.Errorf("%v became %v", code, known)
			}
		}
	}
}

func TestStatusesOfOthers(t *testing.T) {
	t.Parallel()
	foreign, err := status.New(codes.Unavailable, "text").WithDetails(
		&errdetails.ErrorInfo{Reason: "OVERLOADED", Domain: "proxy.example"}, &errdetails.RetryInfo{})
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range []*status.Status{foreign, status.New(codes.Internal, "text")} {
		if e, ok := wire.FromStatus(st); ok {
			t.Errorf("got %v", e)
		}
	}
}
