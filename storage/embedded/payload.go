package embedded

import (
	"encoding/binary"
	"errors"

	"github.com/quern-io/quern/actors"
)

// A payload is a run of entries, each beginning with one of these bytes.
const (
	entryBatch = 'B'
	entryRow   = 'R'
	// entryEnd closes the rewritten part of a rewritten file.
	entryEnd = 'E'
)

const (
	batchHeaderSize = 1 + 4 + 8 + 8 + 4
	rowEntrySize    = 1 + 4 + rowSize
	rowSize         = 8 + 16 + 8
	// recordOverhead bounds what a record takes beyond key and value.
	recordOverhead = 2 * binary.MaxVarintLen64
)

var errPayload = errors.New("malformed payload")

// row is a shard's row.
type row struct {
	epoch       uint64
	incarnation [16]byte
	time        int64
}

func appendRow(b []byte, r *row) []byte {
	b = binary.LittleEndian.AppendUint64(b, r.epoch)
	b = append(b, r.incarnation[:]...)
	return binary.LittleEndian.AppendUint64(b, uint64(r.time))
}

func decodeRow(b []byte) (r row, ok bool) {
	if len(b) != rowSize {
		return r, false
	}
	r.epoch = binary.LittleEndian.Uint64(b)
	copy(r.incarnation[:], b[8:24])
	r.time = int64(binary.LittleEndian.Uint64(b[24:]))
	return r, true
}

func appendRowEntry(b []byte, shard uint32, r *row) []byte {
	b = append(b, entryRow)
	b = binary.LittleEndian.AppendUint32(b, shard)
	return appendRow(b, r)
}

func appendBatchHeader(b []byte, shard uint32, epoch uint64, time int64, count int) []byte {
	b = append(b, entryBatch)
	b = binary.LittleEndian.AppendUint32(b, shard)
	b = binary.LittleEndian.AppendUint64(b, epoch)
	b = binary.LittleEndian.AppendUint64(b, uint64(time))
	return binary.LittleEndian.AppendUint32(b, uint32(count))
}

// appendRecord writes key length, value length and a delete bit, key and value.
func appendRecord(b, key, value []byte, deleted bool) []byte {
	if deleted {
		b = binary.AppendUvarint(b, uint64(len(key)))
		b = append(b, 1)
		return append(b, key...)
	}
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = binary.AppendUvarint(b, uint64(len(value))<<1)
	b = append(b, key...)
	return append(b, value...)
}

// uvarint is binary.Uvarint with a short way for one byte.
func uvarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return binary.Uvarint(b)
}

// decodeRecord reads the record at the start of b. Key and value alias b.
func decodeRecord(b []byte) (key, value []byte, deleted bool, size int, ok bool) {
	klen, n := uvarint(b)
	if n <= 0 {
		return nil, nil, false, 0, false
	}
	vlen, m := uvarint(b[n:])
	if m <= 0 {
		return nil, nil, false, 0, false
	}
	deleted = vlen&1 != 0
	vlen >>= 1
	rest := uint64(len(b) - n - m)
	if klen > rest || vlen > rest-klen || deleted && vlen != 0 {
		return nil, nil, false, 0, false
	}
	at := n + m
	key = b[at : at+int(klen) : at+int(klen)]
	at += int(klen)
	value = b[at : at+int(vlen) : at+int(vlen)]
	return key, value, deleted, at + int(vlen), true
}

// encodedBound is an upper bound of a batch's encoded size.
func encodedBound(b *actors.Batch) int {
	n := batchHeaderSize
	for i := range b.Records {
		n += len(b.Records[i].Key) + len(b.Records[i].Value) + recordOverhead
	}
	return n
}

func appendBatch(b []byte, batch *actors.Batch) []byte {
	b = appendBatchHeader(b, batch.Shard, batch.Epoch, batch.Time, len(batch.Records))
	for i := range batch.Records {
		r := &batch.Records[i]
		b = appendRecord(b, r.Key, r.Value, r.Delete)
	}
	return b
}

// visitor is called for the entries of a payload in order. An error of a method
// ends the walk. Offsets are relative to the payload.
type visitor interface {
	batch(shard uint32, epoch uint64, time int64, count int) error
	// record belongs to the batch before it and stands at offset.
	record(offset int, key []byte)
	row(shard uint32, r row) error
	end()
}

// walk decodes a payload. It returns errPayload for bytes that it does not
// understand; what was visited before stays visited.
func walk(payload []byte, v visitor) error {
	for at := 0; at < len(payload); {
		rest := payload[at:]
		switch {
		case rest[0] == entryBatch && len(rest) >= batchHeaderSize:
			n, err := walkBatch(rest, at, v)
			if err != nil {
				return err
			}
			at += n
		case rest[0] == entryRow && len(rest) >= rowEntrySize:
			r, _ := decodeRow(rest[5:rowEntrySize])
			if err := v.row(binary.LittleEndian.Uint32(rest[1:]), r); err != nil {
				return err
			}
			at += rowEntrySize
		case rest[0] == entryEnd:
			v.end()
			at++
		default:
			return errPayload
		}
	}
	return nil
}

func walkBatch(b []byte, base int, v visitor) (int, error) {
	count := int(binary.LittleEndian.Uint32(b[21:]))
	err := v.batch(binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint64(b[5:]),
		int64(binary.LittleEndian.Uint64(b[13:])), count)
	if err != nil {
		return 0, err
	}
	at := batchHeaderSize
	for range count {
		key, _, _, size, ok := decodeRecord(b[at:])
		if !ok {
			return 0, errPayload
		}
		v.record(base+at, key)
		at += size
	}
	return at, nil
}
