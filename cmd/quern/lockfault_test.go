package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/handles"
)

// wire carries connections to a node until it is cut: then they stay open, and
// nothing passes any more.
type wire struct {
	listener net.Listener
	cut      chan struct{}
	closed   chan struct{}
	running  sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, cut: make(chan struct{}), closed: make(chan struct{})}
	w.running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			w.running.Go(func() { w.serve(near, to) })
		}
	})
	t.Cleanup(func() {
		close(w.closed)
		_ = l.Close()
		w.running.Wait()
	})
	return w
}

func (w *wire) serve(near net.Conn, to string) {
	defer near.Close()
	far, err := net.Dial("tcp", to) //nolint:noctx // loopback: it is there or not
	if err != nil {
		return
	}
	defer far.Close()
	w.running.Go(func() { w.carry(near, far) })
	w.running.Go(func() { w.carry(far, near) })
	<-w.closed
}

func (w *wire) carry(from io.Reader, to io.Writer) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		select {
		case <-w.cut: // taken, and thrown away
		default:
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
	}
}

// stamped is the last time that a stamper wrote.
func stamped(t *testing.T, file string) time.Time {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, n)
}

// Silence between lock run and the node: the program and what it started, which
// do not listen to SIGTERM, write their last time before another can have the
// lock. Both times are of one clock.
func TestLockRunCutOff(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	w := newWire(t, node.GRPC)
	files := []string{filepath.Join(t.TempDir(), "program"), filepath.Join(t.TempDir(), "child")}
	u := lockRun(t, w.listener.Addr().String(), "stamp", "--ttl 5s --grace 1s")
	u.Args = append(u.Args, files...)
	u.begin(t)
	close(w.cut)
	lease, err := lockAt(t, node.GRPC).Acquire(t.Context(), quern.LockOptions{TTL: time.Minute})
	taken := time.Now()
	if err != nil {
		t.Fatal(err)
	}
	u.exit(t, exitNotLocked)
	for _, file := range files {
		last := stamped(t, file)
		t.Logf("%s: %v before the lock was another's", filepath.Base(file), taken.Sub(last))
		if !last.Before(taken) {
			t.Errorf("%s: ran on for %v", filepath.Base(file), last.Sub(taken))
		}
	}
	if !strings.Contains(u.stderr.String(), "lost") {
		t.Errorf("stderr: %s", &u.stderr)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// Killed with -9 it takes the program with it, and leaves the lock for one lease
// at most.
func TestLockRunKilled(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	const ttl = 2 * time.Second
	file := filepath.Join(t.TempDir(), "program")
	u := lockRun(t, node.GRPC, "stamp", "--ttl "+ttl.String())
	u.Args = append(u.Args, file)
	u.begin(t)
	killed := time.Now()
	if err := u.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	u.exit(t, -1) // and the end of stdout, which the program has too
	if g, err := lockAt(t, node.GRPC).Grant(t.Context(), quern.LockOptions{TTL: time.Minute}); err != nil || !g.Held {
		t.Fatal(g, err)
	}
	// A second for the node to notice and for the machine to be slow.
	if took := time.Since(killed); took > ttl+time.Second {
		t.Errorf("the lock stayed taken for %v", took)
	}
}

// The node is killed and comes back within the lease: the program goes on.
func TestLockRunOutlivesTheNode(t *testing.T) {
	clearEnv(t)
	dir := t.TempDir()
	first, node := lockNode(t, "embedded", dir, "127.0.0.1:0")
	u := lockRun(t, node.GRPC, "stdin", "--ttl 10s")
	stdin, err := u.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	u.begin(t)
	before := infoOf(t, lockAt(t, node.GRPC)).Holders[0]
	first.kill(t)
	lockNode(t, "embedded", dir, node.GRPC)
	l, left := lockAt(t, node.GRPC), time.Duration(0)
	awaitLock(t, l, func(i handles.LockInfo) bool { // until a renewal has come
		if i.Holds != 1 || i.Holders[0].Token != before.Token {
			t.Fatalf("%+v", i)
		}
		renewed := left != 0 && i.Holders[0].TTL > left
		left = i.Holders[0].TTL
		return renewed
	})
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	u.exit(t, 0)
	if !free(infoOf(t, l)) {
		t.Error("the lock was not given back")
	}
}

// An operator takes the lock away: the program is asked to end, then ended.
func TestLockRunForcedOut(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	for _, role := range []string{"signals", "stamp"} {
		u := lockRun(t, node.GRPC, role, "--ttl 3s")
		if role == "stamp" {
			u.Args = append(u.Args, filepath.Join(t.TempDir(), "program"))
		}
		u.begin(t)
		if n, err := lockAt(t, node.GRPC).ForceRelease(t.Context(), "a test"); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if role == "signals" {
			u.line(t, "terminated")
		}
		u.exit(t, exitNotLocked)
		if !strings.Contains(u.stderr.String(), "NOT_HOLDER") {
			t.Errorf("%s: stderr: %s", role, &u.stderr)
		}
	}
}

// A program that has ended when the lock is found to be taken away was not
// alone: its success does not count.
func TestLockRunForcedOutUnnoticed(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	u := lockRun(t, node.GRPC, "stdin", "--ttl 1h")
	stdin, err := u.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	u.begin(t)
	if n, err := lockAt(t, node.GRPC).ForceRelease(t.Context(), "a test"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	u.exit(t, exitNotLocked)
}

// One of several addresses is enough.
func TestLockRunFailsOver(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	u := lockRun(t, "127.0.0.1:1,"+node.GRPC, "stdin", "")
	u.begin(t).exit(t, 0)
}

// A command that waits outlasts the node that it waits at.
func TestLockAcquireOutlivesTheNode(t *testing.T) {
	clearEnv(t)
	dir := t.TempDir()
	first, node := lockNode(t, "embedded", dir, "127.0.0.1:0")
	held, err := lockAt(t, node.GRPC).Grant(t.Context(), quern.LockOptions{Owner: "x", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	p := program(t, "lock", "acquire", "k", "--owner", "y", "--wait", "5m", "--addr", node.GRPC)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	waits := func(i handles.LockInfo) bool { return i.Waiters == 1 }
	awaitLock(t, lockAt(t, node.GRPC), waits)
	first.kill(t)
	lockNode(t, "embedded", dir, node.GRPC)
	l := lockAt(t, node.GRPC)
	awaitLock(t, l, waits)
	if err := l.Release(t.Context(), held.Token); err != nil {
		t.Fatal(err)
	}
	if code := p.end(t); code != 0 {
		t.Fatalf("exit code %d: %s", code, &p.stderr)
	}
	if h := infoOf(t, l).Holders; len(h) != 1 || h[0].Owner != "y" || strconv.FormatUint(h[0].Token, 10)+"\n" != p.stdout.String() {
		t.Errorf("%+v, printed %s", h, &p.stdout)
	}
}
