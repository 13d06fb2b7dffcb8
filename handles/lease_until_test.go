package handles_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/failure"
)

// Until moves with each renewal that succeeds, and is when the lease is lost
// where none does.
func TestLeaseTellsUntilWhen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const trusted = leaseTTL - 500*time.Millisecond
		left := 3
		s := &lockScript{renew: func(context.Context) error {
			if left--; left < 0 {
				return failure.New(failure.Unreachable, "no node")
			}
			return nil
		}}
		l := s.hold(t)
		if d := time.Until(l.Until()); d != trusted {
			t.Errorf("%v after the grant", d)
		}
		time.Sleep(leaseTTL * 5 / 4) //nolint:forbidigo // in a bubble
		renewed := s.renewals()[2]
		if got := l.Until().Sub(renewed); got != trusted {
			t.Errorf("%v after the last renewal", got)
		}
		if got := lostAfter(t, l, renewed); got != trusted {
			t.Errorf("lost %v after the last renewal", got)
		}
		if err := l.Release(t.Context()); err != nil {
			t.Error(err)
		}
		if got := l.Until().Sub(renewed); got != trusted {
			t.Errorf("%v after the end", got)
		}
	})
}
