package frame

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/internal/fastproto"
)

// appendTag appends a tag of one byte.
func appendTag(b []byte, field protowire.Number, typ protowire.Type) []byte {
	return append(b, byte(field)<<3|byte(typ)) //nolint:gosec // fields are below 16
}

// appendUint leaves out zero, as every implicit field does.
func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return fastproto.AppendUint(b, field, v)
}

func appendBytes[T string | []byte](b []byte, field protowire.Number, v T) []byte {
	if len(v) == 0 {
		return b
	}
	return fastproto.AppendBytes(b, field, v)
}

// begin starts a nested message whose length is not known yet.
func begin(b []byte, field protowire.Number) (_ []byte, start int) {
	b = append(appendTag(b, field, protowire.BytesType), 0)
	return b, len(b)
}

// end writes the length of what was appended since begin. One byte was left for
// it; what is longer moves up.
func end(b []byte, start int) []byte {
	n := len(b) - start
	if n < 1<<7 {
		b[start-1] = byte(n) //nolint:gosec // below 1<<7
		return b
	}
	width := protowire.SizeVarint(uint64(n))
	b = append(b, make([]byte, width-1)...)
	copy(b[start+width-1:], b[start:start+n])
	protowire.AppendVarint(b[:start-1], uint64(n))
	return b
}

// appendMessage appends a nested message of any type.
func appendMessage(b []byte, field protowire.Number, m proto.Message) ([]byte, error) {
	whole, start := begin(b, field)
	whole, err := fastproto.Append(whole, m)
	if err != nil {
		return b, err //nolint:wrapcheck // package proto says all
	}
	return end(whole, start), nil
}
