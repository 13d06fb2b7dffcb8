//go:build !linux

package boottime

import "time"

var start = time.Now()

// Now returns the time since the process started, by the monotonic clock. On
// some systems that stands still while the machine sleeps.
func Now() time.Duration { return time.Since(start) }
