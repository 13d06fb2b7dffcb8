package peers

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// The benchmarks of the peers alone, for -benchmem and profiles. What is to be
// compared with Quern is measured by TestCompare…, in alternating rounds.

func BenchmarkPeers(b *testing.B) {
	keys := Keys("k", 1000)
	b.Run("map", func(b *testing.B) { benchmarkCounters(b, keys, NewMap()) })
	b.Run("protoactor-future", func(b *testing.B) {
		actors := NewActors(keys)
		defer actors.Close()
		benchmarkCounters(b, keys, actors)
	})
	b.Run("protoactor-grain", func(b *testing.B) {
		grains := NewGrains()
		defer grains.Close()
		benchmarkCounters(b, keys, grains)
	})
}

func benchmarkCounters(b *testing.B, keys []string, counters Counters) {
	b.Helper()
	for _, key := range keys {
		if _, err := counters.Add(key, 1); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("callers=1", func(b *testing.B) { benchmarkCallers(b, 1, keys, counters) })
	b.Run("callers=1000", func(b *testing.B) { benchmarkCallers(b, 1000, keys, counters) })
}

func benchmarkCallers(b *testing.B, callers int, keys []string, counters Counters) {
	b.Helper()
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	b.ResetTimer()
	for caller := range callers {
		all.Go(func() {
			chance := rand.New(rand.NewPCG(1, uint64(caller)))
			for left.Add(-1) >= 0 {
				if _, err := counters.Add(keys[chance.IntN(len(keys))], 1); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
