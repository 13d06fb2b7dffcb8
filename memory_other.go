//go:build !linux

package quern

// machineMemory returns 0: it is unknown here.
func machineMemory() uint64 { return 0 }
