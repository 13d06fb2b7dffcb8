package frame_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// requests builds the message that a frame stands for.
type requests struct {
	m quernv1.GrainServiceStreamRequest
}

func (r *requests) Method(ref uint32, procedure string) error {
	r.m.Methods = append(r.m.Methods, &quernv1.StreamMethod{Ref: ref, Procedure: procedure})
	return nil
}

func (r *requests) Session(shard, ref uint32, id []byte, closing bool) error {
	r.m.Sessions = append(r.m.Sessions, &quernv1.StreamSession{Shard: shard, Ref: ref, Id: id, Close: closing})
	return nil
}

func (r *requests) Open(shard uint32) error {
	r.m.OpenSessions = append(r.m.OpenSessions, shard)
	return nil
}

func (r *requests) Operation(o *frame.Operation) error {
	r.m.Operations = append(r.m.Operations, &quernv1.StreamOperation{
		Id: o.ID, Method: o.Method, Request: o.Request, Number: o.Number, Settled: o.Settled, TimeoutMs: o.TimeoutMS, SettledOther: o.SettledOther,
		Session: o.Session, Hops: o.Hops,
	})
	return nil
}

func (r *requests) Column(encoded []byte) error {
	m := &quernv1.StreamColumn{}
	r.m.Columns = append(r.m.Columns, m)
	return proto.Unmarshal(encoded, m)
}

func (r *requests) Ping(n uint64) error {
	r.m.Ping = n
	return nil
}

func (r *requests) Cancel(id uint64) error {
	r.m.Cancels = append(r.m.Cancels, id)
	return nil
}

func (r *requests) Leave(id uint64) error {
	r.m.Leaves = append(r.m.Leaves, id)
	return nil
}

func (r *requests) Node(name string) error {
	r.m.Node = name
	return nil
}

func request(tb testing.TB, keyBytes int) ([]byte, *quernv1.GrainServiceStreamRequest) {
	tb.Helper()
	add := &quernv1.CounterServiceAddRequest{Key: strings.Repeat("k", keyBytes), Delta: proto.Int64(-3)}
	raw, err := proto.Marshal(add)
	if err != nil {
		tb.Fatal(err)
	}
	want := &quernv1.GrainServiceStreamRequest{
		Methods:      []*quernv1.StreamMethod{{Ref: 1, Procedure: "/quern.v1.CounterService/Add"}},
		Sessions:     []*quernv1.StreamSession{{Shard: 7, Id: []byte("0123456789abcdef")}, {Shard: 300, Close: true}, {Shard: 1, Id: []byte("fedcba9876543210"), Ref: 300}},
		OpenSessions: []uint32{0, 255, 65535},
		Operations: []*quernv1.StreamOperation{
			{Id: 1, Method: 1, Request: raw, Number: 9, Settled: 8, TimeoutMs: 1000},
			{Id: 1 << 40, Method: 1, Request: raw},
			{Id: 3, Method: 1, Request: raw, Number: 1, Session: 300, Hops: 2},
		},
		Ping: 5,
	}
	b := frame.AppendMethod(nil, 1, "/quern.v1.CounterService/Add")
	b = frame.AppendSession(b, 7, "0123456789abcdef", false)
	b = frame.AppendSession(b, 300, "", true)
	b = frame.AppendRefSession(b, 1, 300, "fedcba9876543210")
	for _, shard := range want.GetOpenSessions() {
		b = frame.AppendOpen(b, shard)
	}
	for _, o := range want.GetOperations() {
		op := &frame.Operation{ID: o.GetId(), Method: o.GetMethod(), Number: o.GetNumber(), Settled: o.GetSettled(), TimeoutMS: o.GetTimeoutMs(), SettledOther: o.GetSettledOther(), Session: o.GetSession(), Hops: o.GetHops()}
		if o.GetSession() != 0 {
			op.Request = raw
			b = frame.AppendRawOperation(b, op)
			continue
		}
		if b, err = frame.AppendOperation(b, op, add); err != nil {
			tb.Fatal(err)
		}
	}
	want.Cancels, want.Leaves, want.Node = []uint64{1, 1 << 40}, []uint64{7, 1 << 30}, "n1"
	b = frame.AppendNode(b, "n1")
	for _, id := range want.GetLeaves() {
		b = frame.AppendLeave(b, id)
	}
	for _, id := range want.GetCancels() {
		b = frame.AppendCancel(b, id)
	}
	return frame.AppendPing(b, 5), want
}

