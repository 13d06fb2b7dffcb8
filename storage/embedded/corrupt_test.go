package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/storage/embedded"
)

// smallJournal makes a folder whose journal file holds five commits and returns
// the file and the offset at which the last commit's frame begins.
func smallJournal(t *testing.T) (disk *vfs.MemFS, path string, content []byte, last int) {
	t.Helper()
	disk = vfs.NewCrashableMem()
	o := embedded.Options{Dir: "/data", FS: disk, Shards: 2, GrowBytes: 128}
	s, err := embedded.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Raise(t.Context(), []actors.Raise{{Shard: 1, Epoch: 1}}); err != nil {
		t.Fatal(err)
	}
	var end [6]int
	path = "/data/journal/00000002.log"
	for i := range 5 {
		v := s.Commit(t.Context(), []actors.Batch{{Shard: 1, Epoch: 1, Records: []actors.Record{{Key: fmt.Append(nil, i), Value: []byte("value")}}}})
		if v[0].Err != nil {
			t.Fatal(v[0].Err)
		}
		content = read(t, disk, path)
		end[i] = lastByte(content)
	}
	disk = disk.CrashClone(vfs.CrashCloneCfg{})
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return disk, path, content, end[3]
}

// lastByte returns the offset after the last byte that is not zero.
func lastByte(b []byte) int {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return len(b)
}

// flipped opens a copy of the folder in which one byte of the journal is changed
// and returns how many of the five commits are there.
func flipped(t *testing.T, disk *vfs.MemFS, path string, content []byte, at int, bit byte, hooks embedded.Hooks) (int, error) {
	t.Helper()
	fs := disk.CrashClone(vfs.CrashCloneCfg{})
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{content[at] ^ bit}, int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := embedded.Open(t.Context(), embedded.Options{Dir: "/data", FS: fs, CacheBytes: 1 << 20}.WithHooks(hooks))
	if err != nil {
		return 0, err
	}
	defer func() { _ = s.Close(context.Background()) }()
	n := 0
	err = s.Scan(t.Context(), 1, nil, nil, func(_, value []byte) bool {
		if string(value) != "value" {
			t.Errorf("byte %d flipped: a value is %q", at, value)
		}
		n++
		return true
	})
	return n, err
}

// TestFlippedByte changes each byte of a journal: damage that is followed by a
// valid frame is reported, never skipped.
func TestFlippedByte(t *testing.T) {
	t.Parallel()
	disk, path, content, last := smallJournal(t)
	end := lastByte(content)
	step := 1
	if raceEnabled || testing.Short() {
		step = 7
	}
	for at := 0; at < len(content); at += step {
		n, err := flipped(t, disk, path, content, at, 1<<(at%8), embedded.Hooks{})
		switch {
		case at < last:
			if !errors.Is(err, embedded.ErrCorrupt) {
				t.Errorf("byte %d of %d flipped, before the last frame: %d commits, %v", at, last, n, err)
			}
		case at < end:
			// The last frame may pass for torn.
			if err != nil || n < 4 {
				t.Errorf("byte %d flipped, in the last frame: %d commits, %v", at, n, err)
			}
		case err != nil || n != 5:
			t.Errorf("byte %d flipped, after the end: %d commits, %v", at, n, err)
		}
	}
}

func TestFlippedByteNotices(t *testing.T) {
	t.Parallel()
	disk, path, content, last := smallJournal(t)
	n, err := flipped(t, disk, path, content, last-3, 1, embedded.Hooks{Lenient: true})
	if err != nil || n != 3 {
		t.Errorf("taking damage for a torn end loses commits without an error: %d, %v; want 3, nil", n, err)
	}
}

