package embedded

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
)

// journalBytes builds a journal file with a few frames.
func journalBytes(salt uint64) []byte {
	h := fileHeader{number: 1, first: 1, salt: salt}
	file := h.encode()
	payloads := [][]byte{
		appendRowEntry(nil, 1, &row{epoch: 3, incarnation: [16]byte{1}}),
		appendBatch(nil, &actors.Batch{Shard: 1, Epoch: 3, Time: 9, Records: []actors.Record{
			{Key: []byte("a"), Value: []byte("1")}, {Key: []byte("b"), Delete: true}, {Key: nil, Value: nil},
		}}),
		{entryEnd},
	}
	for i, p := range payloads {
		frame := append(make([]byte, frameHeaderSize), p...)
		sealFrame(frame, uint64(i+1), salt)
		file = append(file, frame...)
	}
	return file
}

// replayBytes replays one journal file.
func replayBytes(t *testing.T, file []byte) (replayed, *applier, error) {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("/j", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeSynced(fs, "/j/00000001.log", bytes.Clone(file)); err != nil {
		t.Fatal(err)
	}
	a := &applier{tail: newTail(4), rows: make([]row, 4)}
	r := replayer{fs: fs, dir: "/j"}
	found, err := r.run(a)
	return found, a, err
}

// FuzzJournal replays any bytes: no panic, known errors only, and what it accepts
// lies within the file.
func FuzzJournal(f *testing.F) {
	whole := journalBytes(7)
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(append(bytes.Clone(whole), make([]byte, 100)...))
	f.Add(whole[:fileHeaderSize])
	f.Add([]byte(fileMagic))
	broken := bytes.Clone(whole)
	broken[fileHeaderSize+40] ^= 1
	f.Add(broken)
	f.Fuzz(func(t *testing.T, file []byte) {
		found, a, err := replayBytes(t, file)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewer) {
				t.Errorf("error: %v", err)
			}
			return
		}
		if found.end > int64(len(file)) || found.next == 0 {
			t.Errorf("replayed %+v of %d bytes", found, len(file))
		}
		for shard := range a.rows {
			for _, it := range a.tail.collect(nil, uint32(shard), nil, nil) {
				if _, _, ok := a.tail.get(uint32(shard), xxhash.Sum64(it.key), it.key); !ok {
					t.Errorf("key %q is listed and not found", it.key)
				}
			}
		}
	})
}

// FuzzFrames puts any bytes behind an intact header and an intact frame, as a
// torn append does: the frame is never lost.
func FuzzFrames(f *testing.F) {
	whole := journalBytes(7)
	first := fileHeaderSize + frameHeaderSize + rowEntrySize
	f.Add(whole[first:])
	f.Add([]byte{})
	f.Add(make([]byte, 50))
	f.Fuzz(func(t *testing.T, rest []byte) {
		_, a, err := replayBytes(t, append(bytes.Clone(whole[:first]), rest...))
		if err == nil && a.rows[1].epoch != 3 {
			t.Errorf("the first frame is lost")
		}
	})
}

type nothing struct{}

func (nothing) batch(uint32, uint64, int64, int) error { return nil }
func (nothing) record(int, []byte)                     {}
func (nothing) row(uint32, row) error                  { return nil }
func (nothing) end()                                   {}

// FuzzPayload decodes any payload.
func FuzzPayload(f *testing.F) {
	f.Add(journalBytes(7)[fileHeaderSize+frameHeaderSize:])
	f.Add(appendBatch(nil, &actors.Batch{Shard: 1, Records: []actors.Record{{Key: []byte("k"), Value: []byte("v")}}}))
	f.Add(appendRowEntry(nil, 9, &row{epoch: 1}))
	f.Add([]byte{entryBatch, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if err := walk(payload, nothing{}); err != nil && !errors.Is(err, errPayload) {
			t.Errorf("error: %v", err)
		}
	})
}

// FuzzRecord decodes any record, and what it decodes encodes to the same record.
func FuzzRecord(f *testing.F) {
	f.Add(appendRecord(nil, []byte("key"), []byte("value"), false))
	f.Add(appendRecord(nil, []byte("key"), nil, true))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		key, value, deleted, size, ok := decodeRecord(b)
		if !ok {
			return
		}
		if size > len(b) {
			t.Fatalf("size %d of %d bytes", size, len(b))
		}
		k, v, d, _, ok := decodeRecord(appendRecord(nil, key, value, deleted))
		if !ok || !bytes.Equal(k, key) || !bytes.Equal(v, value) || d != deleted {
			t.Errorf("%q %q %v came back as %q %q %v", key, value, deleted, k, v, d)
		}
	})
}

// FuzzRow decodes any row.
func FuzzRow(f *testing.F) {
	f.Add(appendRow(nil, &row{epoch: 1, incarnation: [16]byte{2}, time: -3}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok := decodeRow(b); ok && !bytes.Equal(appendRow(nil, &r), b) {
			t.Errorf("%x came back as %x", b, appendRow(nil, &r))
		}
	})
}

// FuzzFormat decodes any format file.
func FuzzFormat(f *testing.F) {
	good := format{Store: formatStore, Version: 1, Cluster: "00112233445566778899aabbccddeeff", Shards: 256, Hash: formatHash}
	b, err := good.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("{}"))
	f.Add([]byte(`{"quern_store":"embedded","version":1,"cluster":"é"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _, err := decodeFormat("FORMAT", b)
		if err == nil && (got.Shards == 0 || got.Shards&(got.Shards-1) != 0) {
			t.Errorf("accepted %+v", got)
		}
		if err != nil && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrNewer) && !errors.Is(err, ErrCorrupt) {
			t.Errorf("error: %v", err)
		}
	})
}
