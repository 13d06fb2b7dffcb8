package main

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/quern-io/quern"
)

// ctrlZ does what a terminal does to the group of u, which has no terminal of
// its own, and waits until u is stopped.
func (u *under) ctrlZ(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-u.Process.Pid, s); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(u.Process.Pid, &status, syscall.WUNTRACED, nil)
		if err == nil {
			break
		}
		if err != syscall.EINTR {
			t.Fatal(err)
		}
	}
	if !status.Stopped() {
		t.Fatalf("%v: status %x", s, status)
	}
}

// In a pipe the terminal stops quern alone: it takes the program and what that
// started with it, and they do not go on after the end of the lease.
func TestLockRunStoppedInAPipe(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	files := []string{filepath.Join(t.TempDir(), "program"), filepath.Join(t.TempDir(), "child")}
	u := lockRun(t, node.GRPC, "stamp", "--ttl 2s")
	u.Args = append(u.Args, files...)
	u.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	u.begin(t)
	u.ctrlZ(t, syscall.SIGTSTP)
	var last []time.Time
	for _, file := range files {
		last = append(last, stamped(t, file))
	}
	lease, err := lockAt(t, node.GRPC).Acquire(t.Context(), quern.LockOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	u.signal(t, syscall.SIGCONT)
	u.exit(t, exitNotLocked)
	for i, file := range files {
		if ran := stamped(t, file).Sub(last[i]); ran > 0 {
			t.Errorf("%s: ran on for %v", filepath.Base(file), ran)
		}
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

// Continued within the lease, the program goes on.
func TestLockRunContinuedInAPipe(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	u := lockRun(t, node.GRPC, "jobs", "--ttl 1h")
	u.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	u.begin(t)
	for _, s := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN} {
		u.ctrlZ(t, s)
		u.signal(t, syscall.SIGCONT)
		u.line(t, "continued")
	}
	u.signal(t, syscall.SIGQUIT)
	for u.out.Scan() && u.out.Text() != syscall.SIGQUIT.String() {
		t.Log(u.out.Text()) // a signal that ends is followed by one that continues
	}
	u.exit(t, 7)
}
