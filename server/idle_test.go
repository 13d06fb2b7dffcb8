package server_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// The environment of the process that holds the other ends of idle
// connections: the address to dial and how many.
const (
	idleAddr  = "QUERN_TEST_IDLE_ADDR"
	idleConns = "QUERN_TEST_IDLE_CONNS"
	idleFrame = "QUERN_TEST_IDLE_FRAMES" // set: they are no gRPC connections
)

// TestIdleClients is no test: it is the body of the process that holds the
// clients' ends, so that the test's own descriptors and memory are the
// server's alone. It answers pings, and ends with its input.
func TestIdleClients(t *testing.T) { //nolint:paralleltest // a process of its own
	addr := os.Getenv(idleAddr)
	if addr == "" {
		t.Skip("started by other tests")
	}
	n, err := strconv.Atoi(os.Getenv(idleConns))
	if err != nil {
		t.Fatal(err)
	}
	var held sync.WaitGroup
	conns := make([]net.Conn, n)
	begin, idle := greet, answerPings
	if os.Getenv(idleFrame) != "" {
		begin, idle = greetFrames, answerFramePings
	}
	for i := range conns {
		c, err := begin(t, addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns[i] = c
		held.Go(func() { idle(c) })
	}
	_, _ = fmt.Fprintln(os.Stdout, "connected")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, c := range conns {
		_ = c.Close()
	}
	held.Wait()
}

// greet connects and waits until the server has taken the preface.
func greet(tb testing.TB, addr string) (net.Conn, error) {
	tb.Helper()
	c, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", addr)
	if err != nil {
		return nil, err //nolint:wrapcheck // ends the test
	}
	f := http2.NewFramer(c, c)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	if err := f.WriteSettings(); err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return nil, err //nolint:wrapcheck // as above
		}
		if s, ok := frame.(*http2.SettingsFrame); ok && s.IsAck() {
			return c, f.WriteSettingsAck() //nolint:wrapcheck // as above
		}
	}
}

// answerPings does what a client without calls does, until the end.
func answerPings(c net.Conn) {
	f := http2.NewFramer(c, c)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		if p, ok := frame.(*http2.PingFrame); ok && !p.IsAck() {
			if f.WritePing(true, p.Data) != nil {
				return
			}
		}
	}
}

// greetFrames begins a stream and has one operation carried out on it.
func greetFrames(tb testing.TB, addr string) (net.Conn, error) {
	tb.Helper()
	c, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", addr)
	if err != nil {
		return nil, err //nolint:wrapcheck // ends the test
	}
	add := frame.AppendMethod(nil, 1, handles.CounterAdd.Procedure)
	add, err = frame.AppendOperation(add, &frame.Operation{ID: 1, Method: 1}, &quernv1.CounterServiceAddRequest{Key: "k"})
	if err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	record := append(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(add))), add...)
	if _, err := io.WriteString(c, framesPreface); err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	if _, err := io.CopyN(io.Discard, c, int64(len(framesPreface))); err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	if _, err := skipRecord(c); err != nil { // hello
		return nil, err
	}
	if _, err := c.Write(record); err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	_, err = skipRecord(c)
	return c, err
}

func skipRecord(c net.Conn) (kind byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, err //nolint:wrapcheck // ends the test
	}
	_, err = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[1:])))
	return head[0], err //nolint:wrapcheck // ends the test
}

func answerFramePings(c net.Conn) {
	for {
		kind, err := skipRecord(c)
		if err != nil {
			return
		}
		if kind == 3 {
			if _, err := c.Write([]byte{4, 0, 0, 0, 0}); err != nil {
				return
			}
		}
	}
}

// holdIdle opens idle connections from another process until the test ends.
func holdIdle(tb testing.TB, addr string, n int, env ...string) {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestIdleClients$", "-test.v") //nolint:noctx // this test binary; it ends with its input
	cmd.Env = append(append(os.Environ(), idleAddr+"="+addr, idleConns+"="+strconv.Itoa(n)), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "connected" {
			return
		}
		if !strings.HasPrefix(lines.Text(), "===") {
			tb.Log(lines.Text())
		}
	}
	tb.Fatal("the clients' process ended early")
}

