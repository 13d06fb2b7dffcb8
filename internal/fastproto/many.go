package fastproto

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// The fields of CounterServiceAddManyRequest and of its response.
const (
	manyKeys   = 1
	manyOnce   = 2
	manyDeltas = 4

	manyValues = 1
)

func appendManyRequest(b []byte, m *quernv1.CounterServiceAddManyRequest) ([]byte, bool) {
	if m.GetGuard() != nil {
		return b, false
	}
	for _, key := range m.GetKeys() {
		if !utf8.ValidString(key) {
			return b, false
		}
		b = protowire.AppendString(protowire.AppendTag(b, manyKeys, protowire.BytesType), key)
	}
	b, ok := appendString(b, manyOnce, m.GetIdempotencyKey())
	return appendPacked(b, manyDeltas, m.GetDeltas()), ok
}

// appendPacked appends a packed list of sint64.
func appendPacked(b []byte, field protowire.Number, values []int64) []byte {
	if len(values) == 0 {
		return b
	}
	size := 0
	for _, v := range values {
		size += protowire.SizeVarint(protowire.EncodeZigZag(v))
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(size))
	for _, v := range values {
		b = protowire.AppendVarint(b, protowire.EncodeZigZag(v))
	}
	return b
}

// decodeManyRequest uses the message's lists again. The keys share one string:
// whoever keeps one of them for long copies it.
func decodeManyRequest(b []byte, m *quernv1.CounterServiceAddManyRequest) bool {
	keys, deltas := m.Keys[:0], m.Deltas[:0]
	m.Reset()
	if !utf8.Valid(b) && !validKeys(b) {
		return false
	}
	all := string(b)
	for at := 0; at < len(b); {
		tag, value, n := nextBytes(b[at:])
		if n < 0 {
			return false
		}
		start := at + n - len(value)
		at += n
		switch tag {
		case manyKeys:
			keys = append(keys, all[start:at])
		case manyDeltas:
			var ok bool
			if deltas, ok = appendInts64(deltas, value); !ok {
				return false
			}
		default:
			return false
		}
	}
	if len(keys) > 0 {
		m.Keys = keys
	}
	if len(deltas) > 0 {
		m.Deltas = deltas
	}
	return true
}

// validKeys looks at the keys one by one: what lies between them is no text.
func validKeys(b []byte) bool {
	for len(b) > 0 {
		tag, value, n := nextBytes(b)
		if n < 0 || tag == manyKeys && !utf8.Valid(value) {
			return false
		}
		b = b[n:]
	}
	return true
}

// nextBytes reads a field that has a length and a tag of one byte; n is the
// field's whole length, negative where it is no such field.
func nextBytes(b []byte) (field byte, value []byte, n int) {
	if b[0]&7 != byte(protowire.BytesType) || b[0] >= 1<<7 {
		return 0, nil, -1
	}
	if value, n = protowire.ConsumeBytes(b[1:]); n < 0 {
		return 0, nil, -1
	}
	return b[0] >> 3, value, 1 + n
}

// appendInts64 decodes a packed list of sint64.
func appendInts64(to []int64, b []byte) ([]int64, bool) {
	for len(b) > 0 {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return to, false
		}
		to, b = append(to, protowire.DecodeZigZag(v)), b[n:]
	}
	return to, true
}

// appendManyResponse returns false where there are failures.
func appendManyResponse(b []byte, m *quernv1.CounterServiceAddManyResponse) ([]byte, bool) {
	return appendPacked(b, manyValues, m.GetValues()), len(m.GetFailures()) == 0
}

// decodeManyResponse uses the message's list again.
func decodeManyResponse(b []byte, m *quernv1.CounterServiceAddManyResponse) bool {
	values := m.Values[:0]
	m.Reset()
	for len(b) > 0 {
		field, value, n := nextBytes(b)
		if n < 0 || field != manyValues {
			return false
		}
		var ok bool
		if values, ok = appendInts64(values, value); !ok {
			return false
		}
		b = b[n:]
	}
	if len(values) > 0 {
		m.Values = values
	}
	return true
}
