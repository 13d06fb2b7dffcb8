package fastproto

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// BeginValues begins the encoding of a CounterServiceAddManyResponse, whose
// values are appended one by one with AppendValue.
func BeginValues(b []byte) []byte {
	return append(b, manyValues<<3|byte(protowire.BytesType), 0)
}

// AppendValue appends the next value.
func AppendValue(b []byte, v int64) []byte {
	for u := protowire.EncodeZigZag(v); ; u >>= 7 {
		if u < 1<<7 {
			return append(b, byte(u))
		}
		b = append(b, byte(u)|1<<7)
	}
}

// EndValues ends the list that BeginValues has begun at the given length of b.
// There must be a value.
func EndValues(b []byte, begun int) []byte {
	start := begun + 2
	n := len(b) - start
	if n < 1<<7 {
		b[start-1] = byte(n) //nolint:gosec // below 128
		return b
	}
	width := protowire.SizeVarint(uint64(n))
	b = append(b, make([]byte, width-1)...)
	copy(b[start+width-1:], b[start:start+n])
	protowire.AppendVarint(b[:start-1], uint64(n))
	return b
}

// PlainValues returns the encoded values of a CounterServiceAddManyResponse that
// has nothing else; false where package proto has to have a look.
func PlainValues(b []byte) ([]byte, bool) {
	if len(b) == 0 {
		return nil, false
	}
	field, value, n := nextBytes(b)
	return value, n == len(b) && field == manyValues
}

// NextValue decodes the first of some values; n is its length, negative where
// it is cut off.
func NextValue(b []byte) (v int64, n int) {
	if len(b) > 0 && b[0] < 1<<7 {
		return protowire.DecodeZigZag(uint64(b[0])), 1
	}
	u, n := protowire.ConsumeVarint(b)
	return protowire.DecodeZigZag(u), n
}
