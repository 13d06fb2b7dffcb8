package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
)

// TestMembersShareAStore: those of one cluster, and no others.
func TestMembersShareAStore(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	member := postgres.Hasty(postgres.Options{URL: server.URL(), Cluster: "blue"})
	first, second := open(t, member), open(t, member)
	if first.Info() != second.Info() {
		t.Errorf("%+v and %+v", first.Info(), second.Info())
	}
	foreign, lone := member, member
	foreign.Cluster = "green"
	lone.Cluster, lone.Lone = "", true
	for want, o := range map[error]postgres.Options{postgres.ErrCluster: foreign, postgres.ErrTaken: lone} {
		if _, err := postgres.Open(t.Context(), o); !errors.Is(err, want) || !strings.Contains(err.Error(), "schema=NAME") {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if err := errors.Join(first.Close(t.Context()), second.Close(t.Context())); err != nil {
		t.Error(err)
	}

	// The name stays, and the lone node keeps members out.
	alone := open(t, lone)
	defer func() { _ = alone.Close(context.WithoutCancel(t.Context())) }()
	if _, err := postgres.Open(t.Context(), member); !errors.Is(err, postgres.ErrTaken) {
		t.Errorf("a member beside a lone node: %v", err)
	}
}

// TestSchemaWithoutClusters: one that was made before there were clusters gets
// its column.
func TestSchemaWithoutClusters(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	o := postgres.Hasty(postgres.Options{URL: server.URL()})
	if err := open(t, o).Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	admin(t, server, `ALTER TABLE quern.meta DROP COLUMN cluster`)
	o.Cluster = "blue"
	for range 2 {
		if err := open(t, o).Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
