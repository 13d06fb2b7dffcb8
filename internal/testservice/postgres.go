package testservice

import (
	"errors"
	"testing"

	"github.com/quern-io/quern/internal/pgproc"
)

// Postgres starts a private PostgreSQL server that ends with the test. Settings
// are those of postgresql.conf.
func Postgres(tb testing.TB, settings ...string) *pgproc.Server {
	tb.Helper()
	server, err := pgproc.Start(tb.Context(), settings...)
	if errors.Is(err, pgproc.ErrMissing) {
		Lacking(tb, "postgresql", err.Error())
	}
	if err != nil {
		tb.Fatal(err)
	}
	Used(tb, "postgresql", server.Version())
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("end of the server's log:\n%s", end(server.Log()))
		}
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
	})
	return server
}

func end(log string) string {
	const most = 4000
	return log[max(0, len(log)-most):]
}
