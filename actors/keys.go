package actors

import (
	"encoding/binary"
	"errors"
)

// The records of a shard, by the first byte of their keys. A name is a length
// as uvarint and the bytes.
//
//	's' kind-name key-bytes            the state of a grain
//	'o' kind-name key-name id-bytes    the kept answer to an operation
//	'g' kind-name key-bytes            the guards of a grain
//	't' due class kind-name key-bytes  a turn to come: due is 8 bytes, big
//	                                   endian, Unix milliseconds; class is 's'
//	                                   for the state, 'o' for kept answers
const (
	tableState = 's'
	tableOnce  = 'o'
	tableTimer = 't'
	tableGuard = 'g'
)

var (
	errRecordKey   = errors.New("actors: malformed record key")
	errGuardRecord = errors.New("actors: a guard record has a mark that is empty, twice there, or one too many")
)

func appendName[T string | []byte](b []byte, name T) []byte {
	b = binary.AppendUvarint(b, uint64(len(name)))
	return append(b, name...)
}

func appendStateKey(b []byte, kind, key string) []byte {
	return append(appendName(append(b, tableState), kind), key...)
}

func appendGuardKey(b []byte, kind, key string) []byte {
	return append(appendName(append(b, tableGuard), kind), key...)
}

// appendOncePrefix is the common beginning of all kept answers of a grain.
func appendOncePrefix(b []byte, kind, key string) []byte {
	return appendName(appendName(append(b, tableOnce), kind), key)
}

func appendTimerKey(b []byte, due int64, class byte, kind, key string) []byte {
	b = appendTimerBound(b, due)
	return append(appendName(append(b, class), kind), key...)
}

// appendTimerBound is the lowest timer key that is due at the given time.
func appendTimerBound(b []byte, due int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, tableTimer), uint64(due)) //nolint:gosec // times are positive
}

// timerKey is a decoded key of the timer table.
type timerKey struct {
	due   int64
	class byte
	kind  string
	key   string
}

func parseTimerKey(b []byte) (timerKey, error) {
	const head = 1 + 8 + 1
	if len(b) < head || b[0] != tableTimer {
		return timerKey{}, errRecordKey
	}
	t := timerKey{due: int64(binary.BigEndian.Uint64(b[1:])), class: b[9]} //nolint:gosec // checked below
	if t.due < 0 || (t.class != tableState && t.class != tableOnce) {
		return timerKey{}, errRecordKey
	}
	n, width := binary.Uvarint(b[head:])
	rest := b[head+max(width, 0):]
	if width <= 0 || n > uint64(len(rest)) {
		return timerKey{}, errRecordKey
	}
	t.kind, t.key = string(rest[:n]), string(rest[n:])
	return t, nil
}

// prefixEnd returns the lowest key above all that begin with prefix.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}
