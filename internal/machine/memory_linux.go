package machine

import "golang.org/x/sys/unix"

// Memory returns the machine's memory in bytes, 0 where it is unknown.
func Memory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit)
}
