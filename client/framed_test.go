package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frameconn"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// answerFrame is what a node of one shard says to a frame of adds: each is
// answered with a value.
func answerFrame(m *quernv1.GrainServiceStreamRequest, value int64) *quernv1.GrainServiceStreamResponse {
	out := &quernv1.GrainServiceStreamResponse{Pong: m.GetPing()}
	for _, shard := range m.GetOpenSessions() {
		out.Sessions = append(out.Sessions, &quernv1.StreamSession{Shard: shard, Id: []byte(sessionOne)})
	}
	for _, s := range m.GetSessions() {
		if s.GetClose() {
			out.Sessions = append(out.Sessions, &quernv1.StreamSession{Shard: s.GetShard(), Close: true})
		}
	}
	for _, o := range m.GetOperations() {
		b, _ := proto.Marshal(&quernv1.CounterServiceAddResponse{Value: value})
		out.Replies = append(out.Replies, &quernv1.StreamReply{Id: o.GetId(), Reply: b})
	}
	return out
}

var helloFrame = &quernv1.GrainServiceStreamResponse{Hello: &quernv1.StreamHello{Node: "n", Shards: 1, Window: 100, MaxFrameBytes: 1 << 20}}

// oldNode takes the stream over gRPC only.
type oldNode struct {
	quernv1.UnimplementedGrainServiceServer
}

func (oldNode) Stream(s quernv1.GrainService_StreamServer) error {
	for out := helloFrame; ; {
		if err := s.Send(out); err != nil {
			return err
		}
		m, err := s.Recv()
		if err != nil {
			return err
		}
		out = answerFrame(m, 7)
	}
}

// serveOld runs an old node.
func serveOld(t *testing.T) (addr string) {
	t.Helper()
	lis, g := listen(t), grpc.NewServer()
	quernv1.RegisterGrainServiceServer(g, oldNode{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(lis) })
	t.Cleanup(func() { g.Stop(); serving.Wait() })
	return lis.Addr().String()
}

// serveFrames runs a node that takes streams over connections of their own only.
// talk is called with each, after the hello.
func serveFrames(t *testing.T, talk func(*frameconn.Conn)) (addr string) {
	t.Helper()
	lis := listen(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serveFramed(c, talk) })
		}
	})
	t.Cleanup(func() { _ = lis.Close(); serving.Wait() })
	return lis.Addr().String()
}

func serveFramed(c net.Conn, talk func(*frameconn.Conn)) {
	defer c.Close()
	var first [1]byte
	if _, err := io.ReadFull(c, first[:]); err != nil || first[0] != frameconn.First || frameconn.ReadPreface(c) != nil {
		return
	}
	f, err := frameconn.Answer(c, frameconn.Config{MaxFrame: 1 << 20})
	if err != nil {
		return
	}
	defer f.Close()
	if b, err := proto.Marshal(helloFrame); err == nil && f.Send(b) == nil {
		talk(f)
	}
}

// answering answers adds with a value until the client leaves.
func answering(value int64) func(*frameconn.Conn) {
	return func(f *frameconn.Conn) {
		for {
			b, err := f.Recv()
			if err != nil {
				return
			}
			var m quernv1.GrainServiceStreamRequest
			if proto.Unmarshal(b, &m) != nil {
				return
			}
			if b, err = proto.Marshal(answerFrame(&m, value)); err != nil || f.Send(b) != nil {
				return
			}
		}
	}
}

func dialStream(t *testing.T, target string, o client.Options) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	c, err := client.DialWith(ctx, target, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestTransports(t *testing.T) {
	t.Parallel()
	old, frames := serveOld(t), serveFrames(t, answering(8))
	for _, tt := range []struct {
		name, target string
		options      client.Options
		want         int64
	}{
		{"frames where they are taken", frames, client.Options{}, 8},
		{"gRPC where only that is spoken", old, client.Options{}, 7},
		{"gRPC where it is wanted", old, client.Options{GRPC: true}, 7},
		{"the first address that answers", deadAddr(t) + "," + frames + "," + old, client.Options{}, 8},
		{"several connections", frames, client.Options{Connections: 3}, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := dialStream(t, tt.target, tt.options)
			if v, err := c.Counter("k").Add(t.Context(), 1); v != tt.want || err != nil {
				t.Errorf("got %d, %v", v, err)
			}
			if s := c.Stats(); s.Retries != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("gRPC alone does not reach frames", func(t *testing.T) {
		t.Parallel()
		if _, err := client.DialWith(t.Context(), frames, client.Options{GRPC: true, FailFast: true}); !errors.Is(err, client.ErrUnreachable) {
			t.Errorf("got %v", err)
		}
	})
}

// TestNodeThatEnds: the client moves on, and what was not answered is sent
// again.
func TestNodeThatEnds(t *testing.T) {
	t.Parallel()
	leaving := make(chan struct{}, 1)
	leaving <- struct{}{}
	addr := serveFrames(t, func(f *frameconn.Conn) {
		select {
		case <-leaving:
			for range 2 { // asks for a session, adds
				b, err := f.Recv()
				var m quernv1.GrainServiceStreamRequest
				if err != nil || proto.Unmarshal(b, &m) != nil {
					t.Errorf("the first stream: %v", err)
				}
				if out := answerFrame(&m, 1); len(out.GetReplies()) == 0 {
					b, _ = proto.Marshal(out)
					_ = f.Send(b)
				}
			}
			f.End(failure.New(failure.Stopping, "this node is ending"))
		default:
			answering(2)(f)
		}
	})
	gone := make(chan error, 1)
	c := dialStream(t, addr, client.Options{Hooks: client.Hooks{Disconnected: func(err error) {
		select {
		case gone <- err:
		default:
		}
	}}})
	if v, err := c.Counter("k").Add(t.Context(), 1); v != 2 || err != nil {
		t.Errorf("got %d, %v", v, err)
	}
	if err := <-gone; !errors.Is(err, failure.Stopping) || !strings.Contains(err.Error(), "this node is ending") {
		t.Errorf("the stream ended with %v", err)
	}
	if s := c.Stats(); s.Connects != 2 || s.Retries != 1 {
		t.Errorf("%+v", s)
	}
}
