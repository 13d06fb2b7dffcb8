package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/server"
)

// stranger opens a connection until the test ends; nothing on it waits for
// longer than a test does.
func stranger(tb testing.TB, addr string) net.Conn {
	tb.Helper()
	c, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		tb.Fatal(err)
	}
	return c
}

// requestHeaders are those of a gRPC call.
func requestHeaders(tb testing.TB, path string) []byte {
	tb.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSizeLimit(0) // so that they can be sent again as they are
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", path},
		{":authority", "localhost"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		if err := e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			tb.Fatal(err)
		}
	}
	return b.Bytes()
}

// TestUnreadReply is a client that asks for much, reads nothing, and goes on
// to send: the server must not wait for it.
func TestUnreadReply(t *testing.T) {
	t.Parallel()
	const path = "/quern.v1.ClusterService/Status"
	s := start(t, &large{store: strings.Repeat("x", 16<<20)}, func(c *server.Config) {
		c.WriteTimeout, c.KeepAlive, c.ReadTimeout = 200*time.Millisecond, -1, -1
	})
	http1 := []byte("POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
	var http2Call bytes.Buffer
	http2Call.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&http2Call, nil)
	if err := errors.Join(
		f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}),
		f.WriteWindowUpdate(0, 1<<30),
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: requestHeaders(t, path)}),
		f.WriteData(1, true, make([]byte, 5)),
	); err != nil {
		t.Fatal(err)
	}
	var more bytes.Buffer // windows grow by a byte: a frame that is never wrong
	for f = http2.NewFramer(&more, nil); more.Len() < 64<<10; {
		if err := f.WriteWindowUpdate(0, 1); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name, addr   string
		begin, after []byte
	}{
		{"HTTP/1.1", s.HTTPAddr(), http1, http1},
		{"HTTP/2", s.HTTPAddr(), http2Call.Bytes(), more.Bytes()},
		{"gRPC", s.GRPCAddr(), http2Call.Bytes(), more.Bytes()},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			raw := stranger(t, test.addr)
			_, err := raw.Write(test.begin)
			for err == nil {
				_, err = raw.Write(test.after)
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the server kept the connection")
			}
		})
	}
}

// TestStreamOutlivesTheWriteTimeout shows that the bound is on a write, not on
// a stream that has nothing to say for longer.
func TestStreamOutlivesTheWriteTimeout(t *testing.T) {
	t.Parallel()
	b := &fake{}
	s := start(t, b, func(c *server.Config) { c.WriteTimeout = 20 * time.Millisecond })
	watch, err := healthpb.NewHealthClient(plain(t, s.GRPCAddr())).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := watch.Recv(); err != nil || out.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("got %v %v", out, err)
	}
	<-time.NewTimer(100 * time.Millisecond).C
	b.ready.Store(failure.New(failure.Moving, "shards are on their way"))
	if out, err := watch.Recv(); err != nil || out.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("got %v %v", out, err)
	}
}

// TestDribble is a client that sends something all the time, but never all of
// what a connection must begin with.
func TestDribble(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{}, func(c *server.Config) { c.HandshakeTimeout = 100 * time.Millisecond })
	for name, test := range map[string]struct{ addr, bytes string }{
		"preface": {s.GRPCAddr(), http2.ClientPreface},
		"frames":  {s.GRPCAddr(), framesPreface},
		"header":  {s.HTTPAddr(), "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 4096)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw := stranger(t, test.addr)
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for i := range len(test.bytes) {
				if _, err := io.WriteString(raw, test.bytes[i:i+1]); err != nil {
					return // cut
				}
				<-tick.C
			}
			t.Error("the server kept the connection")
		})
	}
}

