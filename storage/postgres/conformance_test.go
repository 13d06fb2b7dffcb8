package postgres_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/internal/pgproc"
	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
	"github.com/quern-io/quern/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// schemas numbers the schemas of a run.
var schemas atomic.Int64

// schema returns the URL parameter of a schema of the test's own.
func schema() string { return fmt.Sprintf("schema=test_%d", schemas.Add(1)) }

// open opens a store that the caller closes.
func open(tb testing.TB, o postgres.Options) *postgres.Store {
	tb.Helper()
	if o.Shards == 0 {
		o.Shards = storagetest.Shards
	}
	s, err := postgres.Open(tb.Context(), o)
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return s
}

func target(server *pgproc.Server) storagetest.Target {
	return storagetest.Target{
		Name: "postgres", Durable: true, Steps: 600,
		New: func(tb testing.TB) func(testing.TB) actors.Store {
			tb.Helper()
			url := server.URL(schema(), "pool_max_conns=4")
			return func(tb testing.TB) actors.Store {
				tb.Helper()
				return open(tb, postgres.Options{URL: url})
			}
		},
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, target(testservice.Postgres(t, "max_connections=200")))
}
