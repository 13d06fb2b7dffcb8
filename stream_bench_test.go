package quern_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// BenchmarkStream is the whole way of an add over loopback, through sessions,
// with node and client in one process.
func BenchmarkStream(b *testing.B) {
	for _, tt := range []struct{ callers, batch int }{{1, 1}, {64, 1}, {50, 16}, {50, 128}} {
		b.Run(strconv.Itoa(tt.callers)+"x"+strconv.Itoa(tt.batch), func(b *testing.B) {
			c := remote(b)
			b.ReportAllocs()
			b.ResetTimer()
			var all sync.WaitGroup
			for caller := range tt.callers {
				all.Go(func() { addAll(b, c, caller, tt.batch, b.N/tt.callers) })
			}
			all.Wait()
			b.ReportMetric(float64(c.Stats().Operations)/float64(c.Stats().Frames), "ops/frame")
		})
	}
}

func remote(b *testing.B) *client.Client {
	b.Helper()
	node, err := quern.Open(b.Context(), quern.Config{Store: quern.StoreMemory, Listen: "127.0.0.1:0"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = node.Close(context.Background()) })
	c, err := client.Dial(b.Context(), node.GRPCAddr())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

// addAll adds n times, batch by batch, over a thousand keys.
func addAll(b *testing.B, c *client.Client, caller, batch, n int) {
	b.Helper()
	const keys = 10_000
	ops := make([]*handles.Operation, batch)
	requests := make([]quernv1.CounterServiceAddRequest, batch)
	for i := range ops {
		ops[i] = &handles.Operation{Method: handles.CounterAdd, Request: &requests[i], Reply: &quernv1.CounterServiceAddResponse{}}
	}
	names := make([]string, keys)
	for i := range names {
		names[i] = "k" + strconv.Itoa(i)
	}
	at := caller * 7919
	for range n / batch {
		for i := range ops {
			at = (at + 7919) % keys
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
