package client_test

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
)

// scripted is an HTTP/2 server that does one thing to each stream it gets.
type scripted struct {
	script func(n int, f *http2.Framer, stream uint32) (closeConn bool)

	mu      sync.Mutex
	streams int // guarded by mu: how many streams have carried a whole request
}

func (s *scripted) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams++
	return s.streams
}

// run serves until the test ends.
func (s *scripted) run(t *testing.T) string {
	t.Helper()
	lis := listen(t)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			running.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() { _ = lis.Close(); running.Wait() })
	return lis.Addr().String()
}

func (s *scripted) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	if _, err := c.Read(make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(c, c)
	_ = f.WriteSettings()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = f.WritePing(true, frame.Data)
			}
		case *http2.DataFrame:
			if frame.StreamEnded() && s.script(s.next(), f, frame.StreamID) {
				return
			}
		}
	}
}

// answer sends the reply {value: 1}.
func answer(f *http2.Framer, stream uint32) bool {
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, BlockFragment: block(":status", "200", "content-type", "application/grpc")})
	_ = f.WriteData(stream, false, []byte{0, 0, 0, 0, 2, 8, 1})
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, EndStream: true, BlockFragment: block("grpc-status", "0")})
	return false
}

func block(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// TestRepeats shows which calls gRPC sends again by itself: those that the
// server says it has not looked at, and no others.
func TestRepeats(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first   func(f *http2.Framer, stream uint32) bool
		streams int
		fails   bool
	}{
		"answered": {answer, 1, false},
		"refused stream": {func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			return false
		}, 2, false},
		"goaway below it": {func(f *http2.Framer, _ uint32) bool {
			_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
			return true
		}, 2, false},
		"goaway at it, then lost": {func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteGoAway(stream, http2.ErrCodeNo, nil)
			return true
		}, 1, true},
		"connection lost": {func(*http2.Framer, uint32) bool { return true }, 1, true},
		"stream cancelled": {func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteRSTStream(stream, http2.ErrCodeCancel)
			return false
		}, 1, true},
		"internal error": {func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteRSTStream(stream, http2.ErrCodeInternal)
			return false
		}, 1, true},
		"lost after the headers": {func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, BlockFragment: block(":status", "200", "content-type", "application/grpc")})
			return true
		}, 1, true},
		"unavailable without a reason": {func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, EndStream: true, BlockFragment: block(":status", "200", "content-type", "application/grpc", "grpc-status", "14")})
			return false
		}, 1, true},
		"bad gateway": {func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true, EndStream: true, BlockFragment: block(":status", "503")})
			return false
		}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &scripted{script: func(n int, f *http2.Framer, stream uint32) bool {
				if n == 1 {
					return test.first(f, stream)
				}
				return answer(f, stream)
			}}
			c := dial(t, s.run(t))
			v, err := c.Counter("k").Add(t.Context(), 1)
			if test.fails && (!errors.Is(err, failure.OutcomeUnknown) || errors.Is(err, client.ErrUnreachable)) || !test.fails && (err != nil || v != 1) {
				t.Errorf("got %d %v", v, err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.streams != test.streams {
				t.Errorf("%d streams", s.streams)
			}
		})
	}
}