// TestRequestIsProtobuf with lengths of one, two and three bytes.
func TestRequestIsProtobuf(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 120, 127, 128, 16_383, 16_384, 100_000} {
		b, want := request(t, n)
		var got quernv1.GrainServiceStreamRequest
		if err := proto.Unmarshal(b, &got); err != nil || !proto.Equal(&got, want) {
			t.Errorf("a key of %d bytes, read by package proto: %v", n, err)
		}
		var r requests
		if err := frame.ReadRequest(b, &r); err != nil || !proto.Equal(&r.m, want) {
			t.Errorf("a key of %d bytes, read by hand: %v", n, err)
		}
		packed, err := proto.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		r = requests{}
		if err := frame.ReadRequest(packed, &r); err != nil || !proto.Equal(&r.m, want) {
			t.Errorf("a key of %d bytes, written by package proto: %v", n, err)
		}
	}
}

func TestNothingIsAppendedOfABadRequest(t *testing.T) {
	t.Parallel()
	b, err := frame.AppendOperation([]byte("x"), &frame.Operation{ID: 1}, &quernv1.CounterServiceAddRequest{Key: "\xff"})
	if err == nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	b, err = frame.AppendReply([]byte("x"), 1, &quernv1.CounterServiceAddRequest{Key: "\xff"})
	if err == nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

// responses builds the message that a frame stands for.
type responses struct {
	m quernv1.GrainServiceStreamResponse
}

func (r *responses) Hello(h *quernv1.StreamHello) error {
	r.m.Hello = h
	return nil
}

func (r *responses) Origin(shard uint32, epoch uint64, node []byte) error {
	r.m.Origins = append(r.m.Origins, &quernv1.StreamOrigin{Shard: shard, Epoch: epoch, Node: string(node)})
	return nil
}

func (r *responses) Session(shard uint32, id []byte, closed bool, e *failure.Error) error {
	r.m.Sessions = append(r.m.Sessions, &quernv1.StreamSession{Shard: shard, Id: id, Close: closed, Error: streamError(e)})
	return nil
}

func (r *responses) Reply(id uint64, reply []byte, e *failure.Error) error {
	r.m.Replies = append(r.m.Replies, &quernv1.StreamReply{Id: id, Reply: reply, Error: streamError(e)})
	return nil
}

func (r *responses) Column(encoded []byte) error {
	m := &quernv1.StreamColumnReply{}
	r.m.Columns = append(r.m.Columns, m)
	return proto.Unmarshal(encoded, m)
}

func (r *responses) Pong(n uint64) error {
	r.m.Pong = n
	return nil
}

func streamError(e *failure.Error) *quernv1.StreamError {
	if e == nil {
		return nil
	}
	return &quernv1.StreamError{
		Reason: e.Reason.String(), Message: e.Message, Code: e.Reason.Code(),
		RetryAfterMs: uint32(e.RetryAfter.Milliseconds()), Unknown: e.Outcome() == failure.Unknown,
	}
}

func TestResponseIsProtobuf(t *testing.T) {
	t.Parallel()
	busy := failure.New(failure.Overloaded, "busy").After(20 * time.Millisecond)
	add := &quernv1.CounterServiceAddResponse{Value: 12, Applied: -1}
	raw, err := proto.Marshal(add)
	if err != nil {
		t.Fatal(err)
	}
	want := &quernv1.GrainServiceStreamResponse{
		Hello:   &quernv1.StreamHello{Node: "n", Shards: 256, Window: 4096, MaxFrameBytes: 1 << 20},
		Origins: []*quernv1.StreamOrigin{{Shard: 255, Epoch: 1 << 40, Node: "n"}},
		Sessions: []*quernv1.StreamSession{
			{Shard: 255, Id: []byte("0123456789abcdef")},
			{Shard: 3, Close: true},
			{Shard: 4, Error: streamError(busy)},
		},
		Replies: []*quernv1.StreamReply{
			{Id: 1, Reply: raw},
			{Id: 2, Error: streamError(busy)},
			{Id: 3, Error: streamError(failure.New(failure.OutcomeUnknown, "who knows"))},
		},
		Pong: 9,
	}
	b, err := frame.AppendHello(nil, want.GetHello())
	if err != nil {
		t.Fatal(err)
	}
	b = frame.AppendOrigin(b, 255, 1<<40, "n")
	b = frame.AppendSessionAnswer(b, 255, "0123456789abcdef", false, nil)
	b = frame.AppendSessionAnswer(b, 3, "", true, nil)
	b = frame.AppendSessionAnswer(b, 4, "", false, busy)
	if b, err = frame.AppendReply(b, 1, add); err != nil {
		t.Fatal(err)
	}
	b = frame.AppendFailure(b, 2, busy)
	b = frame.AppendFailure(b, 3, failure.New(failure.OutcomeUnknown, "who knows"))
	b = frame.AppendPong(b, 9)
	var got quernv1.GrainServiceStreamResponse
	if err := proto.Unmarshal(b, &got); err != nil || !proto.Equal(&got, want) {
		t.Errorf("read by package proto: %v\n got %v\nwant %v", err, &got, want)
	}
	var r responses
	if err := frame.ReadResponse(b, &r); err != nil || !proto.Equal(&r.m, want) {
		t.Errorf("read by hand: %v\n got %v\nwant %v", err, &r.m, want)
	}
}

func TestUnknownReasonKeepsItsPromise(t *testing.T) {
	t.Parallel()
	b, err := proto.Marshal(&quernv1.GrainServiceStreamResponse{Replies: []*quernv1.StreamReply{
		{Id: 1, Error: &quernv1.StreamError{Reason: "TOMORROW", Message: "m", Code: failure.Overloaded.Code()}},
		{Id: 2, Error: &quernv1.StreamError{Reason: "TOMORROW", Message: "m", Code: failure.Overloaded.Code(), Unknown: true}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var r responses
	if err := frame.ReadResponse(b, &r); err != nil {
		t.Fatal(err)
	}
	for i, want := range []failure.Reason{failure.Overloaded, failure.OutcomeUnknown} {
		if got := r.m.GetReplies()[i].GetError(); got.GetReason() != want.String() || got.GetMessage() != "TOMORROW: m" {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// FuzzReadRequest: whatever package proto takes is read by hand as the same.
func FuzzReadRequest(f *testing.F) {
	for _, n := range []int{1, 200} {
		b, _ := request(f, n)
		f.Add(b)
	}
	f.Add([]byte{0x22, 0x05, 0x08})
	f.Add([]byte{0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		var (
			want quernv1.GrainServiceStreamRequest
			r    requests
		)
		err := frame.ReadRequest(b, &r)
		if proto.Unmarshal(b, &want) != nil {
			return // by hand some fields are not looked at that package proto refuses
		}
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		forget(&want)
		if !proto.Equal(&r.m, &want) {
			t.Fatalf("got %v, want %v", &r.m, &want)
		}
	})
}

// FuzzReadResponse: no bytes from a node may panic a client.
func FuzzReadResponse(f *testing.F) {
	f.Add(frame.AppendFailure(frame.AppendOrigin(nil, 1, 2, "n"), 3, failure.New(failure.Overloaded, "busy")))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var r responses
		_ = frame.ReadResponse(b, &r)
	})
}

// forget removes fields that the schema does not have.
func forget(m *quernv1.GrainServiceStreamRequest) {
	m.ProtoReflect().SetUnknown(nil)
	for _, o := range m.GetOperations() {
		o.ProtoReflect().SetUnknown(nil)
	}
	for _, o := range m.GetSessions() {
		e := o.GetError() != nil
		o.ProtoReflect().SetUnknown(nil)
		if e {
			o.Error = nil
		}
	}
	for _, o := range m.GetMethods() {
		o.ProtoReflect().SetUnknown(nil)
	}
}

// count takes a frame's operations and does nothing with them.
type count struct {
	requests

	n int
}

func (c *count) Operation(*frame.Operation) error {
	c.n++
	return nil
}

func BenchmarkReadOperations(b *testing.B) {
	var in []byte
	for i := range 100 {
		in, _ = frame.AppendOperation(in, &frame.Operation{ID: uint64(i) + 1, Method: 1, Number: 1000, Settled: 990, TimeoutMS: 5000},
			&quernv1.CounterServiceAddRequest{Key: "bench:1234", Delta: proto.Int64(1)})
	}
	var c count
	b.ReportAllocs()
	for b.Loop() {
		_ = frame.ReadRequest(in, &c)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(c.n), "ns/operation")
}

func BenchmarkAppendOperations(b *testing.B) {
	q := &quernv1.CounterServiceAddRequest{Key: "bench:1234", Delta: proto.Int64(1)}
	o := &frame.Operation{ID: 5, Method: 1, Number: 1000, Settled: 990, TimeoutMS: 5000}
	buf := make([]byte, 0, 128)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = frame.AppendOperation(buf, o, q)
	}
}
