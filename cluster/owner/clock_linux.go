package owner

import (
	"time"

	"golang.org/x/sys/unix"
)

// boottime is the time since the machine was started, which runs on while it
// is suspended and the process is stopped.
func boottime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return time.Since(started)
	}
	return time.Duration(t.Nano())
}

var started = time.Now()
