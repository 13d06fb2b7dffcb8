//go:build unix

package clusterproc

import "golang.org/x/sys/unix"

// Now is the time of a clock that all processes of the machine share, in
// nanoseconds.
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) //nolint:forbidigo // there is no such system
	}
	return t.Nano()
}
