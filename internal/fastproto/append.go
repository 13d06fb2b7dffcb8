package fastproto

import "google.golang.org/protobuf/encoding/protowire"

// AppendUint appends a field with its tag, which takes one byte. Most numbers are
// small.
func AppendUint(b []byte, field protowire.Number, v uint64) []byte {
	tag := byte(field)<<3 | byte(protowire.VarintType) //nolint:gosec // fields are below 16
	switch {
	case v < 1<<7:
		return append(b, tag, byte(v))
	case v < 1<<14:
		return append(b, tag, byte(v)|1<<7, byte(v>>7)) //nolint:gosec // the low bits
	case v < 1<<21:
		return append(b, tag, byte(v)|1<<7, byte(v>>7)|1<<7, byte(v>>14)) //nolint:gosec // the low bits
	}
	return protowire.AppendVarint(append(b, tag), v)
}

// AppendBytes appends a field with its tag, which takes one byte.
func AppendBytes[T string | []byte](b []byte, field protowire.Number, v T) []byte {
	tag := byte(field)<<3 | byte(protowire.BytesType) //nolint:gosec // fields are below 16
	if len(v) < 1<<7 {
		return append(append(b, tag, byte(len(v))), v...) //nolint:gosec // below 1<<7
	}
	return append(protowire.AppendVarint(append(b, tag), uint64(len(v))), v...)
}
