package server_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/messages/quern/v1/quernv1connect"
	"github.com/quern-io/quern/server"
)

func newWatched() *fake {
	return &fake{events: make(chan *handles.Event), ends: make(chan error)}
}

// received is the next answer of a watch, or the reason of its end.
type nextEvent func() (*quernv1.CounterServiceWatchResponse, string)

// watchWays are all transports that can watch. Each returns how to read, and the
// header that says who answers.
var watchWays = map[string]func(t *testing.T, ctx context.Context, s *server.Server, key string) (nextEvent, func() string){
	"gRPC": func(t *testing.T, ctx context.Context, s *server.Server, key string) (nextEvent, func() string) {
		t.Helper()
		stream, err := quernv1.NewCounterServiceClient(plain(t, s.GRPCAddr())).Watch(ctx, &quernv1.CounterServiceWatchRequest{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		return func() (*quernv1.CounterServiceWatchResponse, string) {
				m, err := stream.Recv()
				if err == nil {
					return m, ""
				}
				for _, d := range status.Convert(err).Details() {
					if info, ok := d.(*errdetails.ErrorInfo); ok {
						return nil, info.GetReason()
					}
				}
				return nil, err.Error()
			}, func() string {
				header, _ := stream.Header()
				return strings.Join(header["quern-node"], "")
			}
	},
	"Connect JSON":  connectWay(connect.WithProtoJSON()),
	"Connect proto": connectWay(),
	"gRPC-Web":      connectWay(connect.WithGRPCWeb()),
	"lines of JSON": func(t *testing.T, ctx context.Context, s *server.Server, key string) (nextEvent, func() string) {
		t.Helper()
		header, body := lines(ctx, t, http.DefaultClient, s, key)
		return body, func() string { return header.Get("Quern-Node") }
	},
	"lines of JSON over HTTP/2": func(t *testing.T, ctx context.Context, s *server.Server, key string) (nextEvent, func() string) {
		t.Helper()
		header, body := lines(ctx, t, h2c(t), s, key)
		return body, func() string { return header.Get("Quern-Node") }
	},
}

func connectWay(options ...connect.ClientOption) func(t *testing.T, ctx context.Context, s *server.Server, key string) (nextEvent, func() string) {
	return func(t *testing.T, ctx context.Context, s *server.Server, key string) (nextEvent, func() string) {
		t.Helper()
		stream, err := quernv1connect.NewCounterServiceClient(h2c(t), "http://"+s.HTTPAddr(), options...).
			Watch(ctx, &quernv1.CounterServiceWatchRequest{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = stream.Close() })
		return func() (*quernv1.CounterServiceWatchResponse, string) {
			if stream.Receive() {
				return stream.Msg(), ""
			}
			if c := (*connect.Error)(nil); errors.As(stream.Err(), &c) {
				for _, d := range c.Details() {
					if m, err := d.Value(); err == nil {
						if info, ok := m.(*errdetails.ErrorInfo); ok {
							return nil, info.GetReason()
						}
					}
				}
			}
			return nil, "none"
		}, func() string { return stream.ResponseHeader().Get("Quern-Node") }
	}
}

// lines watches as curl does.
func lines(ctx context.Context, t *testing.T, c *http.Client, s *server.Server, key string) (http.Header, nextEvent) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.HTTPAddr()+"/quern.v1.CounterService/Watch", strings.NewReader(`{"key":"`+key+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = resp.Body.Close()
		c.CloseIdleConnections()
	})
	in := bufio.NewReader(resp.Body)
	return resp.Header, func() (*quernv1.CounterServiceWatchResponse, string) {
		if resp.StatusCode != http.StatusOK {
			return nil, resp.Header.Get("Quern-Reason")
		}
		line, err := in.ReadBytes('\n')
		m := new(quernv1.CounterServiceWatchResponse)
		if err != nil || protojson.Unmarshal(line, m) != nil {
			_, reason, _ := strings.Cut(string(line), `"reason":"`)
			reason, _, _ = strings.Cut(reason, `"`)
			return nil, reason
		}
		return m, ""
	}
}

