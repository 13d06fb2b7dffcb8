package fastproto

import (
	"bytes"

	"google.golang.org/protobuf/encoding/protowire"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// The fields of MapServicePutRequest, its response, and MapServiceGetResponse.
const (
	putKey   = 1
	putOnce  = 2
	putValue = 4

	putVersion = 1
	putFound   = 2

	entryValue   = 1
	entryVersion = 2
	entryFound   = 3
)

// appendPutRequest leaves conditions, expiries and guards to package proto.
func appendPutRequest(b []byte, m *quernv1.MapServicePutRequest) ([]byte, bool) {
	if m.IfVersion != nil || m.GetIfAbsent() || m.GetTtl() != nil || m.GetGuard() != nil {
		return b, false
	}
	b, ok := appendString(b, putKey, m.GetKey())
	if !ok {
		return b, false
	}
	if b, ok = appendString(b, putOnce, m.GetIdempotencyKey()); !ok {
		return b, false
	}
	return appendBytes(b, putValue, m.GetValue()), true
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return AppendBytes(b, field, v)
}

// appendVersion appends a version and, in the field behind it, whether there
// was an entry.
func appendVersion(b []byte, field protowire.Number, version uint64, found bool) []byte {
	if version != 0 {
		b = AppendUint(b, field, version)
	}
	if found {
		b = appendInt(b, field+1, 1)
	}
	return b
}

func appendPutResponse(b []byte, m *quernv1.MapServicePutResponse) []byte {
	return appendVersion(b, putVersion, m.GetVersion(), m.GetFound())
}

// appendEntry returns false where the entry expires.
func appendEntry(b []byte, m *quernv1.MapServiceGetResponse) ([]byte, bool) {
	if m.GetTtl() != nil {
		return b, false
	}
	return appendVersion(appendBytes(b, entryValue, m.GetValue()), entryVersion, m.GetVersion(), m.GetFound()), true
}

// decodePutRequest returns false, and leaves the message in any state, where
// package proto has to have a look.
func decodePutRequest(b []byte, m *quernv1.MapServicePutRequest) bool {
	for len(b) > 0 {
		field, value, n := nextBytes(b)
		if n < 0 {
			return false
		}
		switch field {
		case putKey:
			v, n := text(b[1:])
			if n < 0 {
				return false
			}
			m.Key = string(v)
		case putValue:
			m.Value = bytes.Clone(value)
		default:
			return false
		}
		b = b[n:]
	}
	return true
}

func decodePutResponse(b []byte, m *quernv1.MapServicePutResponse) bool {
	return decodeVersion(b, putVersion, &m.Version, &m.Found)
}

// decodeVersion decodes what appendVersion appends.
func decodeVersion(b []byte, first byte, version *uint64, found *bool) bool {
	for len(b) > 0 {
		if b[0]&7 != byte(protowire.VarintType) {
			return false
		}
		v, n := protowire.ConsumeVarint(b[1:])
		if n < 0 {
			return false
		}
		switch b[0] >> 3 {
		case first:
			*version = v
		case first + 1:
			*found = v != 0
		default:
			return false
		}
		b = b[1+n:]
	}
	return true
}

func decodeEntry(b []byte, m *quernv1.MapServiceGetResponse) bool {
	for len(b) > 0 && b[0] == entryValue<<3|byte(protowire.BytesType) {
		value, n := protowire.ConsumeBytes(b[1:])
		if n < 0 {
			return false
		}
		m.Value, b = bytes.Clone(value), b[1+n:]
	}
	return decodeVersion(b, entryVersion, &m.Version, &m.Found)
}
