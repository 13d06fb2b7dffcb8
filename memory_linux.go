package quern

import "golang.org/x/sys/unix"

// machineMemory returns the machine's memory in bytes, 0 where it is unknown.
func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit)
}