func (f *fake) tell(t *testing.T, sequence uint64, value int64) {
	t.Helper()
	patience := time.NewTimer(testTimeout)
	defer patience.Stop()
	select {
	case f.events <- counterEvent(sequence, value):
	case <-patience.C:
		t.Fatal("nobody watches")
	}
}

func TestWatchOnEveryTransport(t *testing.T) {
	t.Parallel()
	for name, way := range watchWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const readTimeout = 100 * time.Millisecond
			f := newWatched()
			// What bounds a request's arrival does not bound a watch.
			s := start(t, f, func(c *server.Config) { c.ReadTimeout = readTimeout })
			next, node := way(t, t.Context(), s, "k")
			if m, reason := next(); m.GetSequence() != 1 || m.GetEvent() == nil {
				t.Fatalf("%v, %s", m, reason)
			}
			if node() != origin.Node {
				t.Errorf("answered by %q", node())
			}
			sequence := uint64(2)
			for began := time.Now(); time.Since(began) < 3*readTimeout; sequence++ {
				f.tell(t, sequence, 7)
				if m, reason := next(); m.GetSequence() != sequence || m.GetEvent().GetValue() != 7 || m.GetEpoch() != origin.Epoch {
					t.Fatalf("%v, %s", m, reason)
				}
			}
			f.events <- counterEvent(sequence, 7).Heartbeat()
			if m, reason := next(); m.GetSequence() != sequence || m.GetEvent() != nil {
				t.Errorf("heartbeat: %v, %s", m, reason)
			}
			f.ends <- failure.New(failure.NotOwner, "it has moved")
			if m, reason := next(); reason != "NOT_OWNER" {
				t.Errorf("the end: %v, %q", m, reason)
			}
			next, _ = way(t, t.Context(), s, "")
			if m, reason := next(); reason != "INVALID_KEY" {
				t.Errorf("a bad key: %v, %q", m, reason)
			}
		})
	}
}

// TestStopEndsWatches: who watches does not hold up the node's end.
func TestStopEndsWatches(t *testing.T) {
	t.Parallel()
	for name, way := range watchWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, newWatched())
			next, _ := way(t, t.Context(), s, "k")
			next()
			var ending sync.WaitGroup
			ending.Go(func() { stop(t, s) })
			if m, reason := next(); reason != "STOPPING" {
				t.Errorf("%v, %q", m, reason)
			}
			ending.Wait()
		})
	}
}

// TestWatchesAreBounded: on the node, and on each connection; who leaves makes
// room at once.
func TestWatchesAreBounded(t *testing.T) {
	t.Parallel()
	f := newWatched()
	s := start(t, f, func(c *server.Config) { c.MaxWatches, c.MaxWatchesPerConn = 3, 2 })
	conns := []quernv1.CounterServiceClient{
		quernv1.NewCounterServiceClient(plain(t, s.GRPCAddr())), quernv1.NewCounterServiceClient(plain(t, s.GRPCAddr())),
	}
	watch := func(ctx context.Context, conn int) error {
		stream, err := conns[conn].Watch(ctx, &quernv1.CounterServiceWatchRequest{Key: "k"})
		if err == nil {
			_, err = stream.Recv()
		}
		return err //nolint:wrapcheck // looked at
	}
	ctx, leave := context.WithCancel(t.Context())
	for i, c := range []struct {
		ctx  context.Context //nolint:containedctx // of a table
		conn int
		want string
	}{
		{ctx, 0, ""},
		{t.Context(), 0, ""},
		{t.Context(), 0, "this connection"},
		{t.Context(), 1, ""},
		{t.Context(), 1, "this node"},
	} {
		if err := watch(c.ctx, c.conn); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Fatalf("watch %d: %v", i, err)
		}
	}
	header, next := lines(t.Context(), t, http.DefaultClient, s, "k")
	if _, reason := next(); reason != "OVERLOADED" || header.Get("Content-Type") != "application/json" {
		t.Errorf("over HTTP: %q, %v", reason, header)
	}
	leave()
	for watch(t.Context(), 1) != nil { //nolint:revive // until the node has seen it leave
	}
}

