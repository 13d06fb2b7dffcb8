package job

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// guarded lets the program die with the thread that starts it.
func guarded(a *syscall.SysProcAttr) *syscall.SysProcAttr {
	a.Pdeathsig = syscall.SIGKILL
	return a
}

// adopt makes orphans below this process its children, so that they can be
// reaped. Where it fails, init reaps them.
func adopt() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }
