package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/wire"
)

// received is a request on its way in. grpc-go answers what its codec refuses
// before a handler can say why; so the codec refuses nothing that goes into a
// received, and leaves the reason there.
type received struct {
	into    proto.Message
	refused error // a status with a reason
}

// grpcCodec is gRPC's codec for protobuf, which gives reasons.
type grpcCodec struct {
	wire.Codec

	limit int
}

func newGRPCCodec(limit int) grpcCodec {
	return grpcCodec{Codec: wire.NewCodec(), limit: limit}
}

// Marshal implements encoding.CodecV2.
func (c grpcCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*sharedMessage)
	if !ok {
		return c.Codec.Marshal(v) //nolint:wrapcheck // stands in for it
	}
	b, err := m.encoded("proto", marshalProto)
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c grpcCodec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*received)
	if !ok {
		return c.Codec.Unmarshal(data, v) //nolint:wrapcheck // of a library's service
	}
	if n := data.Len(); n > c.limit {
		r.refused = wire.Status(errTooLarge(c.limit)).Err()
		return nil
	}
	if err := c.Codec.Unmarshal(data, r.into); err != nil {
		e := failure.New(failure.InvalidField, "the message does not decode: %v", err)
		r.refused = wire.StatusWithCode(e, codes.Internal).Err()
	}
	return nil
}

// errTooLarge refuses a message.
func errTooLarge(limit int) *failure.Error {
	return failure.New(failure.Limit, "the message is larger than %d bytes", limit)
}

// jsonCodec is protojson with two rules of its own: zero values are written,
// and a field that the message does not have is refused by its name, since a
// misspelt idempotency key must not count twice. Connect's own codec drops
// both.
type jsonCodec struct{ name string }

// jsonCodecs returns the codec under both names that Connect knows JSON by.
func jsonCodecs() []jsonCodec { return []jsonCodec{{"json"}, {"json; charset=utf-8"}} }

// Name implements connect.Codec.
func (c jsonCodec) Name() string { return c.name }

// Marshal implements connect.Codec. The output has no white space, which
// protojson would put in at random.
func (c jsonCodec) Marshal(message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("server: %T is no protobuf message", message)
	}
	if m, ok := m.(*sharedMessage); ok {
		return m.encoded("json", marshalJSON)
	}
	return marshalJSON(m)
}

func marshalJSON(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("server: encode %T as JSON: %w", m, err)
	}
	var compact bytes.Buffer
	compact.Grow(len(raw))
	if err := json.Compact(&compact, raw); err != nil {
		return nil, fmt.Errorf("server: encode %T as JSON: %w", m, err)
	}
	return compact.Bytes(), nil
}

// Unmarshal implements connect.Codec.
func (c jsonCodec) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("server: %T is no protobuf message", message)
	}
	if len(data) == 0 {
		return errors.New("an empty body is no JSON object; {} is one")
	}
	return protojson.Unmarshal(data, m) //nolint:wrapcheck // names field and place; Connect adds the rest
}
