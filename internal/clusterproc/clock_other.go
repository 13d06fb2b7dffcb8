//go:build !unix

package clusterproc

import "time"

// Now is the time of a clock that all processes of the machine share, in
// nanoseconds.
func Now() int64 { return time.Now().UnixNano() }
