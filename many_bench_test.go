package quern_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/machine"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// BenchmarkStreamMany is the whole way of bulk adds of 1,000 keys over loopback,
// with node and client in one process.
func BenchmarkStreamMany(b *testing.B) {
	const callers, batch = 8, 1000
	to := remote(b, 1)
	names := make([]string, batch)
	for i := range names {
		names[i] = "key:" + strconv.Itoa(1_000_000_000+i)
	}
	add := func() {
		op := &handles.Operation{
			Method: handles.CounterAddMany, Request: &quernv1.CounterServiceAddManyRequest{Keys: names},
			Reply: &quernv1.CounterServiceAddManyResponse{},
		}
		if err := to.Invoke(context.Background(), op); err != nil {
			b.Error(err)
		}
	}
	add()
	b.ReportAllocs()
	b.ResetTimer()
	cpu := machine.CPUTime()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range b.N / batch / callers {
				add()
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(machine.CPUTime()-cpu)/float64(b.N), "cpu-ns/op")
}
