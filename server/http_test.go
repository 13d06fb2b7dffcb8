package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/messages/quern/v1/quernv1connect"
	"github.com/quern-io/quern/server"
)

const addPath = "/quern.v1.CounterService/Add"

func TestJSON(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, path, request string
		code                int
		want                string // the body, or a part of a failure's
		calls               int64
	}{
		{"contract", addPath, `{"key":"page:42","delta":"1"}`, 200, `{"value":"1","applied":"1"}`, 1},
		{"number", addPath, `{"key":"k","delta":5}`, 200, `{"value":"5","applied":"5"}`, 1},
		{"zero values", "/quern.v1.CounterService/Get", `{"key":"absent"}`, 200, `{"value":"0"}`, 1},
		{"false", "/quern.v1.CounterService/Expire", `{"key":"absent","ttl":"1.5s"}`, 200, `{"value":"0","found":false}`, 1},
		{"entry", "/quern.v1.MapService/Get", `{"key":"k"}`, 200, `{"value":"/wA=","version":"18446744073709551615","found":true}`, 1},
		{"put", "/quern.v1.MapService/Put", `{"key":"k","value":"/wA=","ifVersion":"18446744073709551614"}`, 200, `{"version":"18446744073709551615","found":true}`, 1},
		{"delete", "/quern.v1.MapService/Delete", `{"key":"k"}`, 200, `{"found":false,"version":"0"}`, 1},
		{"swap", "/quern.v1.MapService/CompareAndSwap", `{"key":"k","value":""}`, 200, `{"swapped":false,"version":"0"}`, 1},
		{"no base64", "/quern.v1.MapService/Put", `{"key":"k","value":"*"}`, 400, "value", 0},
		{"misspelt", "/quern.v1.MapService/Put", `{"key":"k","ifversion":"1"}`, 400, "ifversion", 0},
		{"proto name", addPath, `{"key":"k","idempotency_key":"i"}`, 200, `{"value":"1","applied":"1"}`, 1},
		{"status", "/quern.v1.ClusterService/Status", `{}`, 200, `{"cluster":"","store":"memory","durable":false,"nodes":[],"shardsTotal":256,"shardsOwned":0}`, 1},
		{"where", "/quern.v1.ClusterService/Where", `{"key":"k"}`, 200, `{"key":"k","shard":7,"node":"node-1","addr":"","epoch":"1152921504606846976"}`, 1},
		{"bad key", addPath, `{}`, 400, "the key is empty", 1},
		{"unknown field", addPath, `{"key":"k","idempotncyKey":"x"}`, 400, "idempotncyKey", 0},
		{"twice", addPath, `{"key":"k","key":"l"}`, 400, "key", 0},
		{"out of range", addPath, `{"key":"k","delta":"9223372036854775808"}`, 400, "delta", 0},
		{"fraction", addPath, `{"key":"k","delta":1.5}`, 400, "delta", 0},
		{"not UTF-8", addPath, "{\"key\":\"\xff\"}", 400, "UTF-8", 0},
		{"surrogate", addPath, `{"key":"\ud800"}`, 400, "unmarshal", 0},
		{"no JSON", addPath, `{"key":`, 400, "unexpected", 0},
		{"more behind", addPath, `{"key":"k"}{"key":"k"}`, 400, "unexpected", 0},
		{"array", addPath, `[]`, 400, "unexpected", 0},
		{"empty", addPath, ``, 400, "empty body", 0},
		{"no such method", "/quern.v1.CounterService/Subtract", `{}`, 404, "", 0},
		{"no such service", "/quern.v1.Nothing/Add", `{}`, 404, "", 0},
		{"root", "/", `{}`, 404, "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := &fake{}
			r := post(t, start(t, b), test.path, test.request)
			if r.code != test.code || b.calls.Load() != test.calls {
				t.Errorf("got %d after %d calls: %s", r.code, b.calls.Load(), r.body)
			}
			if test.code == 200 && r.body != test.want || !strings.Contains(r.body, test.want) {
				t.Errorf("got %s", r.body)
			}
		})
	}
}

func TestHTTPHeadersOfSuccess(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	checkHeaders(t, post(t, s, addPath, `{"key":"k"}`).header, "")
	checkHeaders(t, post(t, s, "/quern.v1.ClusterService/Where", `{"key":"k"}`).header, "")
	if h := post(t, s, "/quern.v1.ClusterService/Status", `{}`).header; h.Get("quern-node") != "" {
		t.Errorf("a status has no owner: %v", h)
	}
	if h := post(t, s, addPath, `{}`).header; h.Get("quern-node") != "" || h.Get("quern-shard") != "" {
		t.Errorf("a key without a shard has no owner: %v", h)
	}
}

