package frameconn_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frameconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testTimeout = 20 * time.Second
	maxFrame    = 1 << 20
)

// pair returns the two ends of a connection on which nothing was said.
func pair(tb testing.TB) (client, node *net.TCPConn) {
	tb.Helper()
	lis, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer lis.Close()
	dialled, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", lis.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	accepted, err := lis.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = dialled.Close(), accepted.Close() })
	return dialled.(*net.TCPConn), accepted.(*net.TCPConn) //nolint:errcheck,forcetypeassert // they are
}

// begin makes a stream of a connection.
func begin(tb testing.TB, client, node net.Conn, cfg frameconn.Config) (near, far *frameconn.Conn) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), testTimeout)
	tb.Cleanup(cancel)
	answered := make(chan *frameconn.Conn, 1)
	go func() {
		f, err := answer(node, cfg)
		if err != nil {
			tb.Error(err)
		}
		answered <- f
	}()
	near, err := frameconn.Dial(ctx, client, testTimeout, frameconn.Config{MaxFrame: maxFrame})
	if far = <-answered; err != nil || far == nil {
		tb.Fatal(err)
	}
	tb.Cleanup(near.Close)
	tb.Cleanup(far.Close)
	return near, far
}

func answer(node net.Conn, cfg frameconn.Config) (*frameconn.Conn, error) {
	var first [1]byte
	if _, err := node.Read(first[:]); err != nil || first[0] != frameconn.First {
		return nil, errors.Join(err, errors.New("no preface"))
	}
	if err := frameconn.ReadPreface(node); err != nil {
		return nil, err
	}
	return frameconn.Answer(node, cfg)
}