// TestReset is a client that vanishes with a reset instead of an end.
func TestReset(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	for range 20 {
		raw, err := greet(t, s.GRPCAddr())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(raw.(*net.TCPConn).SetLinger(0), raw.Close()); err != nil { //nolint:errcheck,forcetypeassert // it is one
			t.Fatal(err)
		}
	}
	if _, err := dial(t, s).Counter("k").Add(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

// What a flood is made of, and what it may take.
const (
	floodFrames  = 100_000
	floodStreams = 100 // Config.MaxStreams
	floodBytes   = 64 << 20
)

// flooded is a backend whose calls on one key last until the end.
type flooded struct {
	fake
	release    chan struct{}
	held, most atomic.Int64
}

func (f *flooded) Invoke(ctx context.Context, op *handles.Operation) error {
	if op.Key != "" {
		return f.fake.Invoke(ctx, op)
	}
	n := f.held.Add(1)
	defer f.held.Add(-1)
	for most := f.most.Load(); n > most; most = f.most.Load() {
		if f.most.CompareAndSwap(most, n) {
			break
		}
	}
	<-f.release
	return nil
}

// TestFloods sends more small frames than any client needs. The server may
// hold the connection back or close it; it must not pay with memory, nor with
// the calls of others.
func TestFloods(t *testing.T) { //nolint:paralleltest // measures the process
	headers := requestHeaders(t, addPath)
	for _, flood := range []struct {
		name  string
		frame func(f *http2.Framer, i uint32) error
	}{
		{"ping", func(f *http2.Framer, _ uint32) error { return f.WritePing(false, [8]byte{}) }},
		{"settings", func(f *http2.Framer, _ uint32) error { return f.WriteSettings() }},
		{"window", func(f *http2.Framer, _ uint32) error { return f.WriteWindowUpdate(0, 1) }},
		{"empty data", func(f *http2.Framer, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: headers})
			}
			return f.WriteData(1, false, nil)
		}},
		{"rapid reset", func(f *http2.Framer, i uint32) error { // CVE-2023-44487
			return errors.Join(
				f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndHeaders: true, BlockFragment: headers}),
				f.WriteData(2*i+1, true, make([]byte, 5)),
				f.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
		}},
		{"late reset", func(f *http2.Framer, i uint32) error { // of a call that has begun
			err := errors.Join(
				f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndHeaders: true, BlockFragment: headers}),
				f.WriteData(2*i+1, true, make([]byte, 5)))
			if late := uint32(floodStreams / 2); i >= late {
				err = errors.Join(err, f.WriteRSTStream(2*(i-late)+1, http2.ErrCodeCancel))
			}
			return err
		}},
	} {
		for _, unread := range []bool{false, true} {
			t.Run(flood.name+map[bool]string{true: ", replies unread"}[unread], func(t *testing.T) {
				b := &flooded{release: make(chan struct{})}
				s := start(t, b, func(c *server.Config) { c.MaxStreams = floodStreams })
				t.Cleanup(func() { close(b.release) }) // before the server's end
				for _, addr := range []string{s.GRPCAddr(), s.HTTPAddr()} {
					floodOne(t, s, addr, unread, flood.frame)
				}
				most := b.most.Load()
				t.Logf("at most %d of its calls at a time", most)
				if most > 2*floodStreams {
					t.Errorf("%d calls at a time from two connections of %d streams", most, floodStreams)
				}
			})
		}
	}
}

// floodOne floods one listener while another client calls.
func floodOne(t *testing.T, s *server.Server, addr string, unread bool, frame func(*http2.Framer, uint32) error) {
	t.Helper()
	raw := stranger(t, addr)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer raw.Close()
	if !unread {
		reading.Go(func() { _, _ = io.Copy(io.Discard, raw) })
	}
	c := dial(t, s)
	before := usage()
	var batch bytes.Buffer
	batch.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&batch, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	peak, sent := 0, 0
	for ; sent < floodFrames; sent++ {
		if err := frame(f, uint32(sent)); err != nil {
			t.Fatal(err)
		}
		if batch.Len() < 64<<10 {
			continue
		}
		_ = raw.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := raw.Write(batch.Bytes()); err != nil {
			break // closed, or held back
		}
		batch.Reset()
		if _, err := c.Counter("k").Add(t.Context(), 1); err != nil {
			t.Fatalf("another client: %v", err)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, int(m.HeapAlloc+m.StackInuse))
	}
	if _, err := c.Counter("k").Add(t.Context(), 1); err != nil {
		t.Errorf("another client: %v", err)
	}
	after := usage()
	t.Logf("%s: %d frames, %d KiB at the peak, %d KiB kept", addr, sent,
		(peak-before.heap-before.stack)>>10, (after.heap+after.stack-before.heap-before.stack)>>10)
	if took := peak - before.heap - before.stack; took > floodBytes && !raced {
		t.Errorf("the flood took %d bytes, at most %d", took, floodBytes)
	}
}
