package server_test

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// echo is the least that a CounterService can do on grpc-go.
type echo struct {
	quernv1.UnimplementedCounterServiceServer
}

func (echo) Add(_ context.Context, in *quernv1.CounterServiceAddRequest) (*quernv1.CounterServiceAddResponse, error) {
	return &quernv1.CounterServiceAddResponse{Value: in.GetDelta(), Applied: in.GetDelta()}, nil
}

// answering is a backend without a lock or a map.
type answering struct{ fake }

func (*answering) Invoke(_ context.Context, op *handles.Operation) error {
	out := op.Reply.(*quernv1.CounterServiceAddResponse) //nolint:errcheck,forcetypeassert // only Add is sent
	out.Value, out.Applied = 1, 1
	op.Origin = origin
	op.Origin.Shard = uint32(op.Key[len(op.Key)-1]) //nolint:gosec // many shards, as in a node
	return nil
}

// BenchmarkBareEcho is what grpc-go does with its defaults, to compare
// BenchmarkAdd with. Run them in turns: -bench 'BareEcho|Add' -count 6.
func BenchmarkBareEcho(b *testing.B) {
	lis, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := grpc.NewServer()
	quernv1.RegisterCounterServiceServer(g, echo{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(lis) })
	b.Cleanup(func() { g.Stop(); serving.Wait() })
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	stub := quernv1.NewCounterServiceClient(conn)
	callers(b, func(ctx context.Context, key string) error {
		delta := int64(1)
		_, err := stub.Add(ctx, &quernv1.CounterServiceAddRequest{Key: key, Delta: &delta})
		return err //nolint:wrapcheck // fails the benchmark
	})
}

// BenchmarkAdd is Counter.Add through client and server over loopback.
func BenchmarkAdd(b *testing.B) {
	c := dial(b, start(b, &answering{}))
	callers(b, func(ctx context.Context, key string) error {
		_, err := c.Counter(key).Add(ctx, 1)
		return err //nolint:wrapcheck // fails the benchmark
	})
}

func callers(b *testing.B, call func(ctx context.Context, key string) error) {
	for _, n := range []int{1, 64} {
		b.Run("callers="+strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			before := cpuTime(b)
			var (
				left atomic.Int64
				all  sync.WaitGroup
			)
			left.Store(int64(b.N))
			for i := range n {
				all.Go(func() {
					key := "bench:" + strconv.Itoa(i)
					for left.Add(-1) >= 0 {
						if err := call(b.Context(), key); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what this process has used of the processors: unlike wall time
// it hardly depends on what else runs on the machine.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
