package client_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testTimeout bounds everything that a test waits for.
const testTimeout = 20 * time.Second

// node is a gRPC server that answers Add as it is told.
type node struct {
	quernv1.UnimplementedCounterServiceServer
	add func(context.Context) (*quernv1.CounterServiceAddResponse, error)
}

func (n *node) Add(ctx context.Context, _ *quernv1.CounterServiceAddRequest) (*quernv1.CounterServiceAddResponse, error) {
	return n.add(ctx)
}

func value(v int64) func(context.Context) (*quernv1.CounterServiceAddResponse, error) {
	return func(context.Context) (*quernv1.CounterServiceAddResponse, error) {
		return &quernv1.CounterServiceAddResponse{Value: v}, nil
	}
}

// serve runs a node until the test ends or end is called.
func serve(t *testing.T, add func(context.Context) (*quernv1.CounterServiceAddResponse, error)) (addr string, end func()) {
	t.Helper()
	lis := listen(t)
	g := grpc.NewServer()
	quernv1.RegisterCounterServiceServer(g, &node{add: add})
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(lis) })
	end = func() { g.Stop(); serving.Wait() }
	t.Cleanup(end)
	return lis.Addr().String(), end
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

// deadAddr is an address at which nobody listens.
func deadAddr(t *testing.T) string {
	t.Helper()
	lis := listen(t)
	_ = lis.Close()
	return lis.Addr().String()
}

func dial(t *testing.T, target string) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	c, err := client.DialWith(ctx, target, client.Options{Unary: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestDialRefusesBadTargets(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"", "localhost", "a:1,", "a:1,b", "a:"} {
		if _, err := client.Dial(t.Context(), target); err == nil || !strings.Contains(err.Error(), "HOST:PORT") {
			t.Errorf("%q: got %v", target, err)
		}
	}
}

func TestDialWaitsAndSaysWhereItFailed(t *testing.T) {
	t.Parallel()
	one, two := deadAddr(t), deadAddr(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := client.Dial(ctx, one+", "+two)
	if !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{one, two, "refused"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in %v", want, err)
		}
	}
	canceled, cancelNow := context.WithCancel(t.Context())
	cancelNow()
	if _, err := client.Dial(canceled, one); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestDialToSomethingElse(t *testing.T) {
	t.Parallel()
	lis := listen(t)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = lis.Close(); accepting.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client.Dial(ctx, lis.Addr().String()); !errors.Is(err, client.ErrUnreachable) ||
		!strings.Contains(err.Error(), "gRPC port") {
		t.Errorf("got %v", err)
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	first, end := serve(t, value(1))
	second, _ := serve(t, value(2))
	c := dial(t, deadAddr(t)+","+first+","+second)
	if v, err := c.Counter("k").Add(t.Context(), 1); v != 1 || err != nil {
		t.Fatalf("got %d %v", v, err)
	}
	end()
	for {
		v, err := c.Counter("k").Add(t.Context(), 1)
		if err == nil {
			if v != 2 {
				t.Errorf("got %d", v)
			}
			return
		}
		if failure.OutcomeOf(err) == failure.NotDone && !errors.Is(err, client.ErrUnreachable) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestUnreachableIsNotDone(t *testing.T) {
	t.Parallel()
	addr, end := serve(t, value(1))
	c := dial(t, addr)
	end()
	for { // the client may not have noticed yet
		_, err := c.Counter("k").Add(t.Context(), 1)
		if !errors.Is(err, client.ErrUnreachable) {
			if failure.OutcomeOf(err) != failure.Unknown {
				t.Fatalf("got %v", err)
			}
			continue
		}
		var e *failure.Error
		if !errors.As(err, &e) || e.Outcome() != failure.NotDone || !e.Retryable() || !strings.Contains(err.Error(), addr) {
			t.Errorf("got %v", err)
		}
		break
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Counter("k").Add(t.Context(), 1); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("after Close: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{}, 1)
	addr, _ := serve(t, func(ctx context.Context) (*quernv1.CounterServiceAddResponse, error) {
		entered <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err() //nolint:wrapcheck // a server's answer
	})
	c := dial(t, addr)
	deadline, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Counter("k").Add(deadline, 1)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, failure.DeadlineExceeded) || failure.OutcomeOf(err) != failure.Unknown {
		t.Errorf("got %v", err)
	}
	<-entered
	canceled, cancelNow := context.WithCancel(t.Context())
	go func() {
		<-entered
		cancelNow()
	}()
	for range 2 { // the second time it has ended before the call
		_, err = c.Counter("k").Add(canceled, 1)
		if !errors.Is(err, context.Canceled) || !errors.Is(err, failure.Canceled) || failure.OutcomeOf(err) != failure.Unknown {
			t.Errorf("got %v", err)
		}
	}
}

func TestWhatANodeDidNotExplain(t *testing.T) {
	t.Parallel()
	newer, err := status.New(codes.FailedPrecondition, "text").WithDetails(
		&errdetails.ErrorInfo{Reason: "OF_A_NEWER_NODE", Domain: "quern", Metadata: map[string]string{"outcome": "not_done"}})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := status.New(codes.Unavailable, "text").WithDetails(&errdetails.ErrorInfo{Reason: "OVERLOADED", Domain: "proxy"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		answer error
		want   failure.Reason
	}{
		{newer.Err(), failure.ConditionFailed},
		{foreign.Err(), failure.OutcomeUnknown},
		{status.Error(codes.Unavailable, "of a proxy"), failure.OutcomeUnknown},
		{status.Error(codes.ResourceExhausted, "of a library"), failure.OutcomeUnknown},
		{status.Error(codes.Internal, "of a library"), failure.OutcomeUnknown},
		{status.Error(codes.Unimplemented, "of a library"), failure.UnknownMethod},
		{status.Error(codes.Canceled, "not by this caller"), failure.OutcomeUnknown},
		{errors.New("no status"), failure.OutcomeUnknown},
	} {
		addr, _ := serve(t, func(context.Context) (*quernv1.CounterServiceAddResponse, error) { return nil, test.answer })
		if _, err := dial(t, addr).Counter("k").Add(t.Context(), 1); !errors.Is(err, test.want) {
			t.Errorf("%v: got %v", test.answer, err)
		}
	}
}

func TestRequestsThatCannotBeSent(t *testing.T) {
	t.Parallel()
	addr, _ := serve(t, value(1))
	c := dial(t, addr)
	if _, err := c.Counter("\xff").Add(t.Context(), 1); !errors.Is(err, failure.InvalidKey) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Counter("k").Once("\xff").Add(t.Context(), 1); !errors.Is(err, failure.InvalidField) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Where(t.Context(), "\xff"); !errors.Is(err, failure.InvalidKey) {
		t.Errorf("got %v", err)
	}
	if v, err := c.Counter("k").Add(t.Context(), 1); v != 1 || err != nil {
		t.Errorf("got %d %v", v, err)
	}
}

func TestFailFast(t *testing.T) {
	t.Parallel()
	free, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	// The context never ends: only FailFast can.
	if _, err := client.DialWith(context.WithoutCancel(t.Context()), addr, client.Options{FailFast: true}); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}
