package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// The test binary is a program that runs under a lock where this variable says
// which.
const asChild = "QUERN_TEST_CHILD"

func childMain(role string) int {
	switch role {
	case "signals":
		return tellSignals()
	case "jobs":
		return tellSignals(syscall.SIGCONT)
	case "stamp":
		return stamp(os.Args[1:])
	case "stdin": // runs until its standard input ends
		fmt.Println("ready") //nolint:forbidigo // its output
		_, _ = io.Copy(io.Discard, os.Stdin)
		return 0
	}
	return 99
}

// tellSignals prints each signal that it gets, and ends at SIGQUIT.
func tellSignals(more ...os.Signal) int {
	got := make(chan os.Signal, 100)
	signal.Notify(got, append(more, syscall.SIGINT)...)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	fmt.Println("ready") //nolint:forbidigo // its output
	for s := range got {
		fmt.Println(s) //nolint:forbidigo // its output
		if s == syscall.SIGQUIT {
			break
		}
	}
	return 7
}

// stamp writes the time into a file, again and again, as one who uses what a
// lock protects and does not listen. It starts one like it for each further
// file.
func stamp(files []string) int {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	f, err := os.Create(files[0])
	if err != nil {
		return 97
	}
	now := func() error {
		_, err := f.WriteAt(fmt.Appendf(nil, "%020d", time.Now().UnixNano()), 0)
		return err //nolint:wrapcheck // whether there is one
	}
	if now() != nil {
		return 96
	}
	if len(files) > 1 {
		c := exec.Command(os.Args[0], files[1:]...) //nolint:noctx // it is to outlive everything
		c.Env, c.Stdout = os.Environ(), os.Stdout
		if err := c.Start(); err != nil {
			return 98
		}
	} else {
		fmt.Println("ready") //nolint:forbidigo // its output
	}
	every := time.NewTicker(time.Millisecond)
	// Where a test fails, nobody ends it.
	for began := time.Now(); time.Since(began) < time.Minute; <-every.C {
		if now() != nil {
			return 96
		}
	}
	return 0
}

// under is a "lock run" whose program is the test binary in a role.
type under struct {
	*process
	out *bufio.Scanner
	far *os.File // the program's end of out, where that is no pipe of exec's
}

func lockRun(t *testing.T, addr, role string, flags string, args ...string) *under {
	t.Helper()
	all := append(strings.Fields("lock run k --addr "+addr+" "+flags), "--", os.Args[0])
	p := program(t, append(all, args...)...)
	p.Env = append(p.Env, asChild+"="+role)
	p.Stdout = nil
	pipe, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	return &under{p, bufio.NewScanner(pipe), nil}
}

func (u *under) begin(t *testing.T) *under {
	t.Helper()
	if err := u.Start(); err != nil {
		t.Fatal(err)
	}
	_ = u.far.Close() // so that its end is seen; nil where there is none
	u.line(t, "ready")
	return u
}

// line reads one line of stdout.
func (u *under) line(t *testing.T, want string) {
	t.Helper()
	if !u.out.Scan() || u.out.Text() != want {
		t.Fatalf("stdout has %q, want %q; exit code %d, stderr:\n%s", u.out.Text(), want, u.end(t), &u.stderr)
	}
}

// exit expects the end of stdout, which all who run under the lock have, and
// the exit code.
func (u *under) exit(t *testing.T, code int) {
	t.Helper()
	for u.out.Scan() {
		t.Errorf("stdout has %q", u.out.Text())
	}
	if got := u.end(t); got != code {
		t.Errorf("exit code %d, want %d; stderr:\n%s", got, code, &u.stderr)
	}
}

func (u *under) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := u.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// lockNode is a node that ends with the test.
func lockNode(t *testing.T, store, dir, listen string) (*process, nodeFile) {
	t.Helper()
	p := program(t, "serve", "--store", store, "--listen", listen, "--http", "127.0.0.1:0", "--data", dir)
	p.Stderr = nil
	pipe, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(pipe)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill(t) })
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

// kill ends a process and waits until it is gone.
func (p *process) kill(t *testing.T) {
	t.Helper()
	_ = p.Process.Kill() // gone already is as good
	p.end(t)
}

// lockAt is the lock of these tests on a node, without quern between.
func lockAt(t *testing.T, addr string) quern.Lock {
	t.Helper()
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.Lock("k")
}

// awaitLock waits until a lock is as wanted.
func awaitLock(t *testing.T, l quern.Lock, wanted func(handles.LockInfo) bool) {
	t.Helper()
	for {
		info, err := l.Get(t.Context())
		if err != nil && !errors.Is(err, failure.Unreachable) {
			t.Fatal(err)
		}
		if err == nil && wanted(info) {
			return
		}
	}
}

func free(i handles.LockInfo) bool { return i.Holds == 0 && i.Waiters == 0 }

