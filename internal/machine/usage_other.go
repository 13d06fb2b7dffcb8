//go:build !unix

package machine

import "time"

// CPUTime returns 0: it is unknown here.
func CPUTime() time.Duration { return 0 }
