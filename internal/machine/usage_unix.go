//go:build unix

package machine

import (
	"syscall"
	"time"
)

// CPUTime is what this process has used, its own time and the kernel's.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
