package server_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// lastRequest is a backend that remembers the request that it got.
type lastRequest struct {
	fake
	got *quernv1.CounterServiceAddRequest
}

func (l *lastRequest) Invoke(_ context.Context, op *handles.Operation) error {
	l.got = op.Request.(*quernv1.CounterServiceAddRequest) //nolint:errcheck,forcetypeassert // only Add is sent
	return nil
}

// check compares what the backend got with what a decoder of its own says.
func (l *lastRequest) check(t *testing.T, want *quernv1.CounterServiceAddRequest, decodes bool) {
	t.Helper()
	switch {
	case decodes && (l.got == nil || !proto.Equal(l.got, want)):
		t.Errorf("the backend got %v, not %v", l.got, want)
	case !decodes && l.got != nil:
		t.Errorf("the backend got %v from what does not decode", l.got)
	}
}

// FuzzJSONRequest sends a body as JSON: it is refused with 400, or the backend
// gets exactly what it says.
func FuzzJSONRequest(f *testing.F) {
	for _, seed := range []string{
		`{"key":"page:42","delta":"1"}`, `{"key":"k","idempotency_key":"i","saturate":true,"min":-1,"max":"9"}`,
		`{"delta":1e3}`, `{"key":"\u0000"}`, `{"nope":1}`, `{"key":"a","key":"b"}`, `[]`, `{`, ``, `null`, "{\"key\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	b := &lastRequest{}
	s := start(f, b, func(c *server.Config) { c.Listen = "" })
	transport := &http.Transport{}
	f.Cleanup(transport.CloseIdleConnections)
	f.Fuzz(func(t *testing.T, body []byte) {
		b.got = nil
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.HTTPAddr()+addPath, strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		var want quernv1.CounterServiceAddRequest
		decodes := protojson.Unmarshal(body, &want) == nil
		if decodes != (resp.StatusCode == http.StatusOK) || !decodes && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("decodes: %v, but the answer is %s", decodes, resp.Status)
		}
		b.check(t, &want, decodes)
	})
}

// FuzzProtobufRequest does the same with a message over gRPC.
func FuzzProtobufRequest(f *testing.F) {
	for _, m := range []*quernv1.CounterServiceAddRequest{
		{}, {Key: "page:42", Delta: proto.Int64(-1)}, {Key: "k", IdempotencyKey: "i", Min: proto.Int64(0), Saturate: true},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\x0a\x01\xff"))
	f.Add([]byte("\xff\xff\xff"))
	b := &lastRequest{}
	s := start(f, b, func(c *server.Config) { c.HTTP = "" })
	conn := plain(f, s.GRPCAddr())
	f.Fuzz(func(t *testing.T, message []byte) {
		b.got = nil
		var reply []byte
		err := conn.Invoke(t.Context(), addPath, &message, &reply, grpc.ForceCodec(raw{}))
		var want quernv1.CounterServiceAddRequest
		decodes := proto.Unmarshal(message, &want) == nil
		if code := status.Code(err); decodes != (code == codes.OK) || !decodes && code != codes.Internal {
			t.Errorf("decodes: %v, but the answer is %v", decodes, err)
		}
		b.check(t, &want, decodes)
	})
}

// raw is a codec of bytes.
type raw struct{}

var _ encoding.Codec = raw{}

func (raw) Name() string                       { return "proto" }
func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }        //nolint:errcheck,forcetypeassert // bytes only
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = data; return nil } //nolint:errcheck,forcetypeassert // bytes only
