package machine

import (
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
)

// ResidentBytes is the memory of this process that is in RAM; where the system
// does not tell, what the Go runtime has mapped and not given back.
func ResidentBytes() uint64 {
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			if pages, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
				return pages * uint64(os.Getpagesize()) //nolint:gosec // a positive size
			}
		}
	}
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	return samples[0].Value.Uint64() - samples[1].Value.Uint64()
}
