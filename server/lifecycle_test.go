package server_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/server"
)

// stoppingSignal returns a channel that is closed when s has begun to stop.
func stoppingSignal(t *testing.T, s *server.Server) <-chan struct{} {
	t.Helper()
	watch, err := healthpb.NewHealthClient(plain(t, s.GRPCAddr())).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := watch.Recv(); err != nil || out.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("got %v %v", out, err)
	}
	begun := make(chan struct{})
	go func() {
		defer close(begun)
		_, _ = watch.Recv()
	}()
	return begun
}

func TestStopLetsCallsFinish(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	b := &fake{answer: func(context.Context, *handles.Operation) error {
		entered <- struct{}{}
		<-release
		return nil
	}}
	s := start(t, b)
	c := dial(t, s)
	begun := stoppingSignal(t, s)
	var running sync.WaitGroup
	running.Go(func() {
		if _, err := c.Counter("k").Add(t.Context(), 1); err != nil {
			t.Errorf("gRPC call under way: %v", err)
		}
	})
	<-entered
	running.Go(func() {
		if r := post(t, s, addPath, `{"key":"k"}`); r.code != 200 {
			t.Errorf("HTTP call under way: %d %s", r.code, r.body)
		}
	})
	<-entered
	running.Go(func() { stop(t, s) })
	<-begun
	if _, err := c.Counter("k").Add(t.Context(), 1); !errors.Is(err, failure.Stopping) ||
		failure.OutcomeOf(err) != failure.NotDone {
		t.Errorf("new gRPC call: %v", err)
	}
	if r := post(t, s, addPath, `{"key":"k"}`); r.code != 503 || r.header.Get("quern-reason") != "STOPPING" {
		t.Errorf("new HTTP call: %d %s", r.code, r.body)
	}
	if r := do(t, s, http.MethodGet, "/readyz", nil); r.code != 503 {
		t.Errorf("readyz: %d", r.code)
	}
	close(release)
	running.Wait()
	if n := b.calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
	_, err := c.Counter("k").Add(t.Context(), 1)
	if !errors.Is(err, client.ErrUnreachable) || failure.OutcomeOf(err) != failure.NotDone {
		t.Errorf("call afterwards: %v", err)
	}
	var e *failure.Error
	if !errors.As(err, &e) || !e.Retryable() {
		t.Errorf("call afterwards: %v", err)
	}
}

func TestStopCutsOffAtItsDeadline(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	b := &fake{answer: func(ctx context.Context, _ *handles.Operation) error {
		entered <- struct{}{}
		<-ctx.Done() // an answer that never comes
		return ctx.Err()
	}}
	s := server.New(server.Config{Backend: b, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0"})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := dial(t, s)
	var running sync.WaitGroup
	running.Go(func() {
		_, err := c.Counter("k").Add(t.Context(), 1)
		if !errors.Is(err, failure.OutcomeUnknown) || failure.OutcomeOf(err) != failure.Unknown {
			t.Errorf("got %v", err)
		}
	})
	running.Go(func() {
		if resp, err := http.Post("http://"+s.HTTPAddr()+addPath, "application/json", strings.NewReader(`{"key":"k"}`)); err == nil { //nolint:noctx // ends with the server
			_ = resp.Body.Close()
			t.Errorf("got %v", resp.Status)
		}
	})
	<-entered
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	first := s.Stop(ctx)
	if !errors.Is(first, context.DeadlineExceeded) || !strings.Contains(first.Error(), "2 calls") {
		t.Errorf("got %v", first)
	}
	running.Wait()
	if again := s.Stop(t.Context()); !errors.Is(again, first) {
		t.Errorf("got %v", again)
	}
}

func TestStopIsFastWithIdleConnections(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	if _, err := dial(t, s).Counter("k").Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{s.GRPCAddr(), s.HTTPAddr()} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	begin := time.Now()
	stop(t, s)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestStopManyTimes(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	var stops sync.WaitGroup
	for range 8 {
		stops.Go(func() { stop(t, s) })
	}
	stops.Wait()
	if err := s.Start(t.Context()); !errors.Is(err, server.ErrStopped) {
		t.Errorf("got %v", err)
	}
}

func TestStopBeforeStart(t *testing.T) {
	t.Parallel()
	s := server.New(server.Config{Backend: &fake{}, Listen: "127.0.0.1:0"})
	if err := s.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Start(t.Context()); !errors.Is(err, server.ErrStopped) || s.GRPCAddr() != "" {
		t.Errorf("got %v at %q", err, s.GRPCAddr())
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	if err := server.New(server.Config{}).Start(t.Context()); err == nil {
		t.Error("started without a backend")
	}
	busy, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	addr := busy.Addr().String()
	for flag, cfg := range map[string]server.Config{
		"--listen": {Listen: addr, HTTP: "127.0.0.1:0"},
		"--http":   {Listen: "127.0.0.1:0", HTTP: addr},
	} {
		cfg.Backend = &fake{}
		s := server.New(cfg)
		err := s.Start(t.Context())
		if err == nil || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), flag) {
			t.Errorf("got %v", err)
		}
		stop(t, s)
	}
	s := start(t, &fake{})
	if err := s.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
}

func TestOneListener(t *testing.T) {
	t.Parallel()
	none := start(t, &fake{}, func(c *server.Config) { c.Listen, c.HTTP = "", "" })
	if none.GRPCAddr() != "" || none.HTTPAddr() != "" {
		t.Errorf("got %q %q", none.GRPCAddr(), none.HTTPAddr())
	}
	one := start(t, &fake{}, func(c *server.Config) { c.Listen = "" })
	if one.GRPCAddr() != "" || post(t, one, addPath, `{"key":"k"}`).code != 200 {
		t.Error("HTTP alone does not serve")
	}
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{}, func(c *server.Config) { c.MaxConns = 1 })
	c := dial(t, s)
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	readToEnd(t, raw)
	if _, err := c.Counter("k").Add(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

func TestStartStopUnderLoad(t *testing.T) {
	t.Parallel()
	for range 25 {
		b := &fake{}
		s := start(t, b)
		c := dial(t, s)
		var (
			callers sync.WaitGroup
			mu      sync.Mutex
			acked   int64 // guarded by mu
			unknown int64 // guarded by mu
		)
		warm := make(chan struct{}, 8)
		for range cap(warm) {
			callers.Go(func() {
				for i := 0; ; i++ {
					if i == 3 {
						warm <- struct{}{}
					}
					_, err := c.Counter("k").Add(t.Context(), 1)
					mu.Lock()
					switch {
					case err == nil:
						acked++
					case failure.OutcomeOf(err) == failure.Unknown:
						unknown++
					}
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
		for range cap(warm) {
			<-warm
		}
		stop(t, s)
		callers.Wait()
		if unknown != 0 || b.values["k"] != acked {
			t.Fatalf("acknowledged %d, applied %d, unknown %d: a graceful stop must leave nothing open", acked, b.values["k"], unknown)
		}
	}
}
