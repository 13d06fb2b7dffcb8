//go:build !linux

package owner

import "time"

// boottime is the time since the process was started. It may stand still while
// the machine is suspended.
func boottime() time.Duration { return time.Since(started) }

var started = time.Now()