// What an idle connection may cost: 17 to 18 KiB were measured, 10 KiB of it
// stacks, and 49 KiB with a buffer to read into for each connection.
const (
	maxIdleBytes      = 26 << 10
	maxIdleGoroutines = 3

	// Of a stream over a connection of its own: 9 KiB were measured.
	maxIdleFrameBytes      = 13 << 10
	maxIdleFrameGoroutines = 1
)

// TestIdleConnections counts what connections cost that only answer pings,
// and that a client among them is served. The race detector, or a low limit
// of open files, makes it smaller.
func TestIdleConnections(t *testing.T) { //nolint:paralleltest // measures the process
	idleOnes(t, "grpc", maxIdleBytes, maxIdleGoroutines)
}

// TestIdleFrames is the same of streams over connections of their own, on each
// of which something was asked before.
func TestIdleFrames(t *testing.T) { //nolint:paralleltest // as above
	idleOnes(t, "frames", maxIdleFrameBytes, maxIdleFrameGoroutines, idleFrame+"=1")
}

func idleOnes(t *testing.T, transport string, maxBytes int, maxGoroutines float64, env ...string) {
	t.Helper()
	n := idleCount(t)
	s := start(t, &fake{}, func(c *server.Config) { c.KeepAlive = 3 * time.Second })
	c := dial(t, s)
	if _, err := c.Counter("k").Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	before := usage()
	holdIdle(t, s.GRPCAddr(), n, env...)
	// The stacks have grown when each has been pinged.
	pinged := time.NewTimer(4 * time.Second)
	defer pinged.Stop()
	calls := 0
	for waiting := true; waiting; calls++ {
		if _, err := c.Counter("k").Add(t.Context(), 1); err != nil {
			t.Fatalf("call %d beside idle connections: %v", calls, err)
		}
		select {
		case <-pinged.C:
			waiting = false
		default:
		}
	}
	after := quietest(n, before, maxBytes)
	if open := connections(t, s, transport); open < n {
		t.Errorf("%d connections are open, want %d and the client's", open, n)
	}
	heap, stack := (after.heap-before.heap)/n, (after.stack-before.stack)/n
	goroutines := float64(after.goroutines-before.goroutines) / float64(n)
	t.Logf("%d connections, each: heap %d B, stacks %d B, %.2f goroutines; %d calls beside them", n, heap, stack, goroutines, calls)
	if bytes := heap + stack; bytes > maxBytes && !raced {
		t.Errorf("%d bytes a connection, at most %d", bytes, maxBytes)
	}
	if goroutines > maxGoroutines+0.1 {
		t.Errorf("%.2f goroutines a connection, at most %.0f", goroutines, maxGoroutines)
	}
}

// idleCount is how many connections this machine can be asked for.
func idleCount(t *testing.T) int {
	t.Helper()
	const many, few = 10_000, 2_000
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	switch {
	case raced:
		t.Logf("%d connections instead of %d: the race detector is on", few, many)
		return few
	case lim.Cur < 3*few:
		t.Skipf("at most %d open files: too few", lim.Cur)
	case lim.Cur < 3*many/2:
		t.Logf("%d connections instead of %d: at most %d open files", few, many, lim.Cur)
		return few
	}
	return many
}

type usedMemory struct{ heap, stack, goroutines int }

// quietest is the least usage of a few: a connection that is being pinged
// holds a buffer of 32 KiB for a moment, and on a slow machine many are at once.
func quietest(conns int, before usedMemory, maxBytes int) usedMemory {
	least := usage()
	for range 9 {
		if (least.heap+least.stack-before.heap-before.stack)/conns <= maxBytes {
			break
		}
		if u := usage(); u.heap+u.stack < least.heap+least.stack {
			least = u
		}
	}
	return least
}

// usage is what lives now.
func usage() usedMemory {
	runtime.GC()
	runtime.GC() // what the first one's finalizers freed
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usedMemory{heap: int(m.HeapAlloc), stack: int(m.StackInuse), goroutines: runtime.NumGoroutine()}
}

// connections is what the server counts itself.
func connections(t *testing.T, s *server.Server, transport string) int {
	t.Helper()
	name := fmt.Sprintf("quern_server_connections{transport=%q} ", transport)
	for line := range strings.Lines(do(t, s, http.MethodGet, "/metrics", nil).body) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.Atoi(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
