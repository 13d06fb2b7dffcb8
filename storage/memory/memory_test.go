package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/storage/memory"
	"github.com/quern-io/quern/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, storagetest.Target{
		Name: "memory",
		New: func(testing.TB) func(testing.TB) actors.Store {
			return func(testing.TB) actors.Store { return memory.New(storagetest.Shards) }
		},
	})
}

func BenchmarkCommit(b *testing.B) {
	s := memory.New(16)
	if _, err := s.Raise(b.Context(), []actors.Raise{{Shard: 1, Epoch: 1}}); err != nil {
		b.Fatal(err)
	}
	records := make([]actors.Record, 1000)
	for i := range records {
		records[i] = actors.Record{Key: []byte{byte(i), byte(i >> 8), 2, 3, 4, 5, 6, 7}, Value: make([]byte, 32)}
	}
	batches := []actors.Batch{{Shard: 1, Epoch: 1, Records: records}}
	b.ReportAllocs()
	for b.Loop() {
		s.Commit(b.Context(), batches)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
}
