package server_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frameconn"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// slowly is a backend that answers when it is told to.
type slowly struct {
	fake

	mu   sync.Mutex
	held []held // guarded by mu
	more chan struct{}
}

type held struct {
	op   *handles.Operation
	done handles.Completer
}

func newSlowly() *slowly { return &slowly{more: make(chan struct{}, 1<<20)} }

func (b *slowly) Submit(op *handles.Operation, _ time.Time, done handles.Completer) {
	op.Origin = handles.Origin{Node: "node-1", Shard: 7}
	b.mu.Lock()
	b.held = append(b.held, held{op, done})
	b.mu.Unlock()
	b.more <- struct{}{}
}

// take waits until n operations are held, and takes them.
func (b *slowly) take(n int) []held {
	for range n {
		<-b.more
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.held[:n]
	b.held = b.held[n:]
	return taken
}

func (h held) answer(epoch uint64) {
	if out, ok := h.op.Reply.(*quernv1.CounterServiceAddResponse); ok {
		out.Value = int64(epoch)
	}
	h.done.Completed(epoch, nil)
}

// talk is a stream as a client of any language sees it.
type talk struct {
	t     *testing.T
	link  link
	hello *quernv1.StreamHello
}

// link is a client's end of a stream.
type link interface {
	send(b []byte) error
	recv() ([]byte, error)
	closeSend() error
	// ended is the failure that the stream has ended with.
	ended(err error) (*failure.Error, bool)
}

// converser opens a stream to a server.
type converser func(t *testing.T, s *server.Server) *talk

// overBoth runs a test over both transports.
func overBoth(t *testing.T, test func(*testing.T, converser)) {
	t.Helper()
	t.Parallel()
	for name, open := range map[string]func(*testing.T, *server.Server) link{"gRPC": overGRPC, "frames": overFrames} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, func(t *testing.T, s *server.Server) *talk {
				t.Helper()
				return converse(t, open(t, s))
			})
		})
	}
}

func converse(t *testing.T, over link) *talk {
	t.Helper()
	k := &talk{t: t, link: over}
	if k.hello = k.hear().GetHello(); k.hello == nil {
		t.Fatal("no hello")
	}
	k.say(&quernv1.GrainServiceStreamRequest{Methods: []*quernv1.StreamMethod{{Ref: 1, Procedure: handles.CounterAdd.Procedure}}})
	return k
}

func (k *talk) trySay(m *quernv1.GrainServiceStreamRequest) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err //nolint:wrapcheck // ends the test
	}
	return k.link.send(b)
}

func (k *talk) say(m *quernv1.GrainServiceStreamRequest) {
	k.t.Helper()
	if err := k.trySay(m); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) hear() *quernv1.GrainServiceStreamResponse {
	k.t.Helper()
	b, err := k.link.recv()
	if err != nil {
		k.t.Fatal(err)
	}
	var m quernv1.GrainServiceStreamResponse
	if err := proto.Unmarshal(b, &m); err != nil {
		k.t.Fatal(err)
	}
	return &m
}

// reason is why the stream ended.
func (k *talk) reason() failure.Reason {
	k.t.Helper()
	for {
		if _, err := k.link.recv(); err != nil {
			e, ok := k.link.ended(err)
			if !ok {
				k.t.Fatalf("ended with %v", err)
			}
			return e.Reason
		}
	}
}

