package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
)

// TestClock: the server's clock is that of this machine here.
func TestClock(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Options{URL: testservice.Postgres(t).URL(schema())})
	before := time.Now()
	at, err := s.Clock(t.Context())
	const slack = time.Millisecond // what the two are rounded by
	if after := time.Now(); err != nil || at.Before(before.Add(-slack)) || at.After(after.Add(slack)) {
		t.Errorf("the server's clock shows %v, this one %v to %v; %v", at, before, after, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if at, err := s.Clock(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, %v", at, err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if at, err := s.Clock(t.Context()); !errors.Is(err, postgres.ErrClosed) {
		t.Errorf("closed: %v, %v", at, err)
	}
}