func TestHTTPOtherRequests(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	for _, test := range []struct {
		method, path, kind string
		code               int
		want               string
	}{
		{"GET", "/healthz", "", 200, "ok\n"},
		{"GET", "/readyz", "", 200, "ok\n"},
		{"GET", "/metrics", "", 200, "quern_server_calls_in_flight 0\n"},
		{"GET", "/metrics", "", 200, "process_resident_memory_bytes"},
		{"GET", "/metrics", "", 200, `quern_server_connections{transport="grpc"} 0`},
		{"POST", "/metrics", "", 405, ""},
		{"GET", addPath, "", 405, ""},
		{"POST", addPath, "application/x-www-form-urlencoded", 415, ""},
		{"POST", addPath, "text/plain", 415, ""},
		{"GET", "/nothing", "", 404, ""},
	} {
		r := do(t, s, test.method, test.path, strings.NewReader(""), "Content-Type", test.kind)
		if r.code != test.code || !strings.Contains(r.body, test.want) {
			t.Errorf("%s %s: got %d %s", test.method, test.path, r.code, r.body)
		}
	}
}

func TestReadyz(t *testing.T) {
	t.Parallel()
	b := &fake{}
	s := start(t, b)
	b.ready.Store(failure.New(failure.Moving, "shards are on their way"))
	if r := do(t, s, http.MethodGet, "/readyz", nil); r.code != 503 || !strings.Contains(r.body, "on their way") {
		t.Errorf("got %d %s", r.code, r.body)
	}
	if r := do(t, s, http.MethodGet, "/healthz", nil); r.code != 200 {
		t.Errorf("got %d", r.code)
	}
	b.ready.Store(nil)
	if r := do(t, s, http.MethodGet, "/readyz", nil); r.code != 200 {
		t.Errorf("got %d", r.code)
	}
}

