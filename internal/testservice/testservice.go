// Package testservice reports which real services the tests of a run used and
// which they lacked, so that `make test` can say so at its end.
//
// A service is whatever a test needs from the machine beyond the Go toolchain:
// a database, a file system that may be filled, another program. Each use and
// each lack is one line appended to the file that QUERN_SERVICES_REPORT names.
// With QUERN_REQUIRE_SERVICES=1 a service that could have been had fails the
// test that lacks it.
package testservice

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const (
	reportEnv  = "QUERN_SERVICES_REPORT"
	requireEnv = "QUERN_REQUIRE_SERVICES"
)

// Used notes that the test works on a real service. The detail says which:
// a version, a size.
func Used(tb testing.TB, name, detail string) {
	tb.Helper()
	tb.Logf("real service used: %s, %s", name, detail)
	note(tb, "used", name, detail)
}

// Lacking ends the test because a service is missing that this machine could
// have had: the test fails where services are required, else it is skipped.
func Lacking(tb testing.TB, name, why string) {
	tb.Helper()
	note(tb, "lacked", name, why)
	if os.Getenv(requireEnv) == "1" {
		tb.Fatalf("REAL SERVICE LACKING: %s: %s", name, why)
	}
	tb.Skipf("REAL SERVICE LACKING: %s: %s", name, why)
}

// Impossible ends the test because this machine cannot have the service. The
// test is skipped, also where services are required.
func Impossible(tb testing.TB, name, why string) {
	tb.Helper()
	note(tb, "lacked", name, why+" (not possible on this machine)")
	tb.Skipf("REAL SERVICE NOT POSSIBLE HERE: %s: %s", name, why)
}

// note appends one line to the report. One short write in append mode does not
// mix with the lines of other processes.
func note(tb testing.TB, verb, name, detail string) {
	tb.Helper()
	path := os.Getenv(reportEnv)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600) //nolint:gosec // the path is the caller's of the tests
	if err != nil {
		tb.Logf("cannot report on services: %v", err)
		return
	}
	line := fmt.Sprintf("%-7s %s: %s\n", verb, name, strings.ReplaceAll(detail, "\n", " "))
	if _, err := f.WriteString(line); err != nil {
		tb.Logf("cannot report on services: %v", err)
	}
	if err := f.Close(); err != nil {
		tb.Logf("cannot report on services: %v", err)
	}
}
