package main

import (
	"os"
	"runtime/debug"

	"github.com/quern-io/quern/internal/machine"
)

// Every unary call leaves some 10 KB of garbage in gRPC while little is live,
// so that at Go's default a collection begins a hundred times a second. A heap
// of up to five times what is live costs a tenth less CPU per call; the limit
// makes collections frequent again before memory becomes scarce.
const (
	gcPercent   = 400
	memoryShare = 2 // the limit is the machine's memory divided by this
)

// tuneGC applies that where GOGC and GOMEMLIMIT leave the choice to us.
func tuneGC() {
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set {
		memory := machine.Memory()
		if memory == 0 {
			return // without a limit the default is the safer choice
		}
		debug.SetMemoryLimit(int64(memory / memoryShare)) //nolint:gosec // far below 2^63
	}
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
}
