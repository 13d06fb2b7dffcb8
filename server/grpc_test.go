package server_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// syncBuffer is a buffer that a server may write while a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func textLogger(b *syncBuffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func TestClientRunsEveryCounterMethod(t *testing.T) {
	t.Parallel()
	seen := make(chan handles.Operation, 10)
	s := start(t, &fake{answer: func(_ context.Context, op *handles.Operation) error {
		seen <- *op
		return nil
	}})
	c := dial(t, s).Counter("k").Once("id")
	ctx := t.Context()
	for _, call := range []struct {
		method *handles.Method
		run    func() error
	}{
		{handles.CounterAdd, func() error { _, err := c.Add(ctx, 1); return err }},
		{handles.CounterGet, func() error { _, err := c.Get(ctx); return err }},
		{handles.CounterSet, func() error { _, err := c.Set(ctx, 1); return err }},
		{handles.CounterGetAndSet, func() error { _, err := c.GetAndSet(ctx, 1); return err }},
		{handles.CounterCompareAndSet, func() error { _, _, err := c.CompareAndSet(ctx, 0, 1); return err }},
		{handles.CounterReset, func() error { _, err := c.Reset(ctx); return err }},
		{handles.CounterExpire, func() error { _, err := c.Expire(ctx, time.Second); return err }},
	} {
		if err := call.run(); err != nil {
			t.Errorf("%s: %v", call.method.Name, err)
			continue
		}
		op, id := <-seen, ""
		if call.method.Write {
			id = "id"
		}
		if op.Method != call.method || op.Key != "k" || op.IdempotencyKey != id {
			t.Errorf("%s: got %+v", call.method.Name, op)
		}
	}
}

