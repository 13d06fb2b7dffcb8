package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// newTerminal returns both ends of a terminal: what a person has, and what
// programs have.
func newTerminal(t *testing.T) (person, programs *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { _ = person.Close() })
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	programs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = programs.Close() })
	return person, programs
}

// socket gives u a stdout that is no pipe, as that of a program at a terminal.
func (u *under) socket(t *testing.T) {
	t.Helper()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := os.NewFile(uintptr(ends[0]), "near"), os.NewFile(uintptr(ends[1]), "far")
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	u.Stdout, u.out, u.far = far, bufio.NewScanner(near), far
}

// At a terminal the program gets each Ctrl-C once, and quern none.
func TestLockRunAtATerminal(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	person, programs := newTerminal(t)
	u := lockRun(t, node.GRPC, "signals", "")
	u.socket(t)
	u.Stdin, u.SysProcAttr = programs, &syscall.SysProcAttr{Setsid: true, Setctty: true}
	u.begin(t)
	for _, key := range []struct {
		press string
		says  syscall.Signal
	}{{"\x03", syscall.SIGINT}, {"\x03", syscall.SIGINT}, {"\x1c", syscall.SIGQUIT}} {
		if _, err := person.WriteString(key.press); err != nil {
			t.Fatal(err)
		}
		u.line(t, key.says.String())
	}
	u.exit(t, 7)
}

// Ctrl-Z stops quern with the program, so that the shell gets the terminal; when
// it is continued, so is the program.
func TestLockRunIsStoppedByItsTerminal(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	person, programs := newTerminal(t)
	u := lockRun(t, node.GRPC, "jobs", "--ttl 1h")
	u.socket(t)
	// A shell that gives its job a group of its own, and tells of its state.
	script := `set -m; "$@"; echo stopped $?; read x; fg >&2; echo ended $?`
	u.Path, u.Args = "/bin/bash", append([]string{"bash", "-c", script}, append([]string{"sh"}, u.Args...)...)
	// It controls jobs where its standard error is a terminal too.
	u.Stdin, u.Stderr = programs, programs
	u.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if _, err := os.Stat(u.Path); err != nil {
		t.Skip(err)
	}
	u.begin(t)
	press := func(keys string) {
		if _, err := person.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	press("\x1a")
	u.line(t, fmt.Sprintf("stopped %d", 128+int(syscall.SIGSTOP)))
	press("\n")
	u.line(t, "continued")
	press("\x03")
	u.line(t, syscall.SIGINT.String())
	press("\x1c")
	u.line(t, syscall.SIGQUIT.String())
	u.line(t, "ended 7")
	u.exit(t, 0)
}

// A program that is stopped hears of the signals that end it all the same.
func TestLockRunEndsAStoppedProgram(t *testing.T) {
	clearEnv(t)
	_, node := lockNode(t, "memory", t.TempDir(), "127.0.0.1:0")
	u := lockRun(t, node.GRPC, "", "")
	u.Args = append(u.Args[:len(u.Args)-1], "sh", "-c", "echo $$; kill -STOP $$; echo went on")
	if err := u.Start(); err != nil {
		t.Fatal(err)
	}
	u.out.Scan()
	for stopped := false; !stopped; {
		stat, err := os.ReadFile("/proc/" + u.out.Text() + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		stopped = strings.Contains(string(stat), ") T ")
	}
	u.signal(t, syscall.SIGTERM)
	u.exit(t, 128+int(syscall.SIGTERM))
}
