package server_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frameconn"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// framesPreface is what a stream over a connection of its own begins with,
// written out a second time on purpose.
const framesPreface = "\x89QUERN\r\n\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// overGRPC is a stream of gRPC.
func overGRPC(t *testing.T, s *server.Server) link {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	stream, err := quernv1.NewGrainServiceClient(plain(t, s.GRPCAddr())).Stream(ctx, grpc.ForceCodecV2(wire.NewCodec()))
	if err != nil {
		t.Fatal(err)
	}
	return grpcLink{stream}
}

type grpcLink struct {
	stream quernv1.GrainService_StreamClient
}

func (l grpcLink) send(b []byte) error { return l.stream.SendMsg(wire.Copy(b)) }

func (l grpcLink) recv() ([]byte, error) {
	var f wire.Frame
	err := l.stream.RecvMsg(&f)
	return f.Bytes, err
}

func (l grpcLink) closeSend() error { return l.stream.CloseSend() }

func (grpcLink) ended(err error) (*failure.Error, bool) { return wire.FromStatus(status.Convert(err)) }

// overFrames is a stream over a connection of its own.
func overFrames(t *testing.T, s *server.Server) link {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	raw := stranger(t, s.GRPCAddr())
	f, err := frameconn.Dial(ctx, raw, testTimeout, frameconn.Config{MaxFrame: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	context.AfterFunc(ctx, f.Close)
	return framesLink{f, raw}
}

type framesLink struct {
	conn *frameconn.Conn
	raw  net.Conn
}

func (l framesLink) send(b []byte) error { return l.conn.Send(b) }

func (l framesLink) recv() ([]byte, error) { return l.conn.Recv() }

func (l framesLink) closeSend() error {
	return l.raw.(*net.TCPConn).CloseWrite() //nolint:errcheck,forcetypeassert // it is one
}

func (framesLink) ended(err error) (*failure.Error, bool) { return errors.AsType[*failure.Error](err) }

// TestBothOnOnePort, in whatever pieces the first bytes come.
func TestBothOnOnePort(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{})
	for name, preface := range map[string]string{"frames": framesPreface, "gRPC": http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"} {
		for _, piece := range []int{1, 7, len(preface)} {
			raw := stranger(t, s.GRPCAddr())
			for b := []byte(preface); len(b) > 0; b = b[min(piece, len(b)):] {
				if _, err := raw.Write(b[:min(piece, len(b))]); err != nil {
					t.Fatal(err)
				}
			}
			answer := make([]byte, len(framesPreface))
			if _, err := io.ReadFull(raw, answer); err != nil {
				t.Fatalf("%s in pieces of %d: %v", name, piece, err)
			}
			if own := string(answer) == framesPreface; own != (name == "frames") {
				t.Errorf("%s was answered with %q", name, answer)
			}
		}
	}
	if grpc, frames := connections(t, s, "grpc"), connections(t, s, "frames"); grpc != 3 || frames != 3 {
		t.Errorf("%d connections of gRPC, %d of frames", grpc, frames)
	}
}

func TestFramesCountAsConnections(t *testing.T) {
	t.Parallel()
	s := start(t, &fake{}, func(c *server.Config) { c.MaxConns = 1 })
	k := converse(t, overFrames(t, s))
	readToEnd(t, stranger(t, s.GRPCAddr()))
	k.say(operations(addOf(t, 1, "a")))
	k.hear()
}

// TestStopCutsFramesOff where what is under way does not end in time.
func TestStopCutsFramesOff(t *testing.T) {
	t.Parallel()
	b := newSlowly()
	s := server.New(server.Config{Backend: b, Listen: "127.0.0.1:0"})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	k := converse(t, overFrames(t, s))
	k.say(operations(addOf(t, 1, "a")))
	b.take(1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if _, err := k.link.recv(); err == nil {
		t.Error("something was answered")
	}
}

// TestClientThatLeavesWaitsForNothing: what it waited for is given up.
func TestClientThatLeavesWaitsForNothing(t *testing.T) {
	t.Parallel()
	b := &waiting{begun: make(chan struct{}, 1), canceled: make(chan struct{})}
	k := converse(t, overFrames(t, start(t, b)))
	wait := acquires(t, 1, 1)
	wait.Methods[0].Ref, wait.Operations[0].Method = 2, 2
	k.say(wait)
	<-b.begun
	k.link.(framesLink).conn.Close() //nolint:errcheck,forcetypeassert // it is one
	<-b.canceled
}

// waiting is a backend whose locks are never free.
type waiting struct {
	fake

	begun, canceled chan struct{}
}

func (b *waiting) SubmitWait(_ *handles.Operation, _ time.Time, done handles.Completer) func(bool) {
	b.begun <- struct{}{}
	end := sync.OnceFunc(func() {
		close(b.canceled)
		done.Completed(1, failure.New(failure.Canceled, "given up"))
	})
	return func(bool) { end() }
}

// TestFramesToANodeThatEnds are refused with a reason.
func TestFramesToANodeThatEnds(t *testing.T) {
	t.Parallel()
	b := newSlowly()
	s := start(t, b)
	k := converse(t, overFrames(t, s))
	k.say(operations(addOf(t, 1, "a")))
	begun := b.take(1)[0]
	stopping := stoppingSignal(t, s)
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.Background()) }()
	<-stopping
	late := &talk{t: t, link: overFrames(t, s)}
	if got := late.reason(); got != failure.Stopping {
		t.Errorf("ended with %v", got)
	}
	begun.answer(1)
	k.hear()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
