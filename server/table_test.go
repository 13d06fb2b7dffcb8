package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/messages/quern/v1/quernv1connect"
	"github.com/quern-io/quern/server"
)

// contract is the table of the outward contract, written out a second time on
// purpose.
var contract = []struct {
	reason  failure.Reason
	name    string
	code    codes.Code
	word    string
	http    int
	retry   bool
	outcome string
}{
	{failure.Internal, "INTERNAL", codes.Internal, "internal", 500, false, "unknown"},
	{failure.InvalidKey, "INVALID_KEY", codes.InvalidArgument, "invalid_argument", 400, false, "not_done"},
	{failure.InvalidField, "INVALID_FIELD", codes.InvalidArgument, "invalid_argument", 400, false, "not_done"},
	{failure.Limit, "LIMIT", codes.OutOfRange, "out_of_range", 400, false, "not_done"},
	{failure.Overflow, "OVERFLOW", codes.OutOfRange, "out_of_range", 400, false, "not_done"},
	{failure.ConditionFailed, "CONDITION_FAILED", codes.FailedPrecondition, "failed_precondition", 400, false, "not_done"},
	{failure.NotHolder, "NOT_HOLDER", codes.FailedPrecondition, "failed_precondition", 400, false, "not_done"},
	{failure.FencedToken, "FENCED_TOKEN", codes.FailedPrecondition, "failed_precondition", 400, false, "not_done"},
	{failure.CrossShard, "CROSS_SHARD", codes.FailedPrecondition, "failed_precondition", 400, false, "not_done"},
	{failure.IDReused, "ID_REUSED", codes.FailedPrecondition, "failed_precondition", 400, false, "not_done"},
	{failure.SessionExpired, "SESSION_EXPIRED", codes.FailedPrecondition, "failed_precondition", 400, false, "not_done"},
	{failure.UnknownKind, "UNKNOWN_KIND", codes.Unimplemented, "unimplemented", 501, false, "not_done"},
	{failure.UnknownMethod, "UNKNOWN_METHOD", codes.Unimplemented, "unimplemented", 501, false, "not_done"},
	{failure.Overloaded, "OVERLOADED", codes.ResourceExhausted, "resource_exhausted", 429, true, "not_done"},
	{failure.NotOwner, "NOT_OWNER", codes.Unavailable, "unavailable", 503, true, "not_done"},
	{failure.Moving, "MOVING", codes.Unavailable, "unavailable", 503, true, "not_done"},
	{failure.Unreachable, "UNREACHABLE", codes.Unavailable, "unavailable", 503, true, "not_done"},
	{failure.Stopping, "STOPPING", codes.Unavailable, "unavailable", 503, true, "not_done"},
	{failure.StoreUnavailable, "STORE_UNAVAILABLE", codes.Unavailable, "unavailable", 503, true, "not_done"},
	{failure.HandlerFailed, "HANDLER_FAILED", codes.Aborted, "aborted", 409, false, "not_done"},
	{failure.OutcomeUnknown, "OUTCOME_UNKNOWN", codes.Unknown, "unknown", 500, false, "unknown"},
	{failure.DeadlineExceeded, "DEADLINE_EXCEEDED", codes.DeadlineExceeded, "deadline_exceeded", 504, false, "unknown"},
	{failure.Canceled, "CANCELED", codes.Canceled, "canceled", 499, false, "unknown"},
}

const wait = 1500 * time.Millisecond

// refusing fails each operation with the reason that its key names, under an
// origin.
func refusing(_ context.Context, op *handles.Operation) error {
	op.Origin = origin
	reason, ok := failure.ParseReason(op.Key)
	if !ok {
		return errors.New("no such reason")
	}
	e := failure.New(reason, "because of %s", op.Key)
	if e.Retryable() {
		e = e.After(wait)
	}
	return e
}

func TestContractNamesEveryReason(t *testing.T) {
	t.Parallel()
	for r := failure.Reason(0); ; r++ {
		if back, ok := failure.ParseReason(r.String()); !ok || back != r {
			if len(contract) < int(r) {
				t.Errorf("the table has %d of %d reasons", len(contract), r)
			}
			return
		}
	}
}

func TestFailuresOverGRPC(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{answer: refusing})
	stub := quernv1.NewCounterServiceClient(plain(t, s.GRPCAddr()))
	for _, row := range contract {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var header metadata.MD
			_, err := stub.Add(t.Context(), &quernv1.CounterServiceAddRequest{Key: row.name}, grpc.Header(&header))
			st := status.Convert(err)
			if st.Code() != row.code || st.Message() != "because of "+row.name {
				t.Errorf("got %v %q", st.Code(), st.Message())
			}
			var details []proto.Message
			for _, d := range st.Details() {
				details = append(details, d.(proto.Message)) //nolint:errcheck,forcetypeassert // fails the test
			}
			checkDetails(t, details, row.name, row.outcome, row.retry)
			for name, want := range map[string]string{"quern-node": "node-1", "quern-shard": "7", "quern-epoch": "1152921504606846976"} {
				if got := strings.Join(header[name], ","); got != want {
					t.Errorf("%s: got %q", name, got)
				}
			}
		})
	}
}

