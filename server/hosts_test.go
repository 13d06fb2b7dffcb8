package server_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/quern-io/quern/server"
)

// ask posts an Add for a host, with headers in pairs.
func ask(t *testing.T, s *server.Server, host string, headers ...string) (code int, body string) {
	t.Helper()
	_, port, err := net.SplitHostPort(s.HTTPAddr())
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:"+port+addPath, strings.NewReader(`{"key":"k"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = host
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestRebinding is about a web page that has its own name resolve to the
// node's loopback address: the browser then takes the node for the page's own
// server, and only the Host header tells.
func TestRebinding(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		host string
		own  bool
	}{
		{"localhost", true},
		{"localhost:7412", true},
		{"LocalHost", true},
		{"localhost.", true},
		{"quern.localhost:7412", true},
		{"127.0.0.1", true},
		{"127.9.8.7:80", true},
		{"[::1]", true},
		{"[::1]:7412", true},
		{"[::ffff:127.0.0.1]:7412", true},
		{"evil.example", false},
		{"evil.example:7412", false},
		{"127.0.0.1.evil.example", false},
		{"localhost.evil.example", false},
		{"notlocalhost", false},
		{"10.0.0.1", false},
		{"0.0.0.0:7412", false},
		{"[::]:7412", false},
		{"127.1", false},
	} {
		t.Run(test.host, func(t *testing.T) {
			t.Parallel()
			b := &fake{}
			code, body := ask(t, start(t, b), test.host)
			if test.own && (code != http.StatusOK || b.calls.Load() != 1) {
				t.Errorf("refused: %d %s", code, body)
			}
			if !test.own && (code != http.StatusForbidden || !strings.Contains(body, "localhost") || b.calls.Load() != 0) {
				t.Errorf("got %d %s after %d calls", code, body, b.calls.Load())
			}
		})
	}
}

func TestHostIsFreeOnOtherAddresses(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{}, func(c *server.Config) { c.HTTP = "0.0.0.0:0" })
	if code, body := ask(t, s, "node-1.example"); code != http.StatusOK {
		t.Errorf("got %d %s", code, body)
	}
}

// TestNoHost is a health check over HTTP/1.0, which has no Host header.
func TestNoHost(t *testing.T) {
	t.Parallel()
	raw := stranger(t, start(t, &fake{}).HTTPAddr())
	if _, err := io.WriteString(raw, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if reply, err := io.ReadAll(raw); err != nil || !strings.Contains(string(reply), "200 OK") {
		t.Errorf("got %s %v", reply, err)
	}
}

// TestOtherOriginsAreNotApproved asks what a browser asks before it lets a
// page of another origin send JSON, and sends what it does not ask about.
func TestOtherOriginsAreNotApproved(t *testing.T) {
	t.Parallel()
	b := &fake{}
	s := start(t, b)
	for _, test := range []struct{ method, path, contentType string }{
		{http.MethodOptions, addPath, ""},
		{http.MethodOptions, "/metrics", ""},
		{http.MethodOptions, "/", ""},
		{http.MethodPost, addPath, "text/plain"},
		{http.MethodPost, addPath, "application/x-www-form-urlencoded"},
		{http.MethodPost, addPath, "multipart/form-data; boundary=x"},
		{http.MethodPost, addPath, ""},
	} {
		r := do(t, s, test.method, test.path, strings.NewReader(`{"key":"k"}`), "Origin", "http://evil.example",
			"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type",
			"Access-Control-Request-Private-Network", "true", "Content-Type", test.contentType)
		if r.code < 400 {
			t.Errorf("%s %s %s: %d", test.method, test.path, test.contentType, r.code)
		}
		for name := range r.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s %s: %s", test.method, test.path, name)
			}
		}
	}
	if n := b.calls.Load(); n != 0 {
		t.Errorf("the backend saw %d calls", n)
	}
}
