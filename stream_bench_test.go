package quern_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/machine"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// BenchmarkStream is the whole way of an add over loopback, through sessions,
// with node and client in one process.
func BenchmarkStream(b *testing.B) {
	for _, tt := range []struct{ callers, connections, batch int }{
		{1, 1, 1}, {64, 1, 1}, {50, 50, 16}, {50, 1, 16}, {50, 50, 128}, {50, 1, 128},
	} {
		b.Run(fmt.Sprintf("callers=%d/connections=%d/batch=%d", tt.callers, tt.connections, tt.batch), func(b *testing.B) {
			to := remote(b, tt.connections)
			names := make([]string, 10_000)
			for i := range names {
				names[i] = "k" + strconv.Itoa(i)
			}
			addAll(b, to, names, 0, 100, len(names)*3)
			b.ReportAllocs()
			b.ResetTimer()
			cpu := machine.CPUTime()
			var all sync.WaitGroup
			for caller := range tt.callers {
				all.Go(func() { addAll(b, to, names, caller, tt.batch, b.N/tt.callers) })
			}
			all.Wait()
			b.ReportMetric(float64(machine.CPUTime()-cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}

func remote(tb testing.TB, connections int) *client.Client {
	tb.Helper()
	node, err := quern.Open(tb.Context(), quern.Config{Store: quern.StoreMemory, Listen: "127.0.0.1:0"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = node.Close(context.Background()) })
	c, err := client.DialWith(tb.Context(), node.GRPCAddr(), client.Options{Connections: connections})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// addAll adds n times, batch by batch, over all keys.
func addAll(b *testing.B, c *client.Client, names []string, caller, batch, n int) {
	b.Helper()
	ops := make([]*handles.Operation, batch)
	requests := make([]quernv1.CounterServiceAddRequest, batch)
	for i := range ops {
		ops[i] = &handles.Operation{Method: handles.CounterAdd, Request: &requests[i], Reply: &quernv1.CounterServiceAddResponse{}}
	}
	at := caller * 7919
	for range n / batch {
		for i := range ops {
			at = (at + 7919) % len(names)
			requests[i].Key, ops[i].Key = names[at], names[at]
		}
		c.InvokeAll(context.Background(), ops)
		for _, op := range ops {
			if op.Err != nil {
				b.Error(op.Err)
				return
			}
		}
	}
}