// Eight processes append a begin and an end each; nobody comes between, and
// tokens rise.
func TestLockRunExcludes(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	file := filepath.Join(t.TempDir(), "log")
	script := `echo begin $QUERN_FENCING_TOKEN >>"$1"; echo end $QUERN_FENCING_TOKEN >>"$1"`
	const processes, rounds = 8, 4
	var all sync.WaitGroup
	for range processes {
		all.Go(func() {
			for range rounds {
				p := program(t, "lock", "run", "k", "--wait", "5m", "--addr", node.GRPC, "--", "sh", "-c", script, "sh", file)
				if err := p.Run(); err != nil {
					t.Errorf("%v: %s%s", err, &p.stdout, &p.stderr)
				}
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	if len(lines) != processes*rounds*4 {
		t.Fatalf("%d words", len(lines))
	}
	for i, last := 0, ""; i < len(lines); i += 4 {
		if lines[i] != "begin" || lines[i+2] != "end" || lines[i+1] != lines[i+3] || lines[i+1] <= last {
			t.Fatalf("%v after token %s", lines[i:i+4], last)
		}
		last = lines[i+1]
	}
}

func TestLockRunExitCodes(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	if _, err := lockAt(t, node.GRPC).Grant(t.Context(), quern.LockOptions{Owner: "x", TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(t.TempDir(), "odd")
	if err := os.WriteFile(odd, []byte("#!/no/such/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args, says string
		code       int
	}{
		{"j -- true", "", 0},
		{"j -- sh -c exit\t3", "", 3},
		{"j -- sh -c kill\t-9\t$$", "", 137},
		{"j -- sh -c test\t$QUERN_FENCING_TOKEN\t-gt\t0", "", 0},
		{"j --shared --permits 3 -- true", "", 0},
		{"k --wait 0s -- true", "CONDITION_FAILED", 125},
		{"k --wait 10ms -- true", "CONDITION_FAILED", 125},
		{"k --wait 10ms --shared -- true", "CONDITION_FAILED", 125},
		{"j --ttl 25h -- true", "INVALID_FIELD", 125},
		{"j --addr 127.0.0.1:1 -- true", "127.0.0.1:1", 125},
		{"j -- /", "/", 126},
		{"j -- " + os.DevNull, "permission denied", 126},
		{"j -- no-such-program", "no-such-program", 127},
		{"j -- " + odd, "no such file", 127},
		{"j true", "put -- before", 2},
		{"j --", "<cmd>", 2},
		{"j --ttl 0s -- true", "--ttl 0s", 2},
		{"j --ttl 1s --grace 501ms -- true", "--grace 501ms", 2},
		{"j --timeout 0s -- true", "--timeout 0s", 2},
		{"j --addr nowhere -- true", "nowhere", 2},
	} {
		args := strings.Fields("lock run --addr " + node.GRPC)
		for word := range strings.SplitSeq(tt.args, " ") {
			args = append(args, strings.ReplaceAll(word, "\t", " "))
		}
		p := program(t, args...)
		_ = p.Run() // the state says it
		if code := p.ProcessState.ExitCode(); code != tt.code || !strings.Contains(p.stderr.String(), tt.says) || (tt.says == "") != (p.stderr.Len() == 0) {
			t.Errorf("%s: exit code %d\n%s%s", tt.args, code, &p.stdout, &p.stderr)
		}
	}
	awaitLock(t, lockAt(t, node.GRPC), func(i handles.LockInfo) bool { return i.Waiters == 0 })
	p := program(t, "lock", "get", "j", "--addr", node.GRPC)
	if err := p.Run(); err != nil || p.stdout.String() != "free\n" {
		t.Errorf("left behind: %v %s%s", err, &p.stdout, &p.stderr)
	}
}

func TestLockRunPassesSignals(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	u := lockRun(t, node.GRPC, "signals", "").begin(t)
	for _, s := range []syscall.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1,
		syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGINT, syscall.SIGQUIT,
	} {
		u.signal(t, s)
		u.line(t, s.String())
	}
	u.exit(t, 7)
	if !free(infoOf(t, lockAt(t, node.GRPC))) {
		t.Error("the lock was not given back")
	}
}

func infoOf(t *testing.T, l quern.Lock) handles.LockInfo {
	t.Helper()
	info, err := l.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// What the program leaves in its group runs under the lock too.
func TestLockRunWaitsForTheGroup(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	u := lockRun(t, node.GRPC, "signals", "")
	u.Args = append(u.Args[:len(u.Args)-1], "sh", "-c", `echo $$; "$0" & exit 5`, os.Args[0])
	if err := u.Start(); err != nil {
		t.Fatal(err)
	}
	var shell int
	for range 2 { // in either order
		u.out.Scan()
		_, _ = fmt.Sscan(u.out.Text(), &shell)
	}
	for syscall.Kill(shell, 0) == nil {
		if infoOf(t, lockAt(t, node.GRPC)).Holds != 1 {
			break
		}
	}
	if infoOf(t, lockAt(t, node.GRPC)).Holds != 1 {
		t.Error("the lock was given back too early")
	}
	u.signal(t, syscall.SIGQUIT)
	u.line(t, syscall.SIGQUIT.String())
	u.exit(t, 5)
	if !free(infoOf(t, lockAt(t, node.GRPC))) {
		t.Error("the lock was not given back")
	}
}

// A signal ends the wait, and leaves nothing in the queue.
func TestLockRunEndedWhileItWaits(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	l := lockAt(t, node.GRPC)
	held, err := l.Grant(t.Context(), quern.LockOptions{Owner: "x", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	u := lockRun(t, node.GRPC, "signals", "--wait 1h")
	if err := u.Start(); err != nil {
		t.Fatal(err)
	}
	awaitLock(t, l, func(i handles.LockInfo) bool { return i.Waiters == 1 })
	u.signal(t, syscall.SIGTERM)
	u.exit(t, 128+int(syscall.SIGTERM))
	if i := infoOf(t, l); i.Waiters != 0 {
		t.Errorf("%+v", i)
	}
	if err := l.Release(t.Context(), held.Token); err != nil {
		t.Error(err)
	}
}
