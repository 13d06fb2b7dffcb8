package server

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/fastproto"
	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// grainService is GrainService: what its streams share.
type grainService struct {
	*core
	face       face
	methods    map[string]*streamMethod // by procedure; does not change
	maxFrame   int
	slowReader time.Duration
	stopping   <-chan struct{}
	streams    atomic.Int64
	parked     parked
	names      names
	// readers are the goroutines that read streams.
	readers *sync.WaitGroup
	// lists is the backend where it takes many operations at once, else nil.
	lists handles.ListSubmitter
	// peers is the backend where it is one of several nodes, else nil.
	peers Peer
	// directs has *directs; nil where the backend runs nothing at once.
	directs *sync.Pool
	// adds is the backend where it takes adds, else nil: then there are no
	// columns.
	adds    handles.AddsSubmitter
	columns sync.Pool // of *streamColumn
}

// enter counts a stream, or says why there can be none.
func (g *grainService) enter() *failure.Error {
	if g.gate.closed.Load() {
		return errStopping
	}
	g.streams.Add(1)
	return nil
}

// share is how many operations a stream may have under way. Once half of what
// the node takes is, the streams divide that half among them, so that the
// greedy ones leave room for others.
func (g *grainService) share() int {
	if g.gate.inFlight.Load() < g.gate.limit/2 {
		return math.MaxInt
	}
	return int(g.gate.limit / (2 * max(1, g.streams.Load())))
}

func (g *grainService) shardOf(key string) uint32 { return keyspace.Shard(key, g.backend.Shards()) }

