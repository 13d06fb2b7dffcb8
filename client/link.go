package client

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/fastproto"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// How a stream that is silent is found out.
const (
	busySilence = time.Second     // while operations are under way
	pongTimeout = 2 * time.Second // after a ping the stream is given up
	watchEvery  = 500 * time.Millisecond
)

// link is one stream, from its hello to its end. What is not of its goroutines
// belongs to the engine's lock.
type link struct {
	engine *engine
	frames frame.Stream
	hello  *quernv1.StreamHello
	heard  atomic.Int64 // when a frame came last, in Unix nanoseconds
	wake   chan struct{}

	place    int      // in the engine's list
	stopping bool     // the node has said that it ends
	named    []string // the sessions that the stream knows, by shard
	current  shardSet // where that is the client's present one
	owners   streamOwners
	refs     map[*handles.Method]uint32
	calls    []*call // by id - 1
	free     []uint64
	cancels  []uint64 // of calls that were given up, to be told
	waits    int      // of the calls, those that may wait: they leave the window alone
	columns  columns
	out      outgoing
	ready    [][]byte // frames that are full
	// buffer has the frame that is being sent; spare are for the next ones.
	buffer []byte
	spare  [][]byte
	pings  uint64
	asked  time.Time // when the last of them was due
	// done is closed when the link is over.
	done chan struct{}

	// Of the reader: what answered needs of the reply under way.
	reply []byte
}

// outgoing are the parts of the next frame.
type outgoing struct {
	head, operations, last []byte
}

func (o *outgoing) len() int { return len(o.head) + len(o.operations) + len(o.last) }

const (
	// keptBuffer is the largest buffer that an idle link keeps, keptBuffers how
	// many it keeps beside the one that is being sent.
	keptBuffer  = 256 << 10
	keptBuffers = 2
	// fullFrame ends a frame that gathers: the node works off one while the next
	// one comes.
	fullFrame = 64 << 10
)

// take moves the parts behind what is in a buffer.
func (o *outgoing) take(b []byte) []byte {
	b = slices.Grow(b, o.len())
	for _, part := range []*[]byte{&o.head, &o.operations, &o.last} {
		b = append(b, *part...)
		if *part = (*part)[:0]; cap(*part) > keptBuffer {
			*part = nil
		}
	}
	return b
}

// errHello is a stream that does not begin as it should.
var errHello = errors.New("client: the node did not say hello")

// greet reads the node's hello.
func greet(f frame.Stream) (*quernv1.StreamHello, error) {
	b, err := f.Recv()
	if err != nil {
		return nil, err //nolint:wrapcheck // of the transport
	}
	var r quernv1.GrainServiceStreamResponse
	if err := proto.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", errHello, err)
	}
	if h := r.GetHello(); h.GetShards() > 0 && h.GetWindow() > 0 && h.GetMaxFrameBytes() > 0 {
		return h, nil
	}
	return nil, errHello
}

func newLink(e *engine, place int, f frame.Stream, hello *quernv1.StreamHello) *link {
	l := &link{
		engine: e, frames: f, hello: hello, wake: make(chan struct{}, 1), done: make(chan struct{}),
		place: place, named: make([]string, e.shards), refs: make(map[*handles.Method]uint32),
		current: newShardSet(e.shards), owners: streamOwners{common: newShardSet(e.shards)},
	}
	l.heard.Store(time.Now().UnixNano())
	return l
}

// abandoner is a stream whose connection can be given up with it: another
// stream over one that is silent would be silent too.
type abandoner interface{ Abandon() }

// run works until the stream breaks or ctx ends, and says why.
func (l *link) run(ctx context.Context) error {
	var all sync.WaitGroup
	ended := make(chan error, 3)
	for _, work := range []func(context.Context) error{l.read, l.write, l.watch} {
		all.Go(func() { ended <- work(ctx) })
	}
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	close(l.done)
	if a, ok := l.frames.(abandoner); ok && errors.Is(err, errSilent) {
		a.Abandon()
	}
	l.frames.Close()
	all.Wait()
	return err
}

func (l *link) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// full reports whether the node takes no more operations at present.
func (l *link) full() bool { return l.owed() >= int(l.hello.GetWindow()) }

// gathers reports whether the next frame has operations and room for others.
func (l *link) gathers() bool {
	n := len(l.out.operations)
	return n > 0 && n < sharedFrame && len(l.ready) == 0
}

// owed is how many calls the node is to answer without waiting for others.
func (l *link) owed() int { return len(l.calls) - len(l.free) - l.waits + l.columns.extra }

