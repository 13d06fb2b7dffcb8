package server

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/handles"
)

// grpcWatch is a watching method of gRPC.
func grpcWatch[Q any, PQ interface {
	*Q
	keyedMessage
}](c *watchCaller) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName: c.method.Name, ServerStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			message := PQ(new(Q))
			in := &received{into: message}
			if err := stream.RecvMsg(in); err != nil {
				return err //nolint:wrapcheck // of the transport: the client has it already
			}
			if in.refused != nil {
				return in.refused
			}
			conn := ""
			if p, ok := peer.FromContext(stream.Context()); ok {
				conn = p.Addr.String()
			}
			return c.watch(stream.Context(), conn, message, grpcSink{stream})
		},
	}
}

// grpcSink is the stream of a watch over gRPC.
type grpcSink struct{ stream grpc.ServerStream }

// Send implements sink.
func (s grpcSink) Send(e *handles.Event) error {
	if err := s.stream.SendMsg(shared(e)); err != nil {
		return fmt.Errorf("server: send an event: %w", err)
	}
	return nil
}

// marshalProto encodes a message for the wire.
func marshalProto(m proto.Message) ([]byte, error) {
	return proto.Marshal(m) //nolint:wrapcheck // says it all
}