// TestUnreadWatch: a client that reads nothing is not told more than its windows
// hold, and holds up nobody's end.
func TestUnreadWatch(t *testing.T) {
	t.Parallel()
	f := newWatched()
	s := start(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := quernv1.NewCounterServiceClient(plain(t, s.GRPCAddr())).Watch(ctx, &quernv1.CounterServiceWatchRequest{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	told, silence := 0, time.NewTimer(0)
	defer silence.Stop()
	for blocked := false; !blocked; told++ {
		silence.Reset(time.Second)
		select {
		case f.events <- counterEvent(uint64(told+2), 1<<60):
		case <-silence.C:
			blocked = true
		}
		if told > 1<<20 {
			t.Fatal("it is told without end")
		}
	}
	t.Logf("%d events were sent", told)
}

// TestClientWatches goes on over ends and refusals of the node.
func TestClientWatches(t *testing.T) {
	t.Parallel()
	f := newWatched()
	c := dial(t, start(t, f))
	type got struct {
		e   handles.CounterEvent
		err error
	}
	events := make(chan got)
	ctx, cancel := context.WithCancel(t.Context())
	var reader sync.WaitGroup
	reader.Go(func() {
		for e, err := range c.Counter("k").Watch(ctx) {
			events <- got{e, err}
		}
	})
	if g := <-events; g.err != nil || g.e.Place != (handles.Place{Epoch: origin.Epoch, Sequence: 1}) {
		t.Fatal(g)
	}
	f.tell(t, 5, 50)
	if g := <-events; g.e.Value != 50 || !g.e.Found {
		t.Error(g)
	}
	for _, reason := range []failure.Reason{failure.NotOwner, failure.Stopping, failure.Overloaded, failure.StoreUnavailable} {
		f.ends <- failure.New(reason, "it ends")
	}
	f.tell(t, 4, 40) // as the first event of each of them, it comes before what was seen
	f.tell(t, 6, 60)
	if g := <-events; g.e.Value != 60 {
		t.Errorf("an event that is not higher was told: %+v", g)
	}
	// A reader that takes its time finds the last event, and not what has
	// gathered meanwhile.
	for sequence := uint64(7); sequence <= 107; sequence++ {
		f.tell(t, sequence, int64(sequence))
	}
	f.events <- counterEvent(107, 0).Heartbeat() // when it was taken, all before it was sent
	steps := 0
	for last := int64(0); last < 107; steps++ {
		g := <-events
		if last = g.e.Value; g.err != nil {
			t.Fatal(g.err)
		}
	}
	if steps > 50 {
		t.Errorf("%d events were queued for a reader that did not read", steps)
	}
	cancel()
	if g := <-events; !errors.Is(g.err, context.Canceled) || !errors.Is(g.err, failure.Canceled) {
		t.Errorf("the end: %v", g.err)
	}
	reader.Wait()
}

// TestClientWatchThatIsRefused is told why, rather than to wait.
func TestClientWatchThatIsRefused(t *testing.T) {
	t.Parallel()
	f := newWatched()
	s := start(t, f, func(c *server.Config) { c.MaxWatches = 1 })
	taken, _ := watchWays["gRPC"](t, t.Context(), s, "k")
	taken()
	c := dial(t, s)
	for key, want := range map[string]failure.Reason{"k": failure.Overloaded, "\xff": failure.InvalidKey} {
		n := 0
		for _, err := range c.Counter(key).Watch(t.Context()) {
			if n++; !errors.Is(err, want) {
				t.Errorf("%q: %v", key, err)
			}
		}
		if n != 1 {
			t.Errorf("%q: %d events", key, n)
		}
	}
	if err := c.Watch(t.Context(), &handles.Watch{Method: handles.LockWatch, Key: "l", Each: func(*handles.Event) error { return io.EOF }}); !errors.Is(err, failure.Overloaded) {
		t.Error(err)
	}
	closed, err := client.DialWith(t.Context(), s.GRPCAddr(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for _, err := range closed.Counter("k").Watch(t.Context()) {
		if err == nil {
			t.Error("a closed client watches")
		}
	}
}