// cancel gives up a call that may wait. It is told with the next frame, behind the
// call, unless the answer comes first: then the id is another's.
func (l *link) cancel(id uint64) { l.cancels = append(l.cancels, id) }

// put adds a call to the next frame, or says why it cannot be sent.
func (l *link) put(c *call) *failure.Error {
	request := c.op.Request
	if c.part != nil {
		if l.hello.GetColumns() && c.part.all.plain {
			return l.putPart(c)
		}
		request = c.part.request()
	}
	o := frame.Operation{ID: l.take(c), Method: l.ref(c.op.Method)}
	if c.session != nil {
		o.Number = c.number
		o.Settled, o.SettledOther = c.session.settledFor(c)
		l.name(c.session)
	}
	if d := c.batch.deadline; !d.IsZero() {
		o.TimeoutMS = uint32(min(max(time.Until(d).Milliseconds(), 1), 1<<31))
	}
	before := len(l.out.operations)
	var err error
	if l.out.operations, err = frame.AppendOperation(l.out.operations, &o, request); err != nil {
		l.release(c)
		return failure.Wrap(err, failure.InvalidField, "the request does not encode: %v", err)
	}
	return l.bound(c, before)
}

// bound starts a new frame where the present one has become too large.
func (l *link) bound(c *call, before int) *failure.Error {
	limit := int(l.hello.GetMaxFrameBytes())
	if n := l.out.len(); n <= limit {
		if n >= fullFrame {
			l.seal()
			l.wakeWriter()
		}
		return nil
	}
	last := append([]byte(nil), l.out.operations[before:]...)
	l.out.operations = l.out.operations[:before]
	if len(last) > limit {
		l.release(c)
		return failure.New(failure.Limit, "the operation takes %d bytes, the node takes %d", len(last), limit)
	}
	l.seal()
	l.out.operations = append(l.out.operations, last...)
	return nil
}

// take gives a call its id.
func (l *link) take(c *call) uint64 {
	c.link = l
	if c.waits {
		l.waits++
	}
	if n := len(l.free); n > 0 {
		c.id = l.free[n-1]
		l.free = l.free[:n-1]
		l.calls[c.id-1] = c
		return c.id
	}
	l.calls = append(l.calls, c)
	c.id = uint64(len(l.calls))
	return c.id
}

func (l *link) release(c *call) {
	l.calls[c.id-1] = nil
	l.free = append(l.free, c.id)
	if len(l.cancels) > 0 {
		l.cancels = slices.DeleteFunc(l.cancels, func(id uint64) bool { return id == c.id })
	}
	c.id, c.link = 0, nil
	if c.waits {
		l.waits--
	}
}

// ref is the number of a method on this stream.
func (l *link) ref(m *handles.Method) uint32 {
	n, ok := l.refs[m]
	if !ok {
		n = uint32(len(l.refs)) + 1 //nolint:gosec // there are few methods
		l.refs[m] = n
		l.out.head = frame.AppendMethod(l.out.head, n, m.Procedure)
	}
	return n
}

// name tells the stream of a session.
func (l *link) name(s *session) {
	if l.current.has(s.shard) {
		return
	}
	l.current.add(s.shard)
	former := l.named[s.shard]
	if former == s.id {
		return
	}
	l.endColumn()
	if former != "" && len(l.out.operations) > 0 {
		// These were numbered under the former session, and a frame's
		// sessions come before its operations.
		l.seal()
	}
	l.named[s.shard] = s.id
	l.out.head = frame.AppendSession(l.out.head, s.shard, s.id, false)
}

// open asks for a session.
func (l *link) open(shard uint32) { l.out.head = frame.AppendOpen(l.out.head, shard) }

// write sends what has gathered.
func (l *link) write(ctx context.Context) error {
	for {
		select {
		case <-l.wake:
		case <-l.done:
			return nil
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // the engine's own
		}
		// Callers that are ready to run may have more.
		runtime.Gosched()
		for b := l.next(); b != nil; b = l.next() {
			if err := l.frames.Send(b); err != nil {
				return err //nolint:wrapcheck // of the transport
			}
		}
	}
}

// next returns a frame to be sent, nil where there is none.
func (l *link) next() []byte {
	e := l.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	l.endColumn()
	if len(l.ready) == 0 && l.out.len() == 0 && len(l.cancels) == 0 {
		return nil
	}
	e.stats.Frames++
	l.keep(l.buffer)
	if len(l.ready) > 0 {
		l.buffer = l.ready[0]
		l.ready = slices.Delete(l.ready, 0, 1)
		return l.buffer
	}
	for _, id := range l.cancels {
		l.out.last = frame.AppendCancel(l.out.last, id)
	}
	l.cancels = l.cancels[:0]
	l.buffer = l.out.take(l.spared())
	return l.buffer
}

