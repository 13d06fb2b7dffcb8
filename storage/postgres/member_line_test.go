package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
)

// refused checks that a member does not raise an epoch.
func refused(t *testing.T, s actors.Store, r actors.Raise, want error) {
	t.Helper()
	r.Incarnation = self
	if got, err := s.Raise(t.Context(), []actors.Raise{r}); err != nil || got[0].OK || !errors.Is(got[0].Err, want) {
		t.Errorf("raise %+v: %+v, %v, want %v", r, got, err, want)
	}
}

// TestMembersStopOnAnotherTimeline: taking a shard, which members do by
// themselves, does not pass over a promotion or a restore. A restart does.
func TestMembersStopOnAnotherTimeline(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	o := postgres.Options{URL: server.URL("schema=quern"), Cluster: "blue"}
	s := open(t, o)
	raise(t, s, actors.Raise{Shard: 1, Epoch: 7})
	raise(t, s, actors.Raise{Shard: 3, Epoch: 7})
	admin(t, server, `UPDATE quern.shards SET epoch = 6 WHERE shard = 3`)
	refused(t, s, actors.Raise{Shard: 3, Epoch: 8}, postgres.ErrBackwards)
	raise(t, s, actors.Raise{Shard: 1, Epoch: 8})
	if err := errors.Join(server.Stop(), server.StartAs(t.Context(), "recovery.signal")); err != nil {
		t.Fatal(err)
	}
	refused(t, s, actors.Raise{Shard: 1, Epoch: 9}, postgres.ErrTimeline)
	refused(t, s, actors.Raise{Shard: 2, Epoch: 9}, postgres.ErrTimeline) // never raised here
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	s = open(t, o)
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	for _, shard := range []uint32{1, 2, 3} {
		raise(t, s, actors.Raise{Shard: shard, Epoch: 9})
	}
}
