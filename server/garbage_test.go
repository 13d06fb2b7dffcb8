package server_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/quern-io/quern/server"
)

// garbage is what strangers send.
func garbage(tb testing.TB) map[string][]byte {
	tb.Helper()
	random := make([]byte, 64<<10)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(random)
	frames := func(write func(*http2.Framer) error) []byte {
		var b bytes.Buffer
		b.WriteString(http2.ClientPreface)
		f := http2.NewFramer(&b, nil)
		if err := errors.Join(f.WriteSettings(), write(f)); err != nil {
			tb.Fatal(err)
		}
		return b.Bytes()
	}
	headers := func(f *http2.Framer) error {
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: addHeaders(tb)})
	}
	message := func(size uint32, bytes string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0}, size), bytes...)
	}
	return map[string][]byte{
		"nothing":         nil,
		"random":          random,
		"zeroes":          make([]byte, 1024),
		"half a preface":  []byte(http2.ClientPreface[:10]),
		"random after it": append([]byte(http2.ClientPreface), random[:1000]...),
		"frame of 16 MB":  append([]byte(http2.ClientPreface), 0xff, 0xff, 0xff, 0x0, 0, 0, 0, 0, 1),
		"half a frame":    append([]byte(http2.ClientPreface), 0, 0, 10, 4, 0, 0, 0, 0, 0, 1, 2),
		"headers only":    frames(headers),
		"broken headers":  frames(func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameHeaders, 4, 1, random[:50]) }),
		"endless headers": frames(func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameHeaders, 0, 1, addHeaders(tb)) }),
		"half a message": frames(func(f *http2.Framer) error {
			return errors.Join(headers(f), f.WriteData(1, false, message(10, "\n\x01")))
		}),
		"half, ended": frames(func(f *http2.Framer) error {
			return errors.Join(headers(f), f.WriteData(1, true, message(10, "\n\x01")))
		}),
		"message of 4 GB": frames(func(f *http2.Framer) error {
			return errors.Join(headers(f), f.WriteData(1, false, message(1<<32-1, "\n")))
		}),
		"not protobuf": frames(func(f *http2.Framer) error {
			return errors.Join(headers(f), f.WriteData(1, true, message(3, "\xff\xff\xff")))
		}),
		"compressed unknown": frames(func(f *http2.Framer) error {
			return errors.Join(headers(f), f.WriteData(1, true, []byte{1, 0, 0, 0, 1, 0}))
		}),
		"data on no stream":           frames(func(f *http2.Framer) error { return f.WriteData(7, true, message(0, "")) }),
		"half of the frames' preface": []byte(framesPreface[:10]),
		"frames, version 2":           []byte(framesPreface[:8] + "\x02" + framesPreface[9:]),
		"frames, then random":         append([]byte(framesPreface), random...),
		"frames, one of 4 GB":         []byte(framesPreface + "\x01\xff\xff\xff\xff"),
		"frames, half of one":         []byte(framesPreface + "\x01\x00\x00\x00\x0a\x22\x05"),
		"frames, not protobuf":        []byte(framesPreface + "\x01\x00\x00\x00\x03\xff\xff\xff"),
		"half a request":              []byte("POST /quern.v1.CounterService/Add HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"key\":"),
		"half a header":               []byte("POST /quern.v1.CounterService/Add HTTP/1.1\r\nHost:"),
		"bad chunk":                   []byte("POST /quern.v1.CounterService/Add HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}"),
		"header of 1 MB":              append([]byte("GET / HTTP/1.1\r\nX: "), bytes.Repeat([]byte("x"), 1<<20)...),
	}
}

// addHeaders are the request headers of Add.
func addHeaders(tb testing.TB) []byte {
	tb.Helper()
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":path", addPath},
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

func TestGarbage(t *testing.T) {
	t.Parallel()
	b := &fake{}
	s := start(t, b)
	c := dial(t, s)
	for name, bytes := range garbage(t) {
		for _, addr := range []string{s.GRPCAddr(), s.HTTPAddr()} {
			t.Run(name, func(t *testing.T) {
				raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = raw.Write(bytes)             // the server may have closed it already
				_ = raw.(*net.TCPConn).CloseWrite() //nolint:errcheck,forcetypeassert // as above
				readToEnd(t, raw)
				_ = raw.Close()
			})
		}
	}
	if n := b.calls.Load(); n != 0 {
		t.Errorf("the backend saw %d calls", n)
	}
	if _, err := c.Counter("k").Add(t.Context(), 1); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	if r := post(t, s, addPath, `{"key":"k"}`); r.code != 200 {
		t.Errorf("HTTP: %d", r.code)
	}
}

func TestSlowClients(t *testing.T) {
	t.Parallel()
	b := &fake{}
	s := start(t, b, func(c *server.Config) {
		c.HandshakeTimeout, c.ReadTimeout, c.IdleTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	})
	all := garbage(t)
	for _, test := range []struct {
		name, addr string
		bytes      []byte
	}{
		{"no preface", s.GRPCAddr(), nil},
		{"half a preface", s.GRPCAddr(), all["half a preface"]},
		{"half of the frames' preface", s.GRPCAddr(), all["half of the frames' preface"]},
		{"no request", s.HTTPAddr(), nil},
		{"half a header", s.HTTPAddr(), all["half a header"]},
		{"half a body", s.HTTPAddr(), all["half a request"]},
		{"idle", s.HTTPAddr(), []byte("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", test.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = raw.Close() }()
			if _, err := raw.Write(test.bytes); err != nil {
				t.Fatal(err)
			}
			readToEnd(t, raw) // the server's end, not ours
		})
	}
	t.Cleanup(func() {
		if n := b.calls.Load(); n != 0 {
			t.Errorf("the backend saw %d calls", n)
		}
	})
}

// readToEnd reads until the other side closes the connection.
func readToEnd(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	_, err := io.Copy(io.Discard, c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the server kept the connection")
	}
}