func TestFramesArrive(t *testing.T) {
	t.Parallel()
	tcp := func(t *testing.T) (_, _ net.Conn) {
		t.Helper()
		a, b := pair(t)
		return a, b
	}
	for name, connect := range map[string]func(*testing.T) (_, _ net.Conn){
		"TCP": tcp, "a pipe": func(*testing.T) (_, _ net.Conn) { return net.Pipe() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := connect(t)
			near, far := begin(t, a, b, frameconn.Config{MaxFrame: maxFrame, WriteTimeout: testTimeout, KeepAlive: testTimeout})
			sizes := []int{0, 1, 100, 16<<10 - 6, 16<<10 - 5, 16<<10 - 4, 64<<10 - 5, 64 << 10, 300_000, maxFrame, 7, 0, 5}
			random := rand.NewChaCha8([32]byte{1})
			var frames [][]byte
			for _, n := range sizes {
				b := make([]byte, n)
				_, _ = random.Read(b)
				frames = append(frames, b)
			}
			for _, way := range [][2]*frameconn.Conn{{near, far}, {far, near}} {
				sent := make(chan error, 1)
				go func() {
					var err error
					for _, b := range frames {
						mine := bytes.Clone(b)
						err = errors.Join(err, way[0].Send(mine))
						clear(mine) // it is not kept
					}
					sent <- err
				}()
				for i, want := range frames {
					if got, err := way[1].Recv(); err != nil || !bytes.Equal(got, want) {
						t.Fatalf("frame %d of %d bytes: %d bytes, %v", i, len(want), len(got), err)
					}
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// header is a record's.
func header(kind byte, size uint32) []byte { return binary.BigEndian.AppendUint32([]byte{kind}, size) }

// TestNoMemoryBeforeTheBytes: neither a length that is refused nor one that is
// taken costs memory by itself.
func TestNoMemoryBeforeTheBytes(t *testing.T) { //nolint:paralleltest // measures the process
	const limit = 512 << 20
	for _, tt := range []struct {
		name string
		size uint32
		want failure.Reason
	}{{"refused", limit + 1, failure.Limit}, {"the largest number", 1<<32 - 1, failure.Limit}, {"taken", limit, 0}} {
		t.Run(tt.name, func(t *testing.T) { //nolint:paralleltest // as above
			raw, b := pair(t)
			near, far := begin(t, raw, b, frameconn.Config{MaxFrame: limit})
			defer near.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := raw.Write(append(header(1, tt.size), make([]byte, 1000)...)); err != nil {
				t.Fatal(err)
			}
			_ = raw.CloseWrite()
			_, err := far.Recv()
			runtime.ReadMemStats(&after)
			if e, ok := errors.AsType[*failure.Error](err); tt.want != 0 && (!ok || e.Reason != tt.want) ||
				tt.want == 0 && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("got %v", err)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
				t.Errorf("%d bytes were taken for 1000", grown)
			}
		})
	}
}

// TestGarbageEndsTheStream with a reason.
func TestGarbageEndsTheStream(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string][]byte{
		"kind 0":               header(0, 0),
		"kind 255":             append(header(255, 3), "abc"...),
		"an end of a client":   header(2, 0),
		"a ping of a client":   header(3, 0),
		"a pong that is large": append(header(4, 1), 'x'),
		"a pong for no ping":   header(4, 0),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			_, far := begin(t, a, b, frameconn.Config{MaxFrame: maxFrame, KeepAlive: testTimeout})
			if _, err := a.Write(raw); err != nil {
				t.Fatal(err)
			}
			if _, err := far.Recv(); !errors.Is(err, failure.InvalidField) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEndOfTheBytes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		bytes []byte
		want  error
	}{
		"between records": {append(header(1, 1), 'x'), frameconn.ErrLeft},
		"in a header":     {append(append(header(1, 1), 'x'), 1, 0), io.ErrUnexpectedEOF},
		"in a frame":      {append(append(header(1, 1), 'x'), header(1, 2)...), io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			_, far := begin(t, a, b, frameconn.Config{MaxFrame: maxFrame})
			if _, err := a.Write(tt.bytes); err != nil {
				t.Fatal(err)
			}
			_ = a.CloseWrite()
			if got, err := far.Recv(); string(got) != "x" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			if _, err := far.Recv(); !errors.Is(err, tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestEndComesBehindTheAnswers, whatever the client goes on to send.
func TestEndComesBehindTheAnswers(t *testing.T) {
	t.Parallel()
	for _, why := range []*failure.Error{nil, failure.New(failure.Stopping, "it ends"), failure.New(failure.Limit, "not text: \xff")} {
		a, b := pair(t)
		near, far := begin(t, a, b, frameconn.Config{MaxFrame: maxFrame})
		answers := bytes.Repeat([]byte("a"), 100_000)
		go func() {
			_ = far.Send(answers)
			far.End(why)
		}()
		for near.Send(make([]byte, 1000)) == nil { // until nobody takes it
			if near.Context().Err() != nil || testing.Short() {
				break
			}
			if got, err := near.Recv(); err == nil {
				if !bytes.Equal(got, answers) {
					t.Errorf("%d bytes", len(got))
				}
				continue
			} else if !errors.Is(err, frameconn.ErrEnded) || why != nil && !errors.Is(err, why.Reason) {
				t.Errorf("ended with %v, not %v", err, why)
			}
			near.Close()
		}
	}
}

func TestSilentClientIsPingedAndCutOff(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	near, far := begin(t, a, b, frameconn.Config{MaxFrame: maxFrame, KeepAlive: 20 * time.Millisecond})
	heard := make(chan error, 1)
	go func() {
		_, err := near.Recv() // answers pings
		heard <- err
	}()
	lasts := time.AfterFunc(300*time.Millisecond, func() { _ = near.Send([]byte("x")) })
	defer lasts.Stop()
	if got, err := far.Recv(); string(got) != "x" || err != nil {
		t.Errorf("a client that answers pings: %q, %v", got, err)
	}
	near.Close()
	if err := <-heard; err == nil {
		t.Error("a closed stream goes on")
	}
	a, b = pair(t)
	_, far = begin(t, a, b, frameconn.Config{MaxFrame: maxFrame, KeepAlive: 20 * time.Millisecond})
	if _, err := far.Recv(); err == nil || errors.Is(err, io.EOF) { // nobody reads at the other end
		t.Errorf("got %v", err)
	}
}

func TestWhoDoesNotReadIsCutOff(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	_, far := begin(t, a, b, frameconn.Config{MaxFrame: maxFrame, WriteTimeout: 50 * time.Millisecond})
	var err error
	for range 1000 {
		if err = far.Send(make([]byte, 500_000)); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if again := far.Send(nil); !errors.Is(again, os.ErrDeadlineExceeded) {
		t.Errorf("then %v", again)
	}
}

// TestNotSpoken: what answers otherwise, or not at all, is told apart.
func TestNotSpoken(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]string{
		"HTTP/1":             "HTTP/1.1 400 Bad Request\r\n\r\n",
		"HTTP/2":             "\x00\x00\x12\x04\x00\x00\x00\x00\x00",
		"the end":            "",
		"another version":    "\x89QUERN\r\n\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"half a preface":     "\x89QUERN",
		"another magic":      "\x89QUIRK\r\n\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"what is not zero":   "\x89QUERN\r\n\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"more than is known": "\x89QUERN\r\n\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pair(t)
			go func() {
				_, _ = io.WriteString(b, says)
				_ = b.CloseWrite()
			}()
			_, err := frameconn.Dial(t.Context(), a, testTimeout, frameconn.Config{MaxFrame: maxFrame})
			if !errors.Is(err, frameconn.ErrNotSpoken) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		a, _ := pair(t)
		_, err := frameconn.Dial(t.Context(), a, 20*time.Millisecond, frameconn.Config{MaxFrame: maxFrame})
		if !errors.Is(err, frameconn.ErrNotSpoken) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a context that ends", func(t *testing.T) {
		t.Parallel()
		a, _ := pair(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := frameconn.Dial(ctx, a, testTimeout, frameconn.Config{MaxFrame: maxFrame}); err == nil {
			t.Error("a stream with nobody")
		}
	})
}

// TestNoGarbage: frames that come and go leave nothing behind.
func TestNoGarbage(t *testing.T) { //nolint:paralleltest // counts allocations
	if raced {
		t.Skip("pools drop what they hold under the race detector")
	}
	a, b := pair(t)
	near, far := begin(t, a, b, frameconn.Config{MaxFrame: maxFrame, WriteTimeout: testTimeout, KeepAlive: testTimeout})
	payload := make([]byte, 500)
	n := testing.AllocsPerRun(1000, func() {
		if err := near.Send(payload); err != nil {
			t.Fatal(err)
		}
		got, err := far.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if err := far.Send(got); err != nil {
			t.Fatal(err)
		}
		if _, err := near.Recv(); err != nil {
			t.Fatal(err)
		}
	})
	if n >= 1 {
		t.Errorf("%.1f allocations for a frame there and back", n)
	}
}

func BenchmarkThereAndBack(b *testing.B) {
	x, y := pair(b)
	near, far := begin(b, x, y, frameconn.Config{MaxFrame: maxFrame, WriteTimeout: testTimeout, KeepAlive: testTimeout})
	go func() {
		for {
			got, err := far.Recv()
			if err != nil || far.Send(got) != nil {
				return
			}
		}
	}()
	payload := make([]byte, 500)
	b.ReportAllocs()
	for b.Loop() {
		if err := near.Send(payload); err != nil {
			b.Fatal(err)
		}
		if _, err := near.Recv(); err != nil {
			b.Fatal(err)
		}
	}
}
