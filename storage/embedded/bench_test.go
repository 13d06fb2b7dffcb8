package embedded_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/storage/embedded"
)

// records makes n records of 40 bytes.
func records(n int) []actors.Record {
	rs := make([]actors.Record, n)
	for i := range rs {
		rs[i] = actors.Record{Key: make([]byte, 16), Value: make([]byte, 24)}
	}
	return rs
}

// benchStore opens a store on the real disk with shard 0..15 raised.
func benchStore(b *testing.B, h embedded.Hooks) *embedded.Store {
	b.Helper()
	s, err := embedded.Open(b.Context(), embedded.Options{Dir: b.TempDir(), Shards: 16}.WithHooks(h))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close(b.Context()) })
	raises := make([]actors.Raise, 16)
	for i := range raises {
		raises[i] = actors.Raise{Shard: uint32(i), Epoch: 1}
	}
	if _, err := s.Raise(b.Context(), raises); err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkCommitCPU commits 1,000 records of 40 bytes without syncs: what a
// commit costs beside the disk's own time, checkpoints included.
func BenchmarkCommitCPU(b *testing.B) {
	for _, keys := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			s := benchStore(b, embedded.Hooks{SkipSync: true})
			rng := rand.New(rand.NewPCG(1, 2))
			rs := records(1000)
			batches := []actors.Batch{{Shard: 3, Epoch: 1, Records: rs}}
			b.ReportAllocs()
			start := cpuTime(b)
			for b.Loop() {
				for i := range rs {
					binary.BigEndian.PutUint64(rs[i].Key[8:], uint64(rng.IntN(keys)))
				}
				if v := s.Commit(b.Context(), batches); v[0].Err != nil {
					b.Fatal(v[0].Err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
			b.ReportMetric(float64((cpuTime(b)-start).Nanoseconds())/float64(b.N)/1000, "cpu-ns/record")
		})
	}
}

// cpuTime is what the process has used of all CPUs, checkpoints included.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCommitSync commits with syncs, in several sizes.
func BenchmarkCommitSync(b *testing.B) {
	for _, n := range []int{1, 80, 1000, 5000} {
		b.Run(fmt.Sprintf("records=%d", n), func(b *testing.B) {
			s := benchStore(b, embedded.Hooks{})
			rng := rand.New(rand.NewPCG(1, 2))
			rs := records(n)
			batches := []actors.Batch{{Shard: 3, Epoch: 1, Records: rs}}
			took := make([]time.Duration, 0, 1<<12)
			b.ReportAllocs()
			for b.Loop() {
				for i := range rs {
					binary.BigEndian.PutUint64(rs[i].Key[8:], uint64(rng.IntN(100_000)))
				}
				start := time.Now()
				if v := s.Commit(b.Context(), batches); v[0].Err != nil {
					b.Fatal(v[0].Err)
				}
				took = append(took, time.Since(start))
			}
			reportQuantiles(b, took)
		})
	}
}

// BenchmarkBareSync appends 4 KiB to a file and calls fdatasync: the disk's floor.
func BenchmarkBareSync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "bare"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	took := make([]time.Duration, 0, 1<<12)
	for b.Loop() {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	reportQuantiles(b, took)
}

func reportQuantiles(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// BenchmarkRead reads keys that are in the tail, in pebble, or nowhere.
func BenchmarkRead(b *testing.B) {
	for _, c := range []struct {
		name string
		base uint64
		tail int64
	}{{"tail", 0, 64 << 20}, {"states", 0, 1 << 10}, {"missing", 1 << 40, 1 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			s, err := embedded.Open(b.Context(), embedded.Options{Dir: b.TempDir(), Shards: 16, TailBytes: c.tail}.WithHooks(embedded.Hooks{SkipSync: true}))
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close(b.Context())
			if _, err := s.Raise(b.Context(), []actors.Raise{{Shard: 3, Epoch: 1}}); err != nil {
				b.Fatal(err)
			}
			const keys = 100_000
			rs := records(keys)
			for i := range rs {
				binary.BigEndian.PutUint64(rs[i].Key[8:], uint64(i))
			}
			if v := s.Commit(b.Context(), []actors.Batch{{Shard: 3, Epoch: 1, Records: rs}}); v[0].Err != nil {
				b.Fatal(v[0].Err)
			}
			rng := rand.New(rand.NewPCG(1, 2))
			key := make([]byte, 16)
			asked := [][]byte{key}
			b.ReportAllocs()
			for b.Loop() {
				binary.BigEndian.PutUint64(key[8:], c.base+uint64(rng.IntN(keys)))
				if err := s.Read(b.Context(), 3, asked, func(int, []byte) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
