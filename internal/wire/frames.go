package wire

import (
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Frame is an encoded message that gRPC carries as it is.
type Frame struct {
	// Bytes are gRPC's where they are to be sent: see [Copy]. What was
	// received belongs to the receiver.
	Bytes []byte
}

// Copy returns a frame of the same bytes to be sent, in a buffer which a [Codec]
// gives back when gRPC has sent it.
func Copy(b []byte) *Frame {
	return &Frame{Bytes: append((*mem.DefaultBufferPool().Get(len(b)))[:0], b...)}
}

// Codec is gRPC's codec for protobuf, which lets a [Frame] through.
type Codec struct{ encoding.CodecV2 }

// NewCodec returns the codec.
func NewCodec() Codec { return Codec{encoding.GetCodecV2(grpcproto.Name)} }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*Frame); ok {
		return mem.BufferSlice{mem.NewBuffer(&f.Bytes, mem.DefaultBufferPool())}, nil
	}
	return c.CodecV2.Marshal(v) //nolint:wrapcheck // stands in for it
}

// Unmarshal implements encoding.CodecV2.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*Frame); ok {
		f.Bytes = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, v) //nolint:wrapcheck // stands in for it
}
