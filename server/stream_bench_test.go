package server_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/quern-io/quern/client"
)

// BenchmarkStream is the whole way of an add over loopback, with a backend that
// costs next to nothing.
func BenchmarkStream(b *testing.B) {
	for _, callers := range []int{1, 64, 1024} {
		b.Run(strconv.Itoa(callers), func(b *testing.B) {
			s := start(b, &fake{})
			c, err := client.Dial(b.Context(), s.GRPCAddr())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.ReportAllocs()
			b.ResetTimer()
			var all sync.WaitGroup
			for caller := range callers {
				all.Go(func() {
					counter := c.Counter("k" + strconv.Itoa(caller))
					for range b.N / callers {
						if _, err := counter.Add(context.Background(), 1); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(c.Stats().Operations)/float64(c.Stats().Frames), "ops/frame")
		})
	}
}
