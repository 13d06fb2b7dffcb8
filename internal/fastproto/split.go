package fastproto

import (
	"google.golang.org/protobuf/proto"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Split is Unmarshal but for the key, which it leaves out of the message and
// returns as a part of b: perhaps empty, and not checked to be UTF-8. The bytes
// of the message are parts of b, too: who keeps them copies them. It returns
// false, and leaves the message in any state, where it does not know the message
// or finds something in it that is not decoded by hand, such as an idempotency
// key or a guard. s must not be nil.
func Split(b []byte, m proto.Message, s *Scratch) (key []byte, fine bool) {
	switch m := m.(type) {
	case *quernv1.CounterServiceAddRequest:
		return splitAddRequest(b, m, s)
	case *quernv1.CounterServiceGetRequest:
		m.Reset()
		return splitKey(b)
	case *quernv1.MapServicePutRequest:
		m.Reset()
		return splitPutRequest(b, m)
	case *quernv1.MapServiceGetRequest:
		m.Reset()
		return splitKey(b)
	default:
		return nil, false
	}
}

// splitKey decodes a message that is a key.
func splitKey(b []byte) (key []byte, fine bool) {
	if len(b) == 0 {
		return nil, true
	}
	field, key, n := nextBytes(b)
	return key, field == 1 && n == len(b)
}

func splitPutRequest(b []byte, m *quernv1.MapServicePutRequest) (key []byte, fine bool) {
	for len(b) > 0 {
		field, value, n := nextBytes(b)
		switch {
		case n > 0 && field == putKey && key == nil:
			key = value
		case n > 0 && field == putValue && m.Value == nil:
			m.Value = value
		default:
			return nil, false
		}
		b = b[n:]
	}
	return key, true
}
