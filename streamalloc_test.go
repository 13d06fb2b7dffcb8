package quern_test

import (
	"runtime"
	"strconv"
	"testing"

	"github.com/quern-io/quern/handles"
)

// TestStreamAllocatesNothing for adds of keys that are in memory, from the batch
// to the shard and back: the keys stay in their frames. The race
// detector lets pools forget some of what they get.
func TestStreamAllocatesNothing(t *testing.T) { //nolint:paralleltest // counts allocations
	if raced {
		t.Skip("counts allocations; make test-unraced runs it")
	}
	c := remote(t, 1)
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = "key:" + strconv.Itoa(i)
	}
	b := handles.NewBatch(c)
	rounds := func(n int) {
		for range n {
			b.Reset()
			for _, key := range keys {
				b.CounterAdd(key, 1)
			}
			if err := b.Do(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	const n = 200
	rounds(20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	rounds(n)
	runtime.ReadMemStats(&after)
	if each := float64(after.Mallocs-before.Mallocs) / float64(n*len(keys)); each > 0.5 {
		t.Errorf("%.2f allocations an add", each)
	}
	if v, err := c.Counter(keys[0]).Get(t.Context()); v != n+20 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
}
