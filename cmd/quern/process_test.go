package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is the program itself where this variable is set, so that
// the tests below have a real process without building one.
const asProgram = "QUERN_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	helper := len(os.Args) > 2 && os.Args[1] == "bench" && os.Args[2] == "helper" // of a bench in this process
	if helper || os.Getenv(asProgram) != "" {
		_ = os.Unsetenv(asProgram) // it would count as unknown
		main()
	}
	if role := os.Getenv(asChild); role != "" {
		os.Exit(childMain(role))
	}
	goleak.VerifyTestMain(m)
}

// process is a running "quern".
type process struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	lines          *bufio.Scanner // of stderr, where it was asked for
}

func program(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.CommandContext(t.Context(), os.Args[0], args...)}
	p.Env = append(os.Environ(), asProgram+"=1")
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	return p
}

// await reads stderr up to a line that contains text.
func (p *process) await(t *testing.T, text string) {
	t.Helper()
	for p.lines.Scan() {
		p.stderr.WriteString(p.lines.Text() + "\n")
		if strings.Contains(p.lines.Text(), text) {
			return
		}
	}
	t.Fatalf("stderr ended without %q:\n%s", text, &p.stderr)
}

// node starts one and waits until it is ready.
func startNode(t *testing.T, args ...string) (*process, nodeFile) {
	t.Helper()
	dir := t.TempDir()
	p := program(t, append([]string{"serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", dir}, args...)...)
	p.Stderr = nil
	pipe, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(pipe)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.await(t, "node is ready")
	text, err := os.ReadFile(filepath.Join(dir, nodeFileName))
	if err != nil {
		t.Fatal(err)
	}
	var file nodeFile
	if err := json.Unmarshal(text, &file); err != nil || file.PID != p.Process.Pid {
		t.Fatalf("node.json: %s %v", text, err)
	}
	return p, file
}

// end waits for the process and returns its exit code.
func (p *process) end(t *testing.T) int {
	t.Helper()
	if p.lines != nil {
		for p.lines.Scan() {
			p.stderr.WriteString(p.lines.Text() + "\n")
		}
	}
	_ = p.Wait() // the state says it
	return p.ProcessState.ExitCode()
}

func TestProcessServesAndStops(t *testing.T) {
	clearEnv(t)
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p, file := startNode(t)
		for args, want := range map[string]string{
			"counter add a -5 --json":              `{"key":"a","value":-5,"applied":-5}` + "\n",
			"counter add b 5 --id x --min -1":      "5\n",
			"counter get none":                     "0\n",
			"bench run --duration 100ms --keys 10": "",
			"bench run --duration 100ms --keys 500 --workload counter-columns --pipeline 100 --processes 2 --connections 2": "",
			"cluster status --json": "",
		} {
			c := program(t, append(strings.Fields(args), addrFlag(args), file.GRPC)...)
			if err := c.Run(); err != nil || want != "" && c.stdout.String() != want {
				t.Errorf("%s: %v %s%s", args, err, &c.stdout, &c.stderr)
			}
		}
		if err := p.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if code := p.end(t); code != 0 {
			t.Errorf("%v: exit code %d:\n%s", s, code, &p.stderr)
		}
	}
}

func addrFlag(args string) string {
	if strings.HasPrefix(args, "bench") {
		return "--target"
	}
	return "--addr"
}

// A connection that never ends holds up a drain; a second signal does not wait.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	clearEnv(t)
	p, file := startNode(t, "--store", "memory", "--drain-timeout", "1h")
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", file.HTTP)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := "POST /quern.v1.CounterService/Add HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
	if _, err := fmt.Fprint(c, body); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q %v", line, err) // the request has begun, and its body never comes
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await(t, "node is stopping")
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.end(t); code != 1 || !strings.Contains(p.stderr.String(), "second signal") {
		t.Errorf("exit code %d:\n%s", code, &p.stderr)
	}
}

func TestProcessSaysWhatIsWrong(t *testing.T) {
	clearEnv(t)
	var lc net.ListenConfig
	busy, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := busy.Addr().String()
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "photo.jpg"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args, says string
		code       int
	}{
		{"serve --store memory --http 127.0.0.1:0 --listen " + free, "address already in use", 1},
		{"serve --listen 127.0.0.1:0 --http 127.0.0.1:0 --data " + foreign, "photo.jpg", 1},
		{"serve --listen 127.0.0.1:0 --http 127.0.0.1:0 --data /proc/none", "/proc/none", 1},
		{"serve --shards 3", "--shards 3", 2},
	} {
		p := program(t, strings.Fields(tt.args)...)
		_ = p.Run() // the state says it
		if code := p.ProcessState.ExitCode(); code != tt.code || !strings.Contains(p.stderr.String(), tt.says) ||
			strings.Contains(p.stderr.String(), "goroutine") || p.stdout.Len() != 0 {
			t.Errorf("%s: exit code %d\n%s%s", tt.args, code, &p.stdout, &p.stderr)
		}
	}
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	p := program(t, "counter", "get", "k", "--timeout", "300ms", "--addr", free)
	_ = p.Run() // the state says it
	if code := p.ProcessState.ExitCode(); code != exitUnreachable || !strings.Contains(p.stderr.String(), free) {
		t.Errorf("exit code %d\n%s", code, &p.stderr)
	}
}
