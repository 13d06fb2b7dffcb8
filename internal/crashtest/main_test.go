package crashtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/internal/nodeproc"
)

const (
	// roleEnv says what a started test binary is to do; empty: run tests.
	roleEnv = "QUERN_CRASHTEST_ROLE"
	// binaryEnv names the program under test where it is built already.
	binaryEnv = "QUERN_CRASHTEST_BINARY"
	// seedEnv repeats a run: the seed that a test printed.
	seedEnv = "QUERN_CRASHTEST_SEED"
	// patience bounds every single wait. Nothing is expected to take as long.
	patience = 60 * time.Second
)

// scratch is a folder for the whole run.
var scratch string

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case adderRole:
		os.Exit(adderMain())
	case streamerRole:
		os.Exit(streamerMain())
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if scratch, err = os.MkdirTemp("", "quern-crashtest"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	// A developer's settings are none of the program's here.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "QUERN_") && !keepEnv(name) {
			if err := os.Unsetenv(name); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
	return m.Run()
}

// keepEnv tells the variables that speak to tests and not to the program.
func keepEnv(name string) bool {
	return strings.HasPrefix(name, "QUERN_CRASHTEST_") || strings.HasPrefix(name, "QUERN_SERVICES_") ||
		name == "QUERN_REQUIRE_SERVICES" || name == "QUERN_POSTGRES_BIN"
}

// build builds the program once, with the race detector: what it finds in the
// server fails the test that stops it.
var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(binaryEnv); path != "" {
		return path, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return nodeproc.Build(ctx, scratch, true)
})

func binary(t *testing.T) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// serve starts a node on a data folder, with the embedded store and on free
// ports unless the arguments say otherwise. The test's end kills it.
func serve(t *testing.T, data string, args ...string) *nodeproc.Process {
	t.Helper()
	all := []string{"--store", "embedded", "--http", "127.0.0.1:0"}
	if !slices.Contains(args, "--listen") {
		all = append(all, "--listen", "127.0.0.1:0")
	}
	p, err := nodeproc.Serve(binary(t), data, append(all, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if strings.Contains(p.Stderr(), "DATA RACE") || t.Failed() {
			t.Logf("stderr of node %d:\n%s", p.PID(), tail(p.Stderr()))
		}
		if strings.Contains(p.Stderr(), "DATA RACE") {
			t.Error("the race detector reported the node")
		}
	})
	return p
}

// ready waits until the node accepts calls.
func ready(t *testing.T, p *nodeproc.Process) nodeproc.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := p.Ready(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// stop ends the node by SIGTERM and expects a clean end.
func stop(t *testing.T, p *nodeproc.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if code, err := p.Stop(ctx); err != nil || code != 0 {
		t.Fatalf("after SIGTERM the node exited with %d, %v:\n%s", code, err, tail(p.Stderr()))
	}
}

// exit waits for a process that is to end by itself.
func exit(t *testing.T, p *nodeproc.Process) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil {
		t.Fatalf("the process did not end: %v\n%s", err, tail(p.Stderr()))
	}
	return code
}

func dial(t *testing.T, addr string) *client.Client {
	t.Helper()
	return dialWith(t, addr, client.Options{})
}

func dialWith(t *testing.T, addr string, o client.Options) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := client.DialWith(ctx, addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// addr returns a loopback address that nobody listens on, for a server that is
// to come back to it. Its port is below those that the system gives to outgoing
// connections, so that no client takes it while the server is away.
func addr(t *testing.T, chance *rand.Rand) string {
	t.Helper()
	low := 32768
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if first, err := strconv.Atoi(strings.Fields(string(b))[0]); err == nil {
			low = first
		}
	}
	for range 100 {
		if low <= 12000 {
			break
		}
		a := net.JoinHostPort("127.0.0.1", strconv.Itoa(10000+chance.IntN(low-10000)))
		var config net.ListenConfig
		if l, err := config.Listen(t.Context(), "tcp", a); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return a
		}
	}
	t.Fatal("found no free port")
	return ""
}

// chance returns a source of random numbers whose seed is printed and can be
// given again.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(seedEnv); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed: %s=%d", seedEnv, seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// dataFolder returns the path of a folder to be.
func dataFolder(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "data")
}

// tail returns the last part of a log.
func tail(s string) string {
	const most = 8000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}
