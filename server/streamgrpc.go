package server

import (
	"fmt"
	"log/slog"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// registerGrains registers GrainService with a stream whose frames are not
// decoded by gRPC.
func registerGrains(g *grpc.Server, s *grainService, cut func(net.Addr)) {
	desc := quernv1.GrainService_ServiceDesc
	desc.HandlerType = nil
	desc.Streams = []grpc.StreamDesc{{
		StreamName: "Stream", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			return s.serve(&grpcFrames{ServerStream: stream, cut: cut})
		},
	}}
	g.RegisterService(&desc, nil)
}

func (s *Server) newGrains(f face) *grainService {
	lists, _ := s.cfg.Backend.(handles.ListSubmitter)
	peers, _ := s.cfg.Backend.(Peer)
	adds, _ := s.cfg.Backend.(handles.AddsSubmitter)
	g := &grainService{
		core: s.core, face: f, lists: lists, peers: peers, adds: adds, methods: streamMethodsOf(s.callers("stream", f)),
		maxFrame: s.cfg.MaxMessageBytes, slowReader: s.cfg.WriteTimeout, stopping: s.stopping, readers: &s.handlers,
	}
	if d, ok := s.cfg.Backend.(handles.Director); ok && peers == nil && d.Direct() != nil {
		g.directs = &sync.Pool{New: func() any { return &directs{Direct: d.Direct()} }}
	}
	return g
}

// ServeStream serves a stream of any transport until it ends, beside those of
// the gRPC listener. It may be called from [Server.Start] on.
func (s *Server) ServeStream(f frame.Stream) error {
	s.mu.Lock()
	ended := s.life.ended
	if !ended {
		s.handlers.Add(1) // before Stop waits for them
	}
	s.mu.Unlock()
	if ended {
		return s.grains.face.fail(f.Context(), errStopping)
	}
	defer s.handlers.Done()
	return s.grains.serve(f)
}

// cutConn closes the connection from an address.
func (s *Server) cutConn(addr net.Addr) {
	s.mu.Lock()
	lis := s.life.grpcLis
	s.mu.Unlock()
	lis.conns.Range(func(c, _ any) bool {
		of, ok := c.(net.Conn)
		if !ok || of.RemoteAddr().String() != addr.String() {
			return true
		}
		s.cfg.Logger.Info("cut off a client that does not read", slog.String("peer", addr.String()))
		_ = of.Close()
		return false
	})
}

// grpcFrames is a stream of gRPC.
type grpcFrames struct {
	grpc.ServerStream

	cut func(net.Addr)
}

// Send implements frame.Stream.
func (f *grpcFrames) Send(b []byte) error {
	if err := f.SendMsg(wire.Copy(b)); err != nil {
		return fmt.Errorf("server: send a frame: %w", err)
	}
	return nil
}

// Recv implements frame.Stream.
func (f *grpcFrames) Recv() ([]byte, error) {
	var raw wire.Frame
	if err := f.RecvMsg(&raw); err != nil {
		return nil, err //nolint:wrapcheck // io.EOF among them
	}
	return raw.Bytes, nil
}

// Close implements frame.Stream: the client does not read, so that nothing but
// the end of its connection reaches it.
func (f *grpcFrames) Close() {
	if p, ok := peer.FromContext(f.Context()); ok {
		f.cut(p.Addr)
	}
}