// failure turns any error into what a client sees.
func (g *grainService) failure(ctx context.Context, err error) *failure.Error {
	if e, ok := err.(*failure.Error); ok { //nolint:errorlint // the usual case, and the fast one
		return e
	}
	return g.core.failure(ctx, "/quern.v1.GrainService/Stream", err)
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// streamMethod is a method as streams call it.
type streamMethod struct {
	method  *handles.Method
	metrics *methodMetrics
	large   bool      // its replies can be large
	plain   bool      // its operations may be run directly
	place   int       // among the methods
	calls   sync.Pool // of *streamOp
}

// streamOp is one operation of a stream, with its messages.
type streamOp struct {
	sub     handles.Submission // linked with those of its shard in the same frame
	home    *streamMethod
	stream  *stream
	id      uint64
	bytes   int
	waits   bool // counts among the waits of its stream
	stays   bool // with the reader: it is not recycled
	in      keyed
	once    once // nil for reads
	reset   interface{ Reset() }
	scratch fastproto.Scratch
	passage handles.Passage
}

// newStreamMethod is the method with the given messages.
func newStreamMethod[Q, R any, PQ interface {
	*Q
	proto.Message
}, PR interface {
	*R
	proto.Message
	Reset()
}](m *handles.Method, metrics *methodMetrics) *streamMethod {
	home := &streamMethod{method: m, metrics: metrics}
	switch any(PR(new(R))).(type) {
	case interface{ GetValue() []byte }, interface{ GetHolders() []*quernv1.LockHolder }:
		home.large = true
	}
	home.calls.New = func() any {
		c := new(struct {
			streamOp
			request Q
			reply   R
		})
		o := &c.streamOp
		o.home, o.reset, o.sub.Done, o.sub.Op.Passage = home, PR(&c.reply), o, &o.passage
		o.sub.Op.Method, o.sub.Op.Request, o.sub.Op.Reply = m, PQ(&c.request), PR(&c.reply)
		o.in, _ = o.sub.Op.Request.(keyed)
		o.once, _ = o.sub.Op.Request.(once)
		return o
	}
	return home
}

// streamMethodsOf lists the methods that streams can call.
func streamMethodsOf(on func(*handles.Method) *caller) map[string]*streamMethod {
	all := make(map[string]*streamMethod)
	add := func(m *streamMethod) {
		m.place = len(all)
		m.plain = m.place < streamMethodsMax && !m.method.Many && !m.method.Waits
		all[m.method.Procedure] = m
	}
	of := func(m *handles.Method) (*handles.Method, *methodMetrics) { return m, on(m).metrics }
	add(newStreamMethod[quernv1.CounterServiceAddRequest, quernv1.CounterServiceAddResponse](of(handles.CounterAdd)))
	add(newStreamMethod[quernv1.CounterServiceAddManyRequest, quernv1.CounterServiceAddManyResponse](of(handles.CounterAddMany)))
	add(newStreamMethod[quernv1.CounterServiceGetRequest, quernv1.CounterServiceGetResponse](of(handles.CounterGet)))
	add(newStreamMethod[quernv1.CounterServiceSetRequest, quernv1.CounterServiceSetResponse](of(handles.CounterSet)))
	add(newStreamMethod[quernv1.CounterServiceGetAndSetRequest, quernv1.CounterServiceGetAndSetResponse](of(handles.CounterGetAndSet)))
	add(newStreamMethod[quernv1.CounterServiceCompareAndSetRequest, quernv1.CounterServiceCompareAndSetResponse](of(handles.CounterCompareAndSet)))
	add(newStreamMethod[quernv1.CounterServiceResetRequest, quernv1.CounterServiceResetResponse](of(handles.CounterReset)))
	add(newStreamMethod[quernv1.CounterServiceExpireRequest, quernv1.CounterServiceExpireResponse](of(handles.CounterExpire)))
	add(newStreamMethod[quernv1.LockServiceAcquireRequest, quernv1.LockServiceAcquireResponse](of(handles.LockAcquire)))
	add(newStreamMethod[quernv1.LockServiceRenewRequest, quernv1.LockServiceRenewResponse](of(handles.LockRenew)))
	add(newStreamMethod[quernv1.LockServiceReleaseRequest, quernv1.LockServiceReleaseResponse](of(handles.LockRelease)))
	add(newStreamMethod[quernv1.LockServiceForceReleaseRequest, quernv1.LockServiceForceReleaseResponse](of(handles.LockForceRelease)))
	add(newStreamMethod[quernv1.LockServiceGetRequest, quernv1.LockServiceGetResponse](of(handles.LockGet)))
	add(newStreamMethod[quernv1.MapServicePutRequest, quernv1.MapServicePutResponse](of(handles.MapPut)))
	add(newStreamMethod[quernv1.MapServiceGetRequest, quernv1.MapServiceGetResponse](of(handles.MapGet)))
	add(newStreamMethod[quernv1.MapServiceDeleteRequest, quernv1.MapServiceDeleteResponse](of(handles.MapDelete)))
	add(newStreamMethod[quernv1.MapServiceCompareAndSwapRequest, quernv1.MapServiceCompareAndSwapResponse](of(handles.MapCompareAndSwap)))
	add(newStreamMethod[quernv1.TransactionServiceCommitRequest, quernv1.TransactionServiceCommitResponse](of(handles.TransactionCommit)))
	return all
}

// Operation implements frame.Requests: it begins an operation, whose answer
// comes by Completed.
func (s *stream) Operation(in *frame.Operation) error {
	if in.ID == 0 {
		return failure.New(failure.InvalidField, "an operation has no id")
	}
	if refused := s.begin(len(in.Request)); refused != nil {
		return refused
	}
	if in.Method >= uint32(len(s.methods)) || s.methods[in.Method] == nil { //nolint:gosec // at most streamMethods
		s.reply(in.ID, len(in.Request), failure.New(failure.UnknownMethod, "this node has no method under the number %d of this stream", in.Method))
		return nil
	}
	home := s.methods[in.Method]
	if refused := s.enterGate(home.method.Waits); refused != nil {
		s.reply(in.ID, len(in.Request), refused)
		return nil
	}
	s.admitted = home
	if s.direct(in, home) {
		s.admitted = nil
		return nil
	}
	o, _ := home.calls.Get().(*streamOp)
	o.stream, o.id, o.bytes = s, in.ID, len(in.Request)
	shard, refused := o.prepare(in)
	if refused != nil {
		s.admitted = nil
		o.Completed(0, refused)
		return nil
	}
	o.sub.Deadline = s.deadline(in)
	if o.sub.Op.MayWait() {
		s.submit() // what came before it
		s.admitted = nil
		return s.beginWait(o)
	}
	s.admitted = nil
	s.large = s.large || home.large
	s.gather(shard, &o.sub)
	return nil
}

// deadline is when the operation must have had its turn; zero is no bound.
func (s *stream) deadline(in *frame.Operation) time.Time {
	if in.TimeoutMS == 0 {
		return time.Time{}
	}
	return s.now.Add(time.Duration(in.TimeoutMS) * time.Millisecond)
}

// prepare fills in the operation and returns its shard, or says what is wrong
// with it.
func (o *streamOp) prepare(in *frame.Operation) (shard uint32, refused *failure.Error) {
	if err := fastproto.Unmarshal(in.Request, o.sub.Op.Request, &o.scratch); err != nil {
		return 0, failure.New(failure.InvalidField, "the request does not decode: %v", err)
	}
	o.passage.Request, o.passage.Hops = in.Request, in.Hops
	if o.home.method.Waits {
		o.sub.Op.Request.ProtoReflect().SetUnknown(nil) // it may be kept for long
	}
	if o.in != nil {
		o.sub.Op.Key = o.in.GetKey()
	}
	if o.once != nil {
		o.sub.Op.IdempotencyKey = o.once.GetIdempotencyKey()
	}
	shard = o.stream.shardOf(o.sub.Op.Request, o.sub.Op.Key)
	o.sub.Op.Origin.Shard, o.sub.Op.Placed = shard, true
	_ = o.stream.side(shard) // makes room
	if in.Number == 0 {
		return shard, nil
	}
	session := o.stream.session(shard, in.Session)
	if session == nil {
		return 0, failure.New(failure.SessionExpired, "the stream has named no session at shard %d", shard)
	}
	o.sub.Op.Session = handles.Session{
		ID: session.id, Number: in.Number, Settled: in.Settled, Waits: o.sub.Op.MayWait(), SettledOther: in.SettledOther,
	}
	o.sub.Op.Memo = &session.memo
	return shard, nil
}

// shardOf finds the shard of an operation, whose session numbers it. The keys of
// a numbered bulk operation are all of one shard, which the backend checks.
func (s *stream) shardOf(request proto.Message, key string) uint32 {
	if many, ok := request.(interface{ GetKeys() []string }); ok && len(many.GetKeys()) > 0 {
		key = many.GetKeys()[0]
	}
	return s.grains.shardOf(key)
}

// Completed implements handles.Completer.
func (o *streamOp) Completed(epoch uint64, err error) {
	if err != nil {
		if err = o.stream.again(o, err); err == nil {
			return
		}
	}
	o.sub.Op.Origin.Epoch = epoch
	o.answer(err)
}

// answer leaves the reply in the stream's buffers.
func (o *streamOp) answer(err error) {
	s := o.stream
	var e *failure.Error
	fine := o.home.metrics
	if err != nil {
		e = s.grains.failure(s.frames.Context(), err)
		fine.fail(e.Reason)
		fine = nil
	}
	s.mu.Lock()
	s.left(fine, o.home.method.Waits)
	s.origin(&o.sub.Op.Origin)
	if e == nil {
		s.seal()
		var broken error
		if raw := o.passage.Reply; raw != nil {
			s.out.replies = frame.AppendRawReply(s.out.replies, o.id, raw)
		} else if s.out.replies, broken = frame.AppendReply(s.out.replies, o.id, o.sub.Op.Reply); broken != nil {
			e = failure.Wrap(broken, failure.Internal, "the reply does not encode")
		}
	}
	if e != nil {
		s.out.replies = frame.AppendFailure(s.out.replies, o.id, e)
	}
	bytes := o.bytes
	if o.waits {
		s.endWait(o.id)
		bytes = 0
	}
	if !o.stays {
		o.recycle()
	}
	s.answered(bytes)
}

// frameReplies is how many bytes of replies a frame has at least before the next
// one begins: a client reads only messages of bounded size.
const frameReplies = 1 << 20

// seal ends the frame that gathers where it is large. It comes before the next
// reply, so that there is always one to be sent behind what is sealed. It needs
// mu.
func (s *stream) seal() {
	if len(s.out.replies) >= frameReplies {
		s.sealed = append(s.sealed, s.out.take(nil))
	}
}

// sealedBytes needs mu.
func (s *stream) sealedBytes() (n int) {
	for _, b := range s.sealed {
		n += len(b)
	}
	return n
}

// recycle gives the operation back. Its request is replaced by the next one.
func (o *streamOp) recycle() {
	o.reset.Reset()
	op := &o.sub.Op
	op.Key, op.IdempotencyKey, op.Origin, op.Session, op.Memo = "", "", handles.Origin{}, handles.Session{}, nil
	o.stream, o.waits, o.passage = nil, false, handles.Passage{}
	o.home.calls.Put(o)
}

// reply answers an operation that was not begun.
func (s *stream) reply(id uint64, bytes int, e *failure.Error) {
	s.mu.Lock()
	s.out.replies = frame.AppendFailure(s.out.replies, id, e)
	s.answered(bytes)
}
