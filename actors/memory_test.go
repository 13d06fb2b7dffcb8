package actors_test

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/quern-io/quern/actors"
)

// TestIdleCounterIsSmall holds an idle counter, beyond its key and its state,
// to 150 bytes at a million of them.
func TestIdleCounterIsSmall(t *testing.T) {
	const counters, bound, state = 1_000_000, 150, 16
	if testing.Short() || raced {
		t.Skip("needs a million counters; make test-unraced runs it")
	}
	keys := make([]string, counters)
	for i := range keys {
		keys[i] = "idle:" + strconv.Itoa(i)
	}
	r := newRig(t, newMemory(), func(c *actors.Config) { c.ResidentLimit = 2 * counters })
	before := heapInUse()
	for _, key := range keys {
		if _, err := r.counter(key).Get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	perCounter := float64(heapInUse()-before)/counters - state
	t.Logf("%.0f bytes beyond key and state", perCounter)
	if r.Resident() != counters {
		t.Fatalf("%d are resident", r.Resident())
	}
	if perCounter > bound {
		t.Errorf("an idle counter costs %.0f bytes beyond key and state, want at most %d", perCounter, bound)
	}
	runtime.KeepAlive(keys)
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
