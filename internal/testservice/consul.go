package testservice

import (
	"context"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/consulproc"
)

// consulStart bounds the start of an agent: it takes a second by itself, and
// much longer on a machine that is busy.
const consulStart = time.Minute

// Consul starts a private Consul agent for the test and stops it afterwards.
// Where there is no program to start, the test is Lacking it.
func Consul(tb testing.TB, o consulproc.Options) *consulproc.Process {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), consulStart)
	defer cancel()
	binary, err := consulproc.Find()
	if err != nil {
		Lacking(tb, "consul", err.Error())
	}
	version, _, _, err := consulproc.Version(ctx, binary)
	if err != nil {
		Lacking(tb, "consul", err.Error())
	}
	o.Binary = binary
	p, err := consulproc.Start(ctx, o)
	if err != nil {
		tb.Fatalf("consul %s does not start: %v", version, err)
	}
	tb.Cleanup(p.Kill) // nothing that it has is needed any more
	Used(tb, "consul", version)
	return p
}
