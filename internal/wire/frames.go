package wire

import (
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Frame is an encoded message that gRPC carries as it is.
type Frame struct {
	// Bytes came from GetBuffer where they are to be sent. What was received
	// belongs to the receiver.
	Bytes []byte
}

// GetBuffer returns an empty buffer with room for n bytes. A [Codec] gives it
// back when gRPC has sent it.
func GetBuffer(n int) []byte { return (*mem.DefaultBufferPool().Get(n))[:0] }

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