func TestFailuresThroughClient(t *testing.T) {
	t.Parallel()
	c := dial(t, start(t, &fake{answer: refusing}))
	for _, row := range contract {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			op := &handles.Operation{
				Method: handles.CounterAdd, Key: row.name,
				Request: &quernv1.CounterServiceAddRequest{Key: row.name}, Reply: &quernv1.CounterServiceAddResponse{},
			}
			err := c.Invoke(t.Context(), op)
			want := row.reason
			switch want {
			case failure.DeadlineExceeded, failure.Canceled: // of the node's making, not of this context
				want = failure.OutcomeUnknown
			default:
			}
			var e *failure.Error
			if !errors.As(err, &e) || !errors.Is(err, want) {
				t.Fatalf("got %v", err)
			}
			if e.Outcome().String() != row.outcome || e.Retryable() != row.retry {
				t.Errorf("outcome %v, retryable %v", e.Outcome(), e.Retryable())
			}
			if row.retry && e.RetryAfter != wait {
				t.Errorf("retry after %v", e.RetryAfter)
			}
			if op.Origin != origin {
				t.Errorf("origin %+v", op.Origin)
			}
		})
	}
}

func TestFailuresOverJSON(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{answer: refusing})
	for _, row := range contract {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			r := post(t, s, "/quern.v1.CounterService/Add", `{"key":"`+row.name+`"}`)
			if r.code != row.http || r.header.Get("Content-Type") != "application/json" {
				t.Errorf("got %d %s", r.code, r.header.Get("Content-Type"))
			}
			checkHeaders(t, r.header, row.name)
			var body struct {
				Code, Message string
				Details       []struct {
					Type  string
					Debug map[string]any
				}
			}
			if err := json.Unmarshal([]byte(r.body), &body); err != nil {
				t.Fatalf("%v in %s", err, r.body)
			}
			if body.Code != row.word || body.Message != "because of "+row.name {
				t.Errorf("got %s", r.body)
			}
			if want := 1 + btoi(row.retry); len(body.Details) != want || body.Details[0].Type != "google.rpc.ErrorInfo" ||
				body.Details[0].Debug["reason"] != row.name || body.Details[0].Debug["domain"] != "quern" {
				t.Errorf("details in %s", r.body)
			}
			if row.retry && (body.Details[1].Type != "google.rpc.RetryInfo" || body.Details[1].Debug["retryDelay"] != "1.500s") {
				t.Errorf("retry in %s", r.body)
			}
		})
	}
}

func TestFailuresOverGRPCWebAndConnect(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{answer: refusing})
	for protocol, option := range map[string]connect.ClientOption{
		"grpcweb": connect.WithGRPCWeb(), "connect": connect.WithClientOptions(), "grpc": connect.WithGRPC(),
	} {
		stub := quernv1connect.NewCounterServiceClient(h2c(t), "http://"+s.HTTPAddr(), option)
		for _, row := range contract {
			t.Run(protocol+"/"+row.name, func(t *testing.T) {
				t.Parallel()
				ctx, _ := connect.NewClientContext(t.Context())
				_, err := stub.Add(ctx, &quernv1.CounterServiceAddRequest{Key: row.name})
				var e *connect.Error
				if !errors.As(err, &e) || uint32(e.Code()) != uint32(row.code) || e.Message() != "because of "+row.name {
					t.Fatalf("got %v", err)
				}
				var details []proto.Message
				for _, d := range e.Details() {
					m, err := d.Value()
					if err != nil {
						t.Fatal(err)
					}
					details = append(details, m)
				}
				checkDetails(t, details, row.name, row.outcome, row.retry)
				checkHeaders(t, e.Meta(), row.name)
			})
		}
	}
}

func checkHeaders(t *testing.T, h http.Header, reason string) {
	t.Helper()
	for name, want := range map[string]string{
		"quern-node": "node-1", "quern-shard": "7", "quern-epoch": "1152921504606846976", "quern-reason": reason,
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func checkDetails(t *testing.T, details []proto.Message, reason, outcome string, retry bool) {
	t.Helper()
	if len(details) != 1+btoi(retry) {
		t.Fatalf("details: %v", details)
	}
	info, ok := details[0].(*errdetails.ErrorInfo)
	if !ok || info.GetReason() != reason || info.GetDomain() != "quern" || info.GetMetadata()["outcome"] != outcome {
		t.Errorf("info: %v", details[0])
	}
	if retry {
		delay, ok := details[1].(*errdetails.RetryInfo)
		if !ok || delay.GetRetryDelay().AsDuration() != wait {
			t.Errorf("retry: %v", details[1])
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// plain is a gRPC connection without Quern's client.
func plain(tb testing.TB, addr string) *grpc.ClientConn {
	tb.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// h2c is an HTTP client that speaks HTTP/2 without TLS.
func h2c(tb testing.TB) *http.Client {
	tb.Helper()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	t := &http.Transport{Protocols: &p}
	tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// response is an HTTP response, read to its end.
type response struct {
	code   int
	header http.Header
	body   string
}

// post sends JSON, as curl would.
func post(tb testing.TB, s *server.Server, path, body string, headers ...string) response {
	tb.Helper()
	return do(tb, s, http.MethodPost, path, strings.NewReader(body), append([]string{"Content-Type", "application/json"}, headers...)...)
}

func do(tb testing.TB, s *server.Server, method, path string, body io.Reader, headers ...string) response {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), testTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.HTTPAddr()+path, body)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		tb.Fatal(err)
	}
	return response{code: resp.StatusCode, header: resp.Header, body: b.String()}
}
