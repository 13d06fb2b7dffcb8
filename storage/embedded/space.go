package embedded

import (
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// spaceAge and spaceBytes bound how old a reading of the free space may
	// be: in time, and in bytes that the journal took since.
	spaceAge   = 50 * time.Millisecond
	spaceBytes = 4 << 20
)

// space watches the free space of the data folder.
type space struct {
	fs   vfs.FS
	dir  string
	want int64 // negative: off

	mu      sync.Mutex
	read    time.Time
	free    uint64
	unknown bool
	since   int64
}

// newSpace watches for the free space to fall below want; zero is the default.
func newSpace(fs vfs.FS, dir string, want int64) space {
	if want == 0 {
		want = defaultMinFree
		if usage, err := fs.GetDiskUsage(dir); err == nil {
			want = min(want, int64(usage.TotalBytes/8))
		}
	}
	return space{fs: fs, dir: dir, want: want}
}

// check returns ErrDiskFull where less than want/part bytes are free, counting n
// bytes about to be written.
func (s *space) check(n int64, part uint64) error {
	if s.want < 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since += n
	if now := time.Now(); now.Sub(s.read) >= spaceAge || s.since >= spaceBytes {
		usage, err := s.fs.GetDiskUsage(s.dir)
		s.read, s.since, s.free = now, n, usage.AvailBytes
		// A file system that cannot say does not stop the store: a write
		// that finds no room is refused or recovered from as well.
		s.unknown = err != nil
	}
	if s.unknown || s.free >= uint64(s.want)/part+uint64(n) {
		return nil
	}
	return fmt.Errorf("%w: %d bytes free in %s, %d are kept in reserve: make room there", ErrDiskFull, s.free, s.dir, uint64(s.want)/part)
}
