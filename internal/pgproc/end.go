//go:build linux

package pgproc

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout bounds an orderly stop; then the server is killed.
const stopTimeout = 30 * time.Second

// unprivileged returns whom the server is to run as; nil where this process is
// not root's.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil //nolint:nilnil // no change of user is the answer
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("pgproc: PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")
}

// Kill ends the server and all its processes at once, as a crash of its machine
// would.
func (s *Server) Kill() error {
	if s.process == nil {
		return nil
	}
	pid := s.process.cmd.Process.Pid
	// Stopped, it has no more children than those that are found.
	_ = syscall.Kill(pid, syscall.SIGSTOP) // one that has ended needs no stop
	children := childrenOf(pid)
	_ = syscall.Kill(pid, syscall.SIGKILL) // as above
	for _, child := range children {
		_ = syscall.Kill(child, syscall.SIGKILL) // as above
	}
	<-s.process.exited
	s.process = nil
	return s.await(children)
}

// await waits until processes have ended, so that none of them holds the
// server's memory when it starts again.
func (s *Server) await(pids []int) error {
	deadline := time.Now().Add(stopTimeout)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for _, pid := range pids {
		for alive(pid) {
			if time.Now().After(deadline) {
				return fmt.Errorf("pgproc: process %d of the server does not end", pid)
			}
			<-tick.C
		}
	}
	return nil
}

// alive says whether a process runs; one that nobody has waited for does not.
func alive(pid int) bool {
	state, _ := status(pid)
	return state != "" && state != "Z" && state != "X"
}

// status reads state and parent of a process, empty where there is none.
func status(pid int) (state string, parent int) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return "", 0
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return "", 0
	}
	parent, err = strconv.Atoi(fields[1])
	if err != nil {
		return "", 0
	}
	return fields[0], parent
}

func childrenOf(pid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var children []int
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, parent := status(child); parent == pid {
			children = append(children, child)
		}
	}
	return children
}

// Stop ends the server in an orderly way. Open connections are closed.
func (s *Server) Stop() error {
	if s.process == nil {
		return nil
	}
	if err := s.process.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("pgproc: %w", err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-s.process.exited:
		s.process = nil
		return nil
	case <-timer.C:
		return errors.Join(errors.New("pgproc: the server does not stop"), s.Kill())
	}
}

// Pause stops the server's processes as they stand; the function that it returns
// lets them go on.
func (s *Server) Pause() (resume func()) {
	all := append([]int{s.process.cmd.Process.Pid}, childrenOf(s.process.cmd.Process.Pid)...)
	for _, pid := range all {
		_ = syscall.Kill(pid, syscall.SIGSTOP) // one that has ended needs no stop
	}
	return func() {
		for _, pid := range all {
			_ = syscall.Kill(pid, syscall.SIGCONT) // as above
		}
	}
}

// Close ends the server and removes everything that it had.
func (s *Server) Close() error {
	err := s.Stop()
	s.forgetMemory()
	return errors.Join(err, os.RemoveAll(s.home))
}

// forgetMemory removes the segment of shared memory that a killed server leaves
// behind. Its lock file names it.
func (s *Server) forgetMemory() {
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	if err != nil || len(lines) < 7 {
		return
	}
	fields := strings.Fields(lines[6])
	if len(fields) != 2 {
		return
	}
	if id, err := strconv.Atoi(fields[1]); err == nil {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) // gone already where it fails
	}
}

// CPU returns the processor time that the server's processes have used, those
// that have ended too. Its steps are those of the system's clock, mostly 10 ms.
func (s *Server) CPU() time.Duration {
	if s.process == nil {
		return 0
	}
	pid := s.process.cmd.Process.Pid
	ticks := cpuTicks(pid, true)
	for _, child := range childrenOf(pid) {
		ticks += cpuTicks(child, false)
	}
	const ticksPerSecond = 100 // USER_HZ on every Linux that Go runs on
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

// cpuTicks reads the time of a process, and of its children that have ended.
func cpuTicks(pid int, children bool) int64 {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	// utime, stime, cutime and cstime, counted from the state.
	const first, own, all = 11, 13, 15
	last := own
	if children {
		last = all
	}
	if len(fields) < all {
		return 0
	}
	var sum int64
	for _, field := range fields[first:last] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0
		}
		sum += n
	}
	return sum
}