func addOf(t *testing.T, id uint64, key string) *quernv1.StreamOperation {
	t.Helper()
	b, err := proto.Marshal(&quernv1.CounterServiceAddRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return &quernv1.StreamOperation{Id: id, Method: 1, Request: b}
}

func operations(all ...*quernv1.StreamOperation) *quernv1.GrainServiceStreamRequest {
	return &quernv1.GrainServiceStreamRequest{Operations: all}
}

func TestStreamAnswers(t *testing.T) { overBoth(t, streamAnswers) }

func streamAnswers(t *testing.T, converse converser) {
	t.Helper()
	k := converse(t, start(t, &fake{}))
	if k.hello.GetNode() != "node-1" || k.hello.GetShards() != 256 || k.hello.GetWindow() == 0 || k.hello.GetMaxFrameBytes() != 1<<20 {
		t.Errorf("hello %v", k.hello)
	}
	k.say(operations(addOf(t, 5, "a"), addOf(t, 6, "a"), addOf(t, 7, "")))
	m := k.hear()
	if len(m.GetOrigins()) != 1 || m.GetOrigins()[0].GetEpoch() != origin.Epoch || m.GetOrigins()[0].GetNode() != origin.Node {
		t.Errorf("origins %v", m.GetOrigins())
	}
	for i, want := range []int64{1, 2} {
		var a quernv1.CounterServiceAddResponse
		r := m.GetReplies()[i]
		if err := proto.Unmarshal(r.GetReply(), &a); err != nil || a.GetValue() != want || r.GetId() != uint64(5+i) {
			t.Errorf("reply %v: %v, %v", r, &a, err)
		}
	}
	if e := m.GetReplies()[2].GetError(); e.GetReason() != "INVALID_KEY" || e.GetUnknown() || e.GetCode() != uint32(codes.InvalidArgument) {
		t.Errorf("got %v", e)
	}
	k.say(operations(addOf(t, 8, "a")))
	if m := k.hear(); len(m.GetOrigins()) != 0 || len(m.GetReplies()) != 1 {
		t.Errorf("the second frame: %v", m)
	}
	k.say(&quernv1.GrainServiceStreamRequest{Ping: 99})
	if m := k.hear(); m.GetPong() != 99 {
		t.Errorf("got %v", m)
	}
	if err := k.link.closeSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.link.recv(); !errors.Is(err, io.EOF) && !errors.Is(err, frameconn.ErrEnded) {
		t.Errorf("ended with %v", err)
	}
}

func TestStreamRefusesOperations(t *testing.T) { overBoth(t, streamRefusesOperations) }

func streamRefusesOperations(t *testing.T, converse converser) {
	t.Helper()
	b := &fake{}
	k := converse(t, start(t, b))
	k.say(&quernv1.GrainServiceStreamRequest{Methods: []*quernv1.StreamMethod{{Ref: 9, Procedure: "/quern.v1.CounterService/Divide"}}})
	numbered := addOf(t, 4, "a")
	numbered.Number = 1
	garbage := addOf(t, 5, "a")
	garbage.Request = []byte{0xff}
	k.say(operations(
		&quernv1.StreamOperation{Id: 1, Method: 9}, &quernv1.StreamOperation{Id: 2, Method: 10_000}, &quernv1.StreamOperation{Id: 3},
		numbered, garbage))
	want := []string{"UNKNOWN_METHOD", "UNKNOWN_METHOD", "UNKNOWN_METHOD", "SESSION_EXPIRED", "INVALID_FIELD"}
	for i, r := range k.hear().GetReplies() {
		if r.GetId() != uint64(i+1) || r.GetError().GetReason() != want[i] || r.GetError().GetUnknown() {
			t.Errorf("got %v, want %s", r, want[i])
		}
	}
	if n := b.calls.Load(); n != 0 {
		t.Errorf("%d calls reached the backend", n)
	}
}

func TestStreamEndsWithAReason(t *testing.T) { overBoth(t, streamEndsWithAReason) }

func streamEndsWithAReason(t *testing.T, converse converser) {
	t.Helper()
	for name, tt := range map[string]struct {
		frame *quernv1.GrainServiceStreamRequest
		want  failure.Reason
	}{
		"no id":          {operations(&quernv1.StreamOperation{Method: 1}), failure.InvalidField},
		"method 0":       {&quernv1.GrainServiceStreamRequest{Methods: []*quernv1.StreamMethod{{Procedure: "x"}}}, failure.InvalidField},
		"method 1025":    {&quernv1.GrainServiceStreamRequest{Methods: []*quernv1.StreamMethod{{Ref: 1025, Procedure: "x"}}}, failure.InvalidField},
		"open at 256":    {&quernv1.GrainServiceStreamRequest{OpenSessions: []uint32{256}}, failure.InvalidField},
		"named at 1<<31": {&quernv1.GrainServiceStreamRequest{Sessions: []*quernv1.StreamSession{{Shard: 1 << 31, Id: []byte("0123456789abcdef")}}}, failure.InvalidField},
		"over the limit": {operations(addOf(t, 1, strings.Repeat("k", 1<<20))), failure.Limit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &fake{}
			k := converse(t, start(t, b))
			k.say(tt.frame)
			if got := k.reason(); got != tt.want {
				t.Errorf("ended with %v", got)
			}
			if b.calls.Load() != 0 {
				t.Error("the backend was called")
			}
		})
	}
}

