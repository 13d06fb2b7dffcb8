package peers

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quern-io/quern"
)

// The systems one after the other, for -benchmem and profiles. What is to be
// compared with Quern is measured by TestCompare…, in alternating rounds.

func BenchmarkPeers(b *testing.B) {
	keys := Keys("k", 1000)
	b.Run("quern", func(b *testing.B) {
		node, err := quern.Open(b.Context(), quern.Config{Store: quern.StoreMemory})
		if err != nil {
			b.Fatal(err)
		}
		defer func() {
			if err := node.Close(context.WithoutCancel(b.Context())); err != nil {
				b.Error(err)
			}
		}()
		benchmarkCounters(b, keys, addFunc(adder(b.Context(), node)))
	})
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

// addFunc is a function as Counters.
type addFunc func(key string, delta int64) (int64, error)

func (f addFunc) Add(key string, delta int64) (int64, error) { return f(key, delta) }

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
