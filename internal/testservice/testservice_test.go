package testservice

import (
	"os"
	"path/filepath"
	"testing"
)

// recorder stands in for a test that ends early.
type recorder struct {
	testing.TB

	failed, skipped bool
}

func (r *recorder) Fatalf(string, ...any) { r.failed = true }
func (r *recorder) Skipf(string, ...any)  { r.skipped = true }

func TestReport(t *testing.T) {
	report := filepath.Join(t.TempDir(), "report")
	t.Setenv(reportEnv, report)
	t.Setenv(requireEnv, "")

	Used(t, "disk", "tmpfs of 1 MiB")
	skipped := &recorder{TB: t}
	Lacking(skipped, "consul", "not\nfound")
	t.Setenv(requireEnv, "1")
	failed := &recorder{TB: t}
	Lacking(failed, "consul", "gone")
	impossible := &recorder{TB: t}
	Impossible(impossible, "mount", "not permitted")

	if !skipped.skipped || skipped.failed {
		t.Error("a lack does not skip where services are not required")
	}
	if !failed.failed {
		t.Error("a lack does not fail where services are required")
	}
	if !impossible.skipped || impossible.failed {
		t.Error("an impossible service does not skip")
	}
	got, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	const want = "used    disk: tmpfs of 1 MiB\n" +
		"lacked  consul: not found\n" +
		"lacked  consul: gone\n" +
		"lacked  mount: not permitted (not possible on this machine)\n"
	if string(got) != want {
		t.Errorf("report:\n%swant:\n%s", got, want)
	}
}