// TestCutJournal cuts the file at each length: as many commits are there as whole
// frames, and what follows the cut is never read again.
func TestCutJournal(t *testing.T) {
	t.Parallel()
	disk, path, content, last := smallJournal(t)
	for size := last - 2; size < len(content); size += 3 {
		fs := disk.CrashClone(vfs.CrashCloneCfg{})
		write(t, fs, path, string(content[:size]))
		o := embedded.Options{Dir: "/data", FS: fs, CacheBytes: 1 << 20}
		for range 2 {
			s, err := embedded.Open(t.Context(), o)
			if err != nil {
				t.Fatalf("cut at %d: %v", size, err)
			}
			n := 0
			if err := s.Scan(t.Context(), 1, nil, nil, func(_, _ []byte) bool { n++; return true }); err != nil || n < 3 {
				t.Errorf("cut at %d: %d commits, %v", size, n, err)
			}
			if v := s.Commit(t.Context(), []actors.Batch{{Shard: 1, Epoch: 1}}); v[0].Err != nil {
				t.Errorf("cut at %d: %v", size, v[0].Err)
			}
			if err := s.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestBounds writes a lot to few keys: journal and tail stay within the bound
// that doc.go states.
func TestBounds(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	const tail = 32 << 10
	o := embedded.Options{Dir: "/data", FS: fs, Shards: 2, TailBytes: tail, GrowBytes: 4 << 10}
	s, err := embedded.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	if _, err := s.Raise(t.Context(), []actors.Raise{{Shard: 1, Epoch: 1}}); err != nil {
		t.Fatal(err)
	}
	const batch, rounds = 2 << 10, 4000 // 8 MB, 256 times the tail
	most := int64(0)
	for i := range rounds {
		v := s.Commit(t.Context(), []actors.Batch{{Shard: 1, Epoch: 1, Records: []actors.Record{
			{Key: fmt.Append(nil, i%10), Value: make([]byte, batch)},
		}}})
		if v[0].Err != nil {
			t.Fatal(v[0].Err)
		}
		if i%20 == 0 {
			most = max(most, folderSize(t, fs, "/data/journal"))
		}
	}
	// Three files of twice the tail at most, with their growth and a commit.
	if limit := int64(3 * (2*tail + 4096 + batch)); most > limit {
		t.Errorf("the journal took %d bytes, want at most %d", most, limit)
	}
	if size := folderSize(t, fs, "/data/states"); size > 8<<20 {
		t.Errorf("the states take %d bytes for 20 KiB of data", size)
	}
}

func folderSize(t *testing.T, fs vfs.FS, dir string) (size int64) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		// Files come and go meanwhile.
		if info, err := fs.Stat(fs.PathJoin(dir, name)); err == nil {
			size += info.Size()
		}
	}
	return size
}

// TestVerdictsOfOneCall: what cannot be taken is refused alone, and a call that
// is larger than a frame is split.
func TestVerdictsOfOneCall(t *testing.T) {
	t.Parallel()
	s, err := embedded.Open(t.Context(), embedded.Options{
		Dir: "/data", FS: vfs.NewMem(), Shards: 8, MaxBatchBytes: 1000, MaxFrameBytes: 2000,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	raises := make([]actors.Raise, 8)
	batches := make([]actors.Batch, 8)
	for i := range raises {
		raises[i] = actors.Raise{Shard: uint32(i), Epoch: 1}
		batches[i] = actors.Batch{Shard: uint32(i), Epoch: 1, Records: []actors.Record{{Key: []byte("k"), Value: make([]byte, 800)}}}
	}
	if _, err := s.Raise(t.Context(), raises); err != nil {
		t.Fatal(err)
	}
	batches[3].Records[0].Value = make([]byte, 1500)
	batches[5].Epoch = 2
	for i, v := range s.Commit(t.Context(), batches) {
		want := map[int]error{3: embedded.ErrTooLarge, 5: embedded.ErrFenced}[i]
		if !errors.Is(v.Err, want) {
			t.Errorf("shard %d: %+v, want %v", i, v, want)
		}
		n := 0
		if err := s.Scan(t.Context(), uint32(i), nil, nil, func(_, _ []byte) bool { n++; return true }); err != nil {
			t.Fatal(err)
		}
		if (n == 1) != (v.Err == nil) {
			t.Errorf("shard %d has %d records after %+v", i, n, v)
		}
	}
}
