package actors_test

import (
	"math"
	"strconv"
	"sync"
	"testing"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/keyspace"
	"github.com/quern-io/quern/storage/memory"
)

// spread runs fn from many callers at once, each with its own number.
func spread(b *testing.B, callers int, fn func(caller, i int)) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for caller := range callers {
		n := b.N / callers
		if caller < b.N%callers {
			n++
		}
		wg.Go(func() {
			for i := range n {
				fn(caller, i)
			}
		})
	}
	wg.Wait()
}

func BenchmarkAdd(b *testing.B) {
	for _, size := range []struct{ callers, keys int }{{1, 1}, {1, 1000}, {1000, 1000}, {1000, 1}, {8, 1_000_000}} {
		b.Run(strconv.Itoa(size.callers)+"callers/"+strconv.Itoa(size.keys)+"keys", func(b *testing.B) {
			r := newRig(b, memory.New(256))
			keys := make([]string, size.keys)
			for i := range keys {
				keys[i] = "counter:" + strconv.Itoa(i)
				if _, err := r.counter(keys[i]).Add(b.Context(), 1); err != nil {
					b.Fatal(err)
				}
			}
			ctx := b.Context()
			spread(b, size.callers, func(caller, i int) {
				key := keys[(caller*7919+i*31)%size.keys]
				if _, err := r.counter(key).Add(ctx, 1); err != nil {
					b.Error(err)
				}
			})
		})
	}
}

// BenchmarkMutexMap is the limit to hold BenchmarkAdd against: the same work on
// a map under sharded mutexes, which promises nothing.
func BenchmarkMutexMap(b *testing.B) {
	for _, size := range []struct{ callers, keys int }{{1, 1}, {1000, 1000}, {8, 1_000_000}} {
		b.Run(strconv.Itoa(size.callers)+"callers/"+strconv.Itoa(size.keys)+"keys", func(b *testing.B) {
			var shards [256]struct {
				sync.Mutex
				values map[string]int64
				_      [48]byte
			}
			keys := make([]string, size.keys)
			for i := range shards {
				shards[i].values = make(map[string]int64)
			}
			for i := range keys {
				keys[i] = "counter:" + strconv.Itoa(i)
				shards[keyspace.Shard(keys[i], 256)].values[keys[i]] = 0
			}
			spread(b, size.callers, func(caller, i int) {
				key := keys[(caller*7919+i*31)%size.keys]
				s := &shards[keyspace.Shard(key, 256)]
				s.Lock()
				s.values[key]++
				s.Unlock()
			})
		})
	}
}

// BenchmarkLeasedAdd is BenchmarkAdd under leases, by the machine's clock: what a
// look at it costs, once per batch of turns.
func BenchmarkLeasedAdd(b *testing.B) {
	for _, size := range []struct{ callers, keys int }{{1, 1000}, {1000, 1000}, {1000, 1}} {
		b.Run(strconv.Itoa(size.callers)+"callers/"+strconv.Itoa(size.keys)+"keys", func(b *testing.B) {
			r := newLeased(b, memory.New(256), func(c *actors.Config) { c.Clock = nil })
			for shard := range r.shards {
				if _, err := r.Raise(b.Context(), []actors.Raise{{Shard: shard, Epoch: 1}}); err != nil {
					b.Fatal(err)
				}
				r.Serve(actors.Lease{Shard: shard, Epoch: 1, Until: math.MaxInt64})
			}
			keys := make([]string, size.keys)
			for i := range keys {
				keys[i] = "counter:" + strconv.Itoa(i)
				if _, err := r.counter(keys[i]).Add(b.Context(), 1); err != nil {
					b.Fatal(err)
				}
			}
			ctx := b.Context()
			spread(b, size.callers, func(caller, i int) {
				if _, err := r.counter(keys[(caller*7919+i*31)%size.keys]).Add(ctx, 1); err != nil {
					b.Error(err)
				}
			})
		})
	}
}