func TestGRPCHeadersOfSuccess(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	conn := plain(t, s.GRPCAddr())
	var header metadata.MD
	if _, err := quernv1.NewCounterServiceClient(conn).Add(t.Context(),
		&quernv1.CounterServiceAddRequest{Key: "k"}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	want := metadata.Pairs("quern-node", "node-1", "quern-shard", "7", "quern-epoch", "1152921504606846976")
	for name, value := range want {
		if got := header[name]; len(got) != 1 || got[0] != value[0] {
			t.Errorf("%s: got %v", name, got)
		}
	}
	c := dial(t, s)
	op := &handles.Operation{
		Method: handles.CounterGet, Key: "k",
		Request: &quernv1.CounterServiceGetRequest{Key: "k"}, Reply: &quernv1.CounterServiceGetResponse{},
	}
	if err := c.Invoke(t.Context(), op); err != nil || op.Origin != origin {
		t.Errorf("got %+v %v", op.Origin, err)
	}
	where, err := c.Where(t.Context(), "k")
	if err != nil || where.GetShard() != 7 {
		t.Errorf("got %v %v", where, err)
	}
	if _, err := c.Where(t.Context(), ""); !errors.Is(err, failure.InvalidKey) {
		t.Errorf("got %v", err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.GetStore() != "memory" {
		t.Errorf("got %v %v", st, err)
	}
}

func TestGRPCRefusals(t *testing.T) {
	t.Parallel()
	b := &fake{}
	s := start(t, b, func(c *server.Config) { c.MaxMessageBytes = 1000 })
	conn := plain(t, s.GRPCAddr())
	past, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, test := range []struct {
		name, method string
		ctx          context.Context //nolint:containedctx // a table
		in           any
		code         codes.Code
		reason       string
	}{
		{"too large", addPath, t.Context(), &quernv1.CounterServiceAddRequest{Key: strings.Repeat("k", 2000)}, codes.OutOfRange, "LIMIT"},
		{"bytes for a string", addPath, t.Context(), wrapperspb.Bytes([]byte{0xff}), codes.Internal, "INVALID_FIELD"},
		{"unknown method", "/quern.v1.CounterService/Subtract", t.Context(), &emptypb.Empty{}, codes.Unimplemented, "UNKNOWN_METHOD"},
		{"unknown service", "/quern.v1.Nothing/Add", t.Context(), &emptypb.Empty{}, codes.Unimplemented, "UNKNOWN_METHOD"},
		{"deadline in the past", addPath, past, &quernv1.CounterServiceAddRequest{Key: "k"}, codes.DeadlineExceeded, ""},
	} {
		err := conn.Invoke(test.ctx, test.method, test.in, &quernv1.CounterServiceAddResponse{})
		st := status.Convert(err)
		if st.Code() != test.code {
			t.Errorf("%s: got %v", test.name, err)
		}
		if e, ok := wire.FromStatus(st); test.reason != "" && (!ok || e.Reason.String() != test.reason || e.Outcome() != failure.NotDone) {
			t.Errorf("%s: got %v", test.name, e)
		}
	}
	if n := b.calls.Load(); n != 0 {
		t.Errorf("%d calls", n)
	}
	if _, err := quernv1.NewCounterServiceClient(conn).Add(t.Context(), &quernv1.CounterServiceAddRequest{Key: "k"}); err != nil {
		t.Errorf("the connection is of no use any more: %v", err)
	}
}

func TestOverload(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	b := &fake{answer: func(context.Context, *handles.Operation) error {
		entered <- struct{}{}
		<-release
		return nil
	}}
	s := start(t, b, func(c *server.Config) { c.MaxInFlight = 2 })
	c := dial(t, s)
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			if _, err := c.Counter("k").Add(t.Context(), 1); err != nil {
				t.Error(err)
			}
		})
		<-entered
	}
	_, err := c.Counter("k").Add(t.Context(), 1)
	var e *failure.Error
	if !errors.As(err, &e) || e.Reason != failure.Overloaded || e.Outcome() != failure.NotDone || e.RetryAfter <= 0 {
		t.Errorf("gRPC: got %v", err)
	}
	if r := post(t, s, addPath, `{"key":"k"}`); r.code != 429 || r.header.Get("quern-reason") != "OVERLOADED" {
		t.Errorf("HTTP: got %d %s", r.code, r.body)
	}
	close(release)
	running.Wait()
	if n := b.calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	b := &fake{}
	s := start(t, b)
	stub := healthpb.NewHealthClient(plain(t, s.GRPCAddr()))
	check := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		out, err := stub.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil || out.GetStatus() != want {
			t.Errorf("%q: got %v %v", service, out, err)
		}
	}
	check("", healthpb.HealthCheckResponse_SERVING)
	check("quern.v1.CounterService", healthpb.HealthCheckResponse_SERVING)
	check("quern.v1.MapService", healthpb.HealthCheckResponse_SERVING)
	watch, err := stub.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want healthpb.HealthCheckResponse_ServingStatus) {
		t.Helper()
		if out, err := watch.Recv(); err != nil || out.GetStatus() != want {
			t.Fatalf("watch: got %v %v", out, err)
		}
	}
	next(healthpb.HealthCheckResponse_SERVING)
	b.ready.Store(failure.New(failure.Moving, "not yet"))
	check("", healthpb.HealthCheckResponse_NOT_SERVING)
	next(healthpb.HealthCheckResponse_NOT_SERVING)
	b.ready.Store(nil)
	next(healthpb.HealthCheckResponse_SERVING)
	if _, err := stub.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
	stop(t, s)
	next(healthpb.HealthCheckResponse_NOT_SERVING)
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestReflection(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	stream, err := reflectionpb.NewServerReflectionClient(plain(t, s.GRPCAddr())).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(q *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(q); err != nil {
			t.Fatal(err)
		}
		out, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	var names []string
	for _, s := range ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}).GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	const want = "grpc.health.v1.Health grpc.reflection.v1.ServerReflection grpc.reflection.v1alpha.ServerReflection quern.v1.ClusterService quern.v1.CounterService quern.v1.GrainService quern.v1.LockService quern.v1.MapService quern.v1.TransactionService"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got %s", got)
	}
	file := ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "quern.v1.CounterService"},
	})
	if len(file.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("got %v", file)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
}