func TestHTTPOversized(t *testing.T) {
	t.Parallel()
	b := &fake{}
	s := start(t, b, func(c *server.Config) { c.MaxMessageBytes = 1000 })
	fits := `{"key":"k"` + strings.Repeat(" ", 1000-len(`{"key":"k"}`)) + `}`
	if r := post(t, s, addPath, fits); r.code != 200 {
		t.Errorf("the largest message: got %d %s", r.code, r.body)
	}
	large := `{"key":"` + strings.Repeat("k", 2000) + `"}`
	unsized := func() io.Reader { return io.MultiReader(strings.NewReader(large)) } // hides its length
	for name, r := range map[string]response{
		"sized":   post(t, s, addPath, large),
		"chunked": do(t, s, http.MethodPost, addPath, unsized(), "Content-Type", "application/json"),
		"endless": do(t, s, http.MethodPost, addPath, io.LimitReader(endless{}, 100_000), "Content-Type", "application/json"),
	} {
		if r.code != 400 || r.header.Get("quern-reason") != "LIMIT" || !strings.Contains(r.body, "1000 bytes") {
			t.Errorf("%s: got %d %v %s", name, r.code, r.header, r.body)
		}
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write([]byte(strings.Repeat(" ", 100_000) + "{}"))
	_ = z.Close()
	if r := post(t, s, addPath, bomb.String(), "Content-Encoding", "gzip"); r.code != 429 && r.code != 400 {
		t.Errorf("bomb: got %d %s", r.code, r.body)
	}
	if n := b.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestHTTPDeadline(t *testing.T) {
	t.Parallel()
	b := &fake{answer: func(ctx context.Context, op *handles.Operation) error {
		op.Origin = origin
		<-ctx.Done()
		return ctx.Err()
	}}
	s := start(t, b)
	if r := post(t, s, addPath, `{"key":"k"}`, "Connect-Timeout-Ms", "0"); r.code != 504 {
		t.Errorf("in the past: got %d %s", r.code, r.body)
	}
	if n := b.calls.Load(); n != 0 {
		t.Errorf("%d calls", n)
	}
	r := post(t, s, addPath, `{"key":"k"}`, "Connect-Timeout-Ms", "5")
	if r.code != 504 {
		t.Errorf("got %d %s", r.code, r.body)
	}
	checkHeaders(t, r.header, "DEADLINE_EXCEEDED")
}

func TestHTTP2WithoutTLS(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	stub := quernv1connect.NewCounterServiceClient(h2c(t), "http://"+s.HTTPAddr())
	out, err := stub.Add(t.Context(), &quernv1.CounterServiceAddRequest{Key: "k"})
	if err != nil || out.GetValue() != 1 {
		t.Errorf("got %v %v", out, err)
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	var log syncBuffer
	s := start(t, &fake{answer: func(_ context.Context, op *handles.Operation) error {
		if op.Key == "error" {
			return errors.New("secret of the store")
		}
		panic("boom") //nolint:forbidigo // what is tested
	}}, func(c *server.Config) { c.Logger = textLogger(&log) })
	c := dial(t, s)
	for _, key := range []string{"panic", "error"} {
		if _, err := c.Counter(key).Add(t.Context(), 1); !errors.Is(err, failure.Internal) ||
			failure.OutcomeOf(err) != failure.Unknown {
			t.Errorf("gRPC: got %v", err)
		}
		if r := post(t, s, addPath, `{"key":"`+key+`"}`); r.code != 500 || r.header.Get("quern-reason") != "INTERNAL" ||
			strings.Contains(r.body, "boom") || strings.Contains(r.body, "secret") {
			t.Errorf("HTTP: got %d %s", r.code, r.body)
		}
	}
	for _, want := range []string{"boom", "http_test.go", "secret of the store", "/quern.v1.CounterService/Add"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q: %s", want, log.String())
		}
	}
}

func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	post(t, s, addPath, `{"key":"k"}`)
	post(t, s, addPath, `{"key":"k"}`)
	post(t, s, addPath, `{}`)
	if _, err := dial(t, s).Counter("k").Get(t.Context()); err != nil {
		t.Fatal(err)
	}
	text := do(t, s, http.MethodGet, "/metrics", nil).body
	for _, want := range []string{
		`quern_server_requests_total{transport="http",method="counter.Add",reason="OK"} 2`,
		`quern_server_requests_total{transport="http",method="counter.Add",reason="INVALID_KEY"} 1`,
		`quern_server_requests_total{transport="grpc",method="counter.Get",reason="OK"} 1`,
		`quern_server_request_seconds_count{transport="grpc",method="counter.Get"} 1`,
		`quern_server_connections{transport="grpc"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// TestReadTimeoutEndsWithTheBody checks that a call may take longer than its
// request may take to arrive.
func TestReadTimeoutEndsWithTheBody(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{answer: func(ctx context.Context, _ *handles.Operation) error {
		ctx, cancel := context.WithTimeoutCause(ctx, 200*time.Millisecond, errWorked)
		defer cancel()
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), errWorked) {
			return ctx.Err()
		}
		return nil
	}}, func(c *server.Config) { c.ReadTimeout = 20 * time.Millisecond })
	if r := post(t, s, addPath, `{"key":"k"}`); r.code != 200 {
		t.Errorf("HTTP/1.1: got %d %s", r.code, r.body)
	}
	stub := quernv1connect.NewCounterServiceClient(h2c(t), "http://"+s.HTTPAddr())
	if _, err := stub.Add(t.Context(), &quernv1.CounterServiceAddRequest{Key: "k"}); err != nil {
		t.Errorf("HTTP/2: %v", err)
	}
}

var errWorked = errors.New("worked long enough")

func TestEveryBoundOff(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{}, func(c *server.Config) {
		c.MaxMessageBytes, c.MaxInFlight, c.MaxStreams, c.MaxConns = -1, -1, -1, -1
		c.KeepAlive, c.HandshakeTimeout, c.ReadTimeout, c.IdleTimeout = -1, -1, -1, -1
	})
	large := strings.Repeat("k", 2<<20)
	if _, err := dial(t, s).Counter(large).Add(t.Context(), 1); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	if r := post(t, s, addPath, `{"key":"`+large+`"}`); r.code != 200 {
		t.Errorf("HTTP: got %d", r.code)
	}
	stub := quernv1connect.NewCounterServiceClient(h2c(t), "http://"+s.HTTPAddr(), connect.WithGRPCWeb())
	if _, err := stub.Add(t.Context(), &quernv1.CounterServiceAddRequest{Key: large}); err != nil {
		t.Errorf("HTTP/2: %v", err)
	}
}
