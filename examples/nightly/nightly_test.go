package nightly

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/quern-io/quern/internal/nodeproc"
)

// Four machines begin at a time. The job of the one that is first fails, the
// next one does it, the others find it done.
func TestNightly(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip(err)
	}
	binary, err := nodeproc.Build(t.Context(), t.TempDir(), true) // as make test has it built
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "data")
	p, err := nodeproc.Serve(binary, data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	node, err := p.Ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	folder := t.TempDir()
	job := `echo $QUERN_FENCING_TOKEN >>runs; test -e failed || { touch failed; exit 9; }; touch "done"`
	codes := make([]int, 4)
	var all sync.WaitGroup
	for i := range codes {
		all.Go(func() {
			script, err := filepath.Abs("nightly.sh")
			if err != nil {
				t.Error(err)
			}
			c := exec.CommandContext(t.Context(), script, "sh", "-c", job)
			c.Dir, c.Env = folder, append(os.Environ(), "QUERN="+binary, "QUERN_ADDR="+node.GRPC, "QUERN_FENCING_TOKEN=")
			out, err := c.CombinedOutput()
			if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
				codes[i] = failed.ExitCode()
			} else if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	all.Wait()
	sum := 0
	for _, code := range codes {
		sum += code
	}
	if sum != 9 {
		t.Errorf("exit codes %v", codes)
	}
	runs, err := os.ReadFile(filepath.Join(folder, "runs"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Count(string(runs), "\n")
	if _, err := os.Stat(filepath.Join(folder, "done")); err != nil || lines != 2 {
		t.Errorf("%d runs, %v:\n%s", lines, err, runs)
	}
}
