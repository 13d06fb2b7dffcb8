package client_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// stage is a node whose every frame a test writes itself.
type stage struct {
	t       *testing.T
	shards  uint32
	window  uint32
	streams chan *scene
	// refuse, where set, is why there is no stream.
	mu     sync.Mutex
	refuse error // guarded by mu
}

func newStage(t *testing.T) *stage {
	t.Helper()
	return &stage{t: t, shards: 1, window: 1000, streams: make(chan *scene, 16)}
}

// scene is one stream.
type scene struct {
	t      *testing.T
	ctx    context.Context //nolint:containedctx // of the stream
	cancel context.CancelFunc
	in     chan *quernv1.GrainServiceStreamRequest
	out    chan []byte
	// hold, while it is not nil, blocks Send.
	hold chan struct{}
}

func (s *scene) Context() context.Context { return s.ctx }

func (s *scene) Send(b []byte) error {
	var m quernv1.GrainServiceStreamRequest
	if err := proto.Unmarshal(b, &m); err != nil {
		s.t.Error(err)
	}
	if s.hold != nil {
		<-s.hold
	}
	select {
	case s.in <- &m:
		return nil
	case <-s.ctx.Done():
		return io.ErrClosedPipe
	}
}

func (s *scene) Recv() ([]byte, error) {
	select {
	case b := <-s.out:
		return b, nil
	case <-s.ctx.Done():
		return nil, io.ErrUnexpectedEOF
	}
}

func (s *scene) Close() { s.cancel() }

// open is the opener of a client.
func (g *stage) open(ctx context.Context) (frame.Stream, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refuse != nil {
		return nil, g.refuse
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &scene{t: g.t, ctx: ctx, cancel: cancel, in: make(chan *quernv1.GrainServiceStreamRequest, 1000), out: make(chan []byte, 1000)}
	s.say(&quernv1.GrainServiceStreamResponse{Hello: &quernv1.StreamHello{Node: "n", Shards: g.shards, Window: g.window, MaxFrameBytes: 4096}})
	select {
	case g.streams <- s:
		return s, nil
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
}

func (g *stage) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refuse = err
}

// dial connects a client; its first stream is next.
func (g *stage) dial(o client.Options) (*client.Client, *scene) {
	g.t.Helper()
	c, err := client.Over(context.Background(), g.open, o)
	if err != nil {
		g.t.Fatal(err)
	}
	return c, <-g.streams
}

// say sends a frame of the node.
func (s *scene) say(m *quernv1.GrainServiceStreamResponse) {
	b, err := proto.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	s.out <- b
}

// next is the client's next frame that is not a mere ping.
func (s *scene) next() *quernv1.GrainServiceStreamRequest {
	s.t.Helper()
	for {
		select {
		case m := <-s.in:
			if m.GetPing() != 0 && len(m.GetOperations()) == 0 && len(m.GetSessions()) == 0 {
				s.say(&quernv1.GrainServiceStreamResponse{Pong: m.GetPing()})
				continue
			}
			return m
		case <-time.After(time.Minute): //nolint:forbidigo // in a bubble
			s.t.Fatal("no frame came")
		}
	}
}

// operation is the client's next operation. Sessions are opened on the way,
// under the given id.
func (s *scene) operation(session string) *quernv1.StreamOperation {
	s.t.Helper()
	for {
		m := s.next()
		s.grant(m, session)
		if len(m.GetOperations()) > 0 {
			return m.GetOperations()[0]
		}
	}
}

func (s *scene) grant(m *quernv1.GrainServiceStreamRequest, session string) {
	for _, shard := range m.GetOpenSessions() {
		s.say(&quernv1.GrainServiceStreamResponse{Sessions: []*quernv1.StreamSession{{Shard: shard, Id: []byte(session)}}})
	}
}

// value answers an add.
func (s *scene) value(o *quernv1.StreamOperation, v int64) {
	b, err := proto.Marshal(&quernv1.CounterServiceAddResponse{Value: v, Applied: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	s.say(&quernv1.GrainServiceStreamResponse{
		Origins: []*quernv1.StreamOrigin{{Node: "n", Epoch: 7}},
		Replies: []*quernv1.StreamReply{{Id: o.GetId(), Reply: b}},
	})
}

// refuse answers with an error.
func (s *scene) refuse(o *quernv1.StreamOperation, e *quernv1.StreamError) {
	s.say(&quernv1.GrainServiceStreamResponse{Replies: []*quernv1.StreamReply{{Id: o.GetId(), Error: e}}})
}

// result is what an add came to.
type result struct {
	value int64
	err   error
}

func add(c *client.Client, ctx context.Context) <-chan result { //nolint:revive // the client is what it is about
	got := make(chan result, 1)
	go func() {
		v, err := c.Counter("k").Add(ctx, 1)
		got <- result{v, err}
	}()
	return got
}

var errRefused = errors.New("nobody listens")

const (
	sessionOne = "1111111111111111"
	sessionTwo = "2222222222222222"
)
