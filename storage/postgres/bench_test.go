package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/internal/machine"
	"github.com/quern-io/quern/internal/pgproc"
	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
)

// BenchmarkCommit commits states of 40 bytes over 256 shards, out of a million
// keys or of as many as one commit has.
func BenchmarkCommit(b *testing.B) {
	server := testservice.Postgres(b, "shared_buffers=256MB", "max_wal_size=4GB")
	for _, n := range []int{1, 100, 10_000} {
		for _, keys := range []int{n, 1_000_000} {
			b.Run(fmt.Sprintf("states=%d/keys=%d", n, keys), func(b *testing.B) { benchCommit(b, server, n, keys) })
		}
	}
}

func benchCommit(b *testing.B, server *pgproc.Server, n, keys int) {
	b.Helper()
	s := open(b, postgres.Options{URL: server.URL(schema()), Shards: 256})
	defer func() { _ = s.Close(context.WithoutCancel(b.Context())) }()
	shards := min(n, 256)
	raises := make([]actors.Raise, shards)
	for i := range raises {
		raises[i] = actors.Raise{Shard: uint32(i), Epoch: 1}
	}
	if _, err := s.Raise(b.Context(), raises); err != nil {
		b.Fatal(err)
	}
	batches := make([]actors.Batch, shards)
	var took []time.Duration
	next := 0
	ours, theirs := machine.CPUTime(), server.CPU()
	for b.Loop() {
		for i := range batches {
			batches[i] = actors.Batch{Shard: uint32(i), Epoch: 1, Records: batches[i].Records[:0]}
		}
		for range n {
			// Far from the last one, as keys that are used at random.
			next = (next + 7_368_787) % keys
			key := fmt.Appendf(nil, "counter:key:%08d", next)
			to := &batches[next%shards]
			to.Records = append(to.Records, actors.Record{Key: key, Value: make([]byte, 20)})
		}
		began := time.Now()
		for _, v := range s.Commit(b.Context(), batches) {
			if v.Status != actors.Done {
				b.Fatal(v)
			}
		}
		took = append(took, time.Since(began))
	}
	commits := float64(len(took))
	b.ReportMetric(float64((machine.CPUTime()-ours).Microseconds())/commits, "node-cpu-µs")
	b.ReportMetric(float64((server.CPU()-theirs).Microseconds())/commits, "server-cpu-µs")
	slices.Sort(took)
	p50 := took[len(took)/2]
	b.ReportMetric(float64(p50.Microseconds()), "p50-µs")
}

// BenchmarkRead reads one key and a hundred.
func BenchmarkRead(b *testing.B) {
	server := testservice.Postgres(b)
	s := open(b, postgres.Options{URL: server.URL(schema())})
	defer func() { _ = s.Close(context.WithoutCancel(b.Context())) }()
	if _, err := s.Raise(b.Context(), []actors.Raise{{Shard: 1, Epoch: 1}}); err != nil {
		b.Fatal(err)
	}
	filled := actors.Batch{Shard: 1, Epoch: 1}
	for i := range 10_000 {
		filled.Records = append(filled.Records, actors.Record{Key: fmt.Appendf(nil, "counter:key:%08d", i), Value: make([]byte, 20)})
	}
	if v := s.Commit(b.Context(), []actors.Batch{filled})[0]; v.Status != actors.Done {
		b.Fatal(v)
	}
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			keys := make([][]byte, n)
			for i := range keys {
				keys[i] = filled.Records[i*97%10_000].Key
			}
			for b.Loop() {
				found := 0
				if err := s.Read(b.Context(), 1, keys, func(int, []byte) { found++ }); err != nil || found != n {
					b.Fatal(found, err)
				}
			}
		})
	}
}
