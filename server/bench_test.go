package server_test

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

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
	op.Origin.Shard = uint32(op.Key[len(op.Key)-1])
	return nil
}

// BenchmarkBareEcho is what grpc-go does with its defaults.
func BenchmarkBareEcho(b *testing.B) {
	perCallers(b, bareEcho(b))
}

// BenchmarkAdd is Counter.Add through client and server over loopback.
func BenchmarkAdd(b *testing.B) {
	perCallers(b, throughQuern(b))
}

// BenchmarkAddAgainstBareEcho runs both in turns, in rounds of 1,000 calls, and
// reports how many times the processor and the wall time of an echo an Add
// takes: the median of the rounds, which other load on the machine hardly
// moves.
func BenchmarkAddAgainstBareEcho(b *testing.B) {
	const calls, round = 64, 1000
	peer, quern := bareEcho(b), throughQuern(b)
	run(b, 64, 5*round, peer)
	run(b, 64, 5*round, quern)
	var cpu, wall []float64
	for b.Loop() {
		p, q := run(b, calls, round, peer), run(b, calls, round, quern)
		cpu = append(cpu, float64(q.cpu)/float64(p.cpu))
		wall = append(wall, float64(q.wall)/float64(p.wall))
	}
	slices.Sort(cpu)
	slices.Sort(wall)
	b.ReportMetric(cpu[len(cpu)/2], "cpu-ratio")
	b.ReportMetric(wall[len(wall)/2], "wall-ratio")
}

// call is one call by one caller.
type call func(ctx context.Context, key string) error

func bareEcho(b *testing.B) call {
	b.Helper()
	lis, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := grpc.NewServer()
	quernv1.RegisterCounterServiceServer(g, echo{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(lis) })
	b.Cleanup(func() { g.Stop(); serving.Wait() })
	stub := quernv1.NewCounterServiceClient(plain(b, lis.Addr().String()))
	return func(ctx context.Context, key string) error {
		delta := int64(1)
		_, err := stub.Add(ctx, &quernv1.CounterServiceAddRequest{Key: key, Delta: &delta})
		return err //nolint:wrapcheck // fails the benchmark
	}
}

func throughQuern(b *testing.B) call {
	b.Helper()
	c := dial(b, start(b, &answering{}))
	return func(ctx context.Context, key string) error {
		_, err := c.Counter(key).Add(ctx, 1)
		return err //nolint:wrapcheck // fails the benchmark
	}
}

func perCallers(b *testing.B, f call) {
	b.Helper()
	for _, n := range []int{1, 64} {
		b.Run("callers="+strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			u := run(b, n, b.N, f)
			b.ReportMetric(float64(b.N)/u.wall.Seconds(), "calls/s")
			b.ReportMetric(float64(u.cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}

type used struct{ wall, cpu time.Duration }

// run makes a number of calls from a number of callers.
func run(b *testing.B, callers, calls int, f call) used {
	b.Helper()
	var (
		left atomic.Int64
		all  sync.WaitGroup
	)
	left.Store(int64(calls))
	begin, before := time.Now(), cpuTime(b)
	for i := range callers {
		all.Go(func() {
			key := "bench:" + strconv.Itoa(i)
			for left.Add(-1) >= 0 {
				if err := f(b.Context(), key); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return used{wall: time.Since(begin), cpu: cpuTime(b) - before}
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
