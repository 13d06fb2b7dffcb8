package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

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
	raw, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("server: encode %T as JSON: %w", message, err)
	}
	var compact bytes.Buffer
	compact.Grow(len(raw))
	if err := json.Compact(&compact, raw); err != nil {
		return nil, fmt.Errorf("server: encode %T as JSON: %w", message, err)
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
