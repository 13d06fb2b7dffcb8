package server_test

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"go.uber.org/goleak"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testTimeout bounds everything that a test waits for.
const testTimeout = 20 * time.Second

// fake is a backend that counts in memory. Its fields are set before use.
type fake struct {
	calls atomic.Int64
	// answer, where set, replaces the counter.
	answer func(ctx context.Context, op *handles.Operation) error
	ready  atomic.Pointer[failure.Error]
	// events and ends are what watches are told.
	events chan *handles.Event
	ends   chan error

	mu     sync.Mutex
	values map[string]int64 // guarded by mu
}

var origin = handles.Origin{Node: "node-1", Shard: 7, Epoch: 1 << 60}

func (f *fake) Name() string { return origin.Node }

func (f *fake) Shards() uint32 { return 256 }

func (f *fake) Submit(op *handles.Operation, _ time.Time, done handles.Completer) {
	err := f.Invoke(context.Background(), op)
	done.Completed(op.Origin.Epoch, err)
}

func (f *fake) SubmitWait(op *handles.Operation, deadline time.Time, done handles.Completer) func(bool) {
	f.Submit(op, deadline, done)
	return nil
}

func (*fake) EndWaits() {}

func (f *fake) OpenSession(_ uint32, done func(string, uint64, error)) {
	done("0123456789abcdef", origin.Epoch, nil)
}

func (f *fake) CloseSession(_ uint32, _ string, done func(uint64, error)) { done(origin.Epoch, nil) }

func (f *fake) Invoke(ctx context.Context, op *handles.Operation) error {
	f.calls.Add(1)
	if f.answer != nil {
		return f.answer(ctx, op)
	}
	if op.Key == "" {
		return failure.New(failure.InvalidKey, "the key is empty")
	}
	op.Origin = origin
	f.mu.Lock()
	defer f.mu.Unlock()
	switch in := op.Request.(type) {
	case *quernv1.CounterServiceAddRequest:
		delta := int64(1)
		if in.Delta != nil {
			delta = in.GetDelta()
		}
		if f.values == nil {
			f.values = make(map[string]int64)
		}
		f.values[op.Key] += delta
		out := op.Reply.(*quernv1.CounterServiceAddResponse) //nolint:errcheck,forcetypeassert // a panic is what the test wants
		out.Value, out.Applied = f.values[op.Key], delta
	case *quernv1.CounterServiceGetRequest:
		op.Reply.(*quernv1.CounterServiceGetResponse).Value = f.values[op.Key] //nolint:errcheck,forcetypeassert // as above
	case *quernv1.MapServiceGetRequest:
		out := op.Reply.(*quernv1.MapServiceGetResponse) //nolint:errcheck,forcetypeassert // as above
		out.Value, out.Version, out.Found = []byte{0xff, 0}, math.MaxUint64, true
	case *quernv1.MapServicePutRequest:
		out := op.Reply.(*quernv1.MapServicePutResponse) //nolint:errcheck,forcetypeassert // as above
		out.Version, out.Found = in.GetIfVersion()+1, in.IfVersion != nil
	}
	return nil
}

// Watch tells of the counter once, and then of whatever comes through events.
func (f *fake) Watch(ctx context.Context, w *handles.Watch) error {
	f.calls.Add(1)
	if w.Key == "" {
		return failure.New(failure.InvalidKey, "the key is empty")
	}
	w.Origin = origin
	f.mu.Lock()
	first := counterEvent(1, f.values[w.Key])
	f.mu.Unlock()
	if err := w.Each(first); err != nil {
		return err
	}
	for {
		select {
		case e := <-f.events:
			if err := w.Each(e); err != nil {
				return err
			}
		case err := <-f.ends:
			return err
		case <-ctx.Done():
			return handles.WatchEnded(ctx)
		}
	}
}

func counterEvent(sequence uint64, value int64) *handles.Event {
	return handles.NewEvent(&quernv1.CounterServiceWatchResponse{
		Epoch: origin.Epoch, Sequence: sequence, Event: &quernv1.CounterEvent{Value: value, Found: value != 0},
	})
}

func (f *fake) Status(context.Context) (*quernv1.ClusterServiceStatusResponse, error) {
	f.calls.Add(1)
	return &quernv1.ClusterServiceStatusResponse{Store: "memory", ShardsTotal: 256}, nil
}

func (f *fake) Where(_ context.Context, key string) (*quernv1.ClusterServiceWhereResponse, error) {
	f.calls.Add(1)
	if key == "" {
		return nil, failure.New(failure.InvalidKey, "the key is empty")
	}
	return &quernv1.ClusterServiceWhereResponse{Key: key, Shard: origin.Shard, Node: origin.Node, Epoch: origin.Epoch}, nil
}

func (*fake) Routes(context.Context, uint64) (*quernv1.ClusterServiceRoutesResponse, error) {
	return &quernv1.ClusterServiceRoutesResponse{Version: 1, ShardsTotal: 256}, nil
}

func (f *fake) Ready() error {
	if e := f.ready.Load(); e != nil {
		return e
	}
	return nil
}

// start runs a server with both listeners on free ports until the test ends.
func start(tb testing.TB, b server.Backend, change ...func(*server.Config)) *server.Server {
	tb.Helper()
	cfg := server.Config{
		Backend: b, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0",
		Logger: slog.New(slog.DiscardHandler), Metrics: metrics.NewSet(),
	}
	for _, c := range change {
		c(&cfg)
	}
	s := server.New(cfg)
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stop(tb, s) })
	return s
}

func stop(tb testing.TB, s *server.Server) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		tb.Error(err)
	}
}

// dial connects a client until the test ends.
func dial(tb testing.TB, s *server.Server) *client.Client {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), testTimeout)
	defer cancel()
	c, err := client.DialWith(ctx, s.GRPCAddr(), client.Options{Unary: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}
