package server_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/quern-io/quern/server"
)

// TestWatchWhoseRequestDoesNotArrive: the time for a request's arrival bounds
// also that of a watch, in every form, and what follows a request that was
// refused or understood before its end.
func TestWatchWhoseRequestDoesNotArrive(t *testing.T) {
	t.Parallel()
	s := start(t, newWatched(), func(c *server.Config) { c.ReadTimeout = 100 * time.Millisecond })
	for _, tt := range []struct{ kind, framing, sent string }{
		{"application/json", "Content-Length: 100", "{"},
		{"application/json", "Content-Length: 100", `{"key":"k"}`},
		{"application/json", "Transfer-Encoding: chunked", "1\r\n{\r\n"},
		{"application/connect+json", "Content-Length: 100", "{"},
		{"application/connect+json", "Content-Length: 100", "\x00\x00\x00\x00\x0b" + `{"key":"k"}`},
		{"application/connect+proto", "Content-Length: 100", "\x01\xff"},
		{"application/grpc-web+proto", "Content-Length: 100", "\x00\x00\x00\x00\x03\n\x01k"},
		{"application/grpc-web+proto", "Content-Length: 100", "\x00\x00\x00\x00\x03\n\x01k\x80\x00\x00\x00\x00"},
		{"text/plain", "Content-Length: 100", "{"},
	} {
		t.Run(fmt.Sprintf("%s %q", tt.kind, tt.sent), func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", s.HTTPAddr()) //nolint:noctx // loopback: it is there or not
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(testTimeout / 4)); err != nil {
				t.Fatal(err)
			}
			_, err = fmt.Fprintf(c, "POST /quern.v1.CounterService/Watch HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\n%s\r\n\r\n%s", tt.kind, tt.framing, tt.sent)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil { // until the node ends it
				t.Errorf("%q, then %v", got, err)
			}
		})
	}
}
