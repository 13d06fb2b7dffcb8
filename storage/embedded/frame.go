package embedded

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
)

// Sizes of the framing. See doc.go for the byte offsets.
const (
	fileHeaderSize  = 88
	frameHeaderSize = 32
	// maxPayload is a sanity bound on the length in a frame's header.
	maxPayload = 1 << 30

	frameMagic = uint32(0x4d465251) // "QRFM" in little endian
	fileMagic  = "QUERNJNL"

	journalVersion = 1
	// flagRewritten marks a file that a recovery wrote: it replaces every
	// file before it.
	flagRewritten = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fileHeader stands at the start of every journal file.
type fileHeader struct {
	rewritten bool
	cluster   [16]byte
	// number is the file's number, which is also its name.
	number uint64
	// first is the sequence number of the file's first frame.
	first uint64
	// base is, in a rewritten file, the position of the states that the file
	// builds on: every later change is in it.
	base uint64
	// salt is random and goes into the checksum of each frame's header, so
	// that no other bytes, a user's values included, pass for a frame.
	salt uint64
}

func (h *fileHeader) encode() []byte {
	b := make([]byte, fileHeaderSize)
	copy(b, fileMagic)
	binary.LittleEndian.PutUint32(b[8:], journalVersion)
	if h.rewritten {
		binary.LittleEndian.PutUint32(b[12:], flagRewritten)
	}
	copy(b[16:], h.cluster[:])
	binary.LittleEndian.PutUint64(b[32:], h.number)
	binary.LittleEndian.PutUint64(b[40:], h.first)
	binary.LittleEndian.PutUint64(b[48:], h.base)
	binary.LittleEndian.PutUint64(b[56:], h.salt)
	binary.LittleEndian.PutUint64(b[80:], xxhash.Sum64(b[:80]))
	return b
}

// decodeFileHeader reads a file header; ok is false where b does not begin with
// an intact one.
func decodeFileHeader(b []byte) (h fileHeader, version uint32, ok bool) {
	if len(b) < fileHeaderSize || string(b[:8]) != fileMagic ||
		binary.LittleEndian.Uint64(b[80:]) != xxhash.Sum64(b[:80]) {
		return h, 0, false
	}
	version = binary.LittleEndian.Uint32(b[8:])
	h.rewritten = binary.LittleEndian.Uint32(b[12:])&flagRewritten != 0
	copy(h.cluster[:], b[16:32])
	h.number = binary.LittleEndian.Uint64(b[32:])
	h.first = binary.LittleEndian.Uint64(b[40:])
	h.base = binary.LittleEndian.Uint64(b[48:])
	h.salt = binary.LittleEndian.Uint64(b[56:])
	return h, version, true
}

// sealFrame fills in the header of a frame whose payload stands behind it.
func sealFrame(frame []byte, seq, salt uint64) {
	payload := frame[frameHeaderSize:]
	binary.LittleEndian.PutUint32(frame, frameMagic)
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(frame[8:], seq)
	binary.LittleEndian.PutUint32(frame[16:], crc32.Checksum(payload, castagnoli))
	binary.LittleEndian.PutUint32(frame[20:], 0)
	binary.LittleEndian.PutUint64(frame[24:], headerSum(frame, salt))
}

// headerSum is the checksum of a frame's header under a file's salt.
func headerSum(header []byte, salt uint64) uint64 {
	var b [frameHeaderSize]byte
	copy(b[:], header[:24])
	binary.LittleEndian.PutUint64(b[24:], salt)
	return xxhash.Sum64(b[:])
}

// frameHeader decodes the header at the start of b, whatever its payload.
func frameHeader(b []byte, salt uint64) (seq uint64, length int, ok bool) {
	if len(b) < frameHeaderSize || binary.LittleEndian.Uint32(b) != frameMagic ||
		binary.LittleEndian.Uint64(b[24:]) != headerSum(b, salt) {
		return 0, 0, false
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > maxPayload {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint64(b[8:]), int(n), true
}

// nextFrame returns the payload of the intact frame at the start of b.
func nextFrame(b []byte, seq, salt uint64) (payload []byte, ok bool) {
	got, n, ok := frameHeader(b, salt)
	if !ok || got != seq || len(b)-frameHeaderSize < n {
		return nil, false
	}
	payload = b[frameHeaderSize : frameHeaderSize+n]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[16:]) {
		return nil, false
	}
	return payload, true
}

// laterFrame looks in b for the header of a frame after seq and returns its
// offset, or -1. A frame is appended only when the one before it was synced, so
// such a header proves that the bad frame at seq was once whole.
func laterFrame(b []byte, seq, salt uint64) int {
	var magic [4]byte
	binary.LittleEndian.PutUint32(magic[:], frameMagic)
	for off := 0; ; off++ {
		i := bytes.Index(b[off:], magic[:])
		if i < 0 {
			return -1
		}
		off += i
		if got, _, ok := frameHeader(b[off:], salt); ok && got > seq {
			return off
		}
	}
}