// TestStreamGarbage: what is no frame ends its stream; what came before it is
// carried out, and other streams go on.
func TestStreamGarbage(t *testing.T) { overBoth(t, streamGarbage) }

func streamGarbage(t *testing.T, converse converser) {
	t.Helper()
	b := &fake{}
	s := start(t, b)
	other := converse(t, s)
	for _, raw := range []string{"\xff", "\x22\x05\x08", "\x0a\x03\x12\x01\xff", "\x1a\x01\xff", "\x00"} {
		k := converse(t, s)
		k.say(operations(addOf(t, 1, "a")))
		k.hear()
		if err := k.link.send([]byte(raw)); err != nil {
			t.Fatal(err)
		}
		if got := k.reason(); got != failure.InvalidField {
			t.Errorf("%q ended with %v", raw, got)
		}
	}
	other.say(operations(addOf(t, 1, "a")))
	var a quernv1.CounterServiceAddResponse
	if err := proto.Unmarshal(other.hear().GetReplies()[0].GetReply(), &a); err != nil || a.GetValue() != 6 {
		t.Errorf("got %v, %v", &a, err)
	}
}

func TestStreamSessions(t *testing.T) { overBoth(t, streamSessions) }

func streamSessions(t *testing.T, converse converser) {
	t.Helper()
	k := converse(t, start(t, &fake{}))
	k.say(&quernv1.GrainServiceStreamRequest{OpenSessions: []uint32{3, 200}})
	var opened []*quernv1.StreamSession
	for len(opened) < 2 {
		opened = append(opened, k.hear().GetSessions()...)
	}
	for i, shard := range []uint32{3, 200} {
		if o := opened[i]; o.GetShard() != shard || len(o.GetId()) != 16 || o.GetClose() {
			t.Errorf("got %v", o)
		}
	}
	k.say(&quernv1.GrainServiceStreamRequest{Sessions: []*quernv1.StreamSession{{Shard: 3, Id: opened[0].GetId(), Close: true}}})
	if m := k.hear(); len(m.GetSessions()) != 1 || !m.GetSessions()[0].GetClose() || m.GetSessions()[0].GetShard() != 3 {
		t.Errorf("got %v", m)
	}
}

// TestEpochsDoNotMix: a reply of the former epoch does not follow the news of
// the next one.
func TestEpochsDoNotMix(t *testing.T) { overBoth(t, epochsDoNotMix) }

func epochsDoNotMix(t *testing.T, converse converser) {
	t.Helper()
	b := newSlowly()
	k := converse(t, start(t, b))
	k.say(operations(addOf(t, 1, "a")))
	b.take(1)[0].answer(1)
	epoch := k.hear().GetOrigins()[0].GetEpoch()
	for round := range uint64(50) {
		k.say(operations(addOf(t, 1, "a"), addOf(t, 2, "a"), addOf(t, 3, "a")))
		for i, h := range b.take(3) {
			h.answer(round + 1 + uint64(i)/2) // the last one under the next epoch
		}
		for n := 0; n < 3; {
			m := k.hear()
			for _, o := range m.GetOrigins() {
				epoch = o.GetEpoch()
			}
			for _, r := range m.GetReplies() {
				n++
				var a quernv1.CounterServiceAddResponse
				if err := proto.Unmarshal(r.GetReply(), &a); err != nil || uint64(a.GetValue()) != epoch {
					t.Fatalf("a reply of epoch %d under %d, %v", a.GetValue(), epoch, err)
				}
			}
		}
	}
}

// TestStreamWindow: a client that ignores its window loses its stream; what it
// had begun is carried out, once.
func TestStreamWindow(t *testing.T) { overBoth(t, streamWindow) }

func streamWindow(t *testing.T, converse converser) {
	t.Helper()
	b := newSlowly()
	k := converse(t, start(t, b))
	window := int(k.hello.GetWindow()) + 2*256 // and what may be asked for sessions
	var frame []*quernv1.StreamOperation
	for id := 1; id <= window; id++ {
		frame = append(frame, addOf(t, uint64(id), "a"))
	}
	k.say(operations(frame...))
	begun := b.take(window)
	for _, h := range begun[:10] {
		h.answer(1)
	}
	for n := 0; n < 10; {
		n += len(k.hear().GetReplies())
	}
	k.say(operations(frame[:10]...)) // up to the window again
	begun = append(begun[10:], b.take(10)...)
	k.say(operations(frame[:1]...))
	if got := k.reason(); got != failure.Overloaded {
		t.Errorf("ended with %v", got)
	}
	for _, h := range begun {
		h.answer(1) // to nobody
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.held) > 0 {
		t.Errorf("%d operations were begun beyond the window", len(b.held))
	}
}

