package consulproc_test

import (
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/testservice"
)

// TestRestart keeps data in a folder over a kill; an agent in memory does not
// live on after Stop.
func TestRestart(t *testing.T) {
	t.Parallel()
	first := testservice.Consul(t, consulproc.Options{Dir: t.TempDir()})
	put(t, first, "kept")
	first.Kill()

	second, err := first.Again(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(second.Kill)
	if second.Addr() != first.Addr() {
		t.Errorf("it has moved from %s to %s", first.Addr(), second.Addr())
	}
	if got := get(t, second); got != "kept" {
		t.Errorf("after a restart the value is %q", got)
	}
	second.Stop()
	if err := second.Signal(syscall.Signal(0)); err == nil {
		t.Error("the agent lives after Stop")
	}
}

func TestNoProgram(t *testing.T) {
	t.Parallel()
	_, err := consulproc.Start(t.Context(), consulproc.Options{Binary: "/does/not/exist"})
	if err == nil {
		t.Error("started")
	}
	_, err = consulproc.Start(t.Context(), consulproc.Options{Binary: "/bin/echo"})
	if err == nil || !strings.Contains(err.Error(), "says") {
		t.Errorf("another program: %v", err)
	}
}

func put(t *testing.T, p *consulproc.Process, value string) {
	t.Helper()
	if got := ask(t, p, http.MethodPut, strings.NewReader(value)); got != "true" {
		t.Fatalf("put: %s", got)
	}
}

func get(t *testing.T, p *consulproc.Process) string {
	t.Helper()
	return ask(t, p, http.MethodGet, nil)
}

func ask(t *testing.T, p *consulproc.Process, method string, body io.Reader) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.Addr()+"/v1/kv/test?raw", body)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}
