package machine

import (
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	before, rss := CPUTime(), ResidentBytes()
	if rss < 1<<20 || rss > 1<<40 {
		t.Errorf("%d bytes are resident", rss)
	}
	x, end := 1.0, time.Now().Add(30*time.Millisecond)
	for time.Now().Before(end) {
		x *= 1.0000001
	}
	used := CPUTime() - before
	if used < 5*time.Millisecond || used > 10*time.Second || x == 0 {
		t.Errorf("30 ms of work used %v of the CPU", used)
	}
}