// seal ends the frame that gathers.
func (l *link) seal() { l.ready = append(l.ready, l.out.take(l.spared())) }

// keep takes the buffer of a frame that was sent.
func (l *link) keep(b []byte) {
	if len(l.spare) < keptBuffers && cap(b) > 0 && cap(b) <= keptBuffer {
		l.spare = append(l.spare, b[:0])
	}
}

// spared is an empty buffer.
func (l *link) spared() []byte {
	n := len(l.spare)
	if n == 0 {
		return nil
	}
	b := l.spare[n-1]
	l.spare = l.spare[:n-1]
	return b
}

// watch gives up a stream that is silent although it should say something.
func (l *link) watch(ctx context.Context) error {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-l.done:
			return nil
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // the engine's own
		}
		if err := l.look(time.Now()); err != nil {
			return err
		}
	}
}

// busy reports whether the node owes an answer.
func (l *link) busy() bool {
	return l.owed() > 0 || slices.ContainsFunc(l.engine.sessions, func(s *session) bool {
		return s != nil && s.state == sessionOpening && s.opener == l
	})
}

var errSilent = errors.New("client: the node is silent")

func (l *link) look(now time.Time) error {
	e := l.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	limit := e.options.KeepAlive
	if l.busy() {
		limit = busySilence
	}
	heard := time.Unix(0, l.heard.Load())
	silent := now.Sub(heard)
	if limit < 0 || silent < limit {
		return nil
	}
	if l.asked.After(heard) {
		if now.Sub(l.asked) >= pongTimeout {
			return fmt.Errorf("%w for %v", errSilent, silent.Round(time.Millisecond))
		}
		return nil
	}
	l.asked = now
	l.pings++
	l.out.last = frame.AppendPing(l.out.last, l.pings)
	l.wakeWriter()
	return nil
}

// read hands out the node's answers.
func (l *link) read(context.Context) error {
	for {
		b, err := l.frames.Recv()
		if err != nil {
			return err //nolint:wrapcheck // of the transport
		}
		l.heard.Store(time.Now().UnixNano())
		if err := l.handle(b); err != nil {
			return fmt.Errorf("client: a frame of the node: %w", err)
		}
	}
}

// handle takes one frame of the node.
func (l *link) handle(b []byte) error {
	e := l.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	err := frame.ReadResponse(b, l)
	e.pump()
	e.kick()
	return err //nolint:wrapcheck // explained by its caller
}

// Hello implements frame.Responses; the first one was read before.
func (*link) Hello(*quernv1.StreamHello) error { return nil }

// Origin implements frame.Responses.
func (l *link) Origin(shard uint32, epoch uint64, node []byte) error {
	if shard >= l.engine.shards {
		return fmt.Errorf("there is no shard %d", shard)
	}
	e := l.engine
	e.owners.set(&l.owners, e.links, shard, epoch, node)
	if string(node) != l.hello.GetNode() {
		e.answeredBy(shard, string(node), epoch)
	}
	return nil
}

// Session implements frame.Responses.
func (l *link) Session(shard uint32, id []byte, closed bool, err *failure.Error) error {
	if shard >= l.engine.shards {
		return fmt.Errorf("there is no shard %d", shard)
	}
	l.stopping = l.stopping || err != nil && err.Reason == failure.Stopping
	l.engine.session(shard, string(id), closed, err)
	return nil
}

// Reply implements frame.Responses.
func (l *link) Reply(id uint64, reply []byte, err *failure.Error) error {
	if id == 0 || id > uint64(len(l.calls)) || l.calls[id-1] == nil || l.calls[id-1].column != nil {
		return fmt.Errorf("an answer to an operation that is not under way: %d", id)
	}
	c := l.calls[id-1]
	l.release(c)
	l.reply = reply
	l.engine.answered(c, l, err)
	return nil
}

// fill decodes the reply under way.
func (l *link) fill(c *call) error {
	if c.part != nil {
		return c.part.fill(l.reply)
	}
	return fastproto.Unmarshal(l.reply, c.op.Reply, nil) //nolint:wrapcheck // explained by its caller
}

// Pong implements frame.Responses: that a frame came is all that matters.
func (*link) Pong(uint64) error { return nil }