func TestSessionsWithoutEnd(t *testing.T) { overBoth(t, sessionsWithoutEnd) }

func sessionsWithoutEnd(t *testing.T, converse converser) {
	t.Helper()
	k := converse(t, start(t, &fake{}))
	opened, refused := 0, 0
	for range 3000 {
		k.say(&quernv1.GrainServiceStreamRequest{OpenSessions: []uint32{1}})
		for _, s := range k.hear().GetSessions() {
			if s.GetError().GetReason() == "OVERLOADED" {
				refused++
			} else {
				opened++
			}
		}
	}
	if opened != 4*256 || refused != 3000-opened {
		t.Errorf("%d opened, %d refused", opened, refused)
	}
}

// TestUnreadRepliesCutTheClientOff, and others are served meanwhile. The replies
// are large, so that few of them fill what the system's buffers take.
func TestUnreadRepliesCutTheClientOff(t *testing.T) { overBoth(t, unreadRepliesCutTheClientOff) }

func unreadRepliesCutTheClientOff(t *testing.T, converse converser) {
	t.Helper()
	const most = 1000 // of 64 KiB; Linux takes at most 36 MiB by its defaults
	b := &fake{answer: answerLarge(make([]byte, 64<<10))}
	s := start(t, b, func(c *server.Config) { c.WriteTimeout = 300 * time.Millisecond })
	k := converse(t, s)
	m := readsOf(t, 100)
	for err := k.trySay(m); ; err = k.trySay(m) {
		if err != nil && !cutByNode(k.link, err) {
			t.Fatalf("still connected when the client left: %v", err)
		}
		if err != nil {
			break
		}
		// Each operation counts as answered for the client once it is, but
		// nobody reads the answers.
		m.Methods = nil
		for _, op := range m.GetOperations() {
			op.Id += uint64(len(m.GetOperations()))
		}
	}
	if n := b.calls.Load(); n > most {
		t.Errorf("%d operations for a client that does not read", n)
	}
	other := converse(t, s)
	m = readsOf(t, 1)
	other.say(m)
	other.hear()
}

// cutByNode reports whether a client's Send failed because of the node, and not
// at the end of the test's patience.
func cutByNode(l link, err error) bool {
	for errors.Is(err, io.EOF) { // gRPC says why where it is read
		var of error
		for of == nil {
			_, of = l.recv()
		}
		err = of
	}
	return !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded
}

// readsOf is a frame of n reads of a map, which begins a stream's method 2.
func readsOf(t *testing.T, n int) *quernv1.GrainServiceStreamRequest {
	t.Helper()
	m := &quernv1.GrainServiceStreamRequest{Methods: []*quernv1.StreamMethod{{Ref: 2, Procedure: handles.MapGet.Procedure}}}
	for i := range n {
		b, err := proto.Marshal(&quernv1.MapServiceGetRequest{Key: strconv.Itoa(i)})
		if err != nil {
			t.Fatal(err)
		}
		m.Operations = append(m.Operations, &quernv1.StreamOperation{Id: uint64(i + 1), Method: 2, Request: b})
	}
	return m
}

// answerLarge answers reads of a map with value.
func answerLarge(value []byte) func(context.Context, *handles.Operation) error {
	return func(_ context.Context, op *handles.Operation) error {
		op.Origin = origin
		op.Reply.(*quernv1.MapServiceGetResponse).Value = value //nolint:errcheck,forcetypeassert // a panic is what the test wants
		return nil
	}
}

// TestStopAnswersStreams: what was begun is answered, then the stream says why
// it ends.
func TestStopAnswersStreams(t *testing.T) { overBoth(t, stopAnswersStreams) }

func stopAnswersStreams(t *testing.T, converse converser) {
	t.Helper()
	b := newSlowly()
	s := start(t, b)
	k := converse(t, s)
	k.say(operations(addOf(t, 1, "a")))
	begun := b.take(1)[0]
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.Background()) }()
	begun.answer(3)
	if r := k.hear().GetReplies(); len(r) != 1 || r[0].GetId() != 1 || r[0].GetError() != nil {
		t.Errorf("got %v", r)
	}
	if got := k.reason(); got != failure.Stopping {
		t.Errorf("ended with %v", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
