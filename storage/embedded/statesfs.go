package embedded

import (
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// statesFS is the file system that pebble gets. It differs from fencedFS where
// pebble would end the process: it panics where a folder cannot be synced while a
// marker moves [source: atomicfs, Marker.Move], and where its MANIFEST cannot be
// written it calls Fatalf and has no consistent state to go on with [source:
// version_set.go, UpdateVersionLocked]. For these files a failure raises the
// fence, and then pebble is told that all is well: whatever else it does fails,
// so that nothing which it wrongly believes durable leads to the deletion of
// anything, and its Close works as usual.
type statesFS struct {
	*fencedFS
	// failed is told of the failure before pebble is told otherwise. It raises
	// the fence.
	failed func(error)
	// spare refuses new tables while the disk has too little room.
	spare func() error
}

// vital says whether pebble cannot bear a failure of this file.
func vital(base string) bool {
	return strings.HasPrefix(base, "MANIFEST-") || strings.HasPrefix(base, "marker.")
}

// Create refuses tables while there is less room than spare asks for, so that
// MANIFEST and journal do not meet a full disk. It syncs the folder ahead of a
// marker: pebble syncs the names of a new MANIFEST and of the marker that names it
// together, so that a power cut could leave the marker alone.
func (f *statesFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	base := f.PathBase(name)
	if strings.HasSuffix(base, ".sst") {
		if err := f.spare(); err != nil {
			return nil, f.pause(err)
		}
	}
	if strings.HasPrefix(base, "marker.") {
		if err := syncDir(f.fencedFS, f.PathDir(name)); err != nil {
			f.failed(err)
		}
	}
	file, err := f.fencedFS.Create(name, c)
	if !vital(base) {
		return file, err
	}
	if err != nil {
		f.failed(fmt.Errorf("create %s: %w", name, err))
		file = discard{}
	}
	return &vitalFile{File: file, name: name, failed: f.failed}, nil
}

func (f *statesFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.fencedFS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &vitalFile{File: file, name: name, failed: f.failed}, nil
}

// Lock does nothing: the store's own lock covers pebble's folder, and an old
// pebble that was fenced off must not keep the next one out.
func (f *statesFS) Lock(string) (io.Closer, error) { return nopCloser{}, nil }

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// vitalFile is a MANIFEST, a marker or a folder.
type vitalFile struct {
	vfs.File
	name   string
	failed func(error)
}

func (f *vitalFile) Write(p []byte) (int, error) {
	if _, err := f.File.Write(p); err != nil {
		f.failed(fmt.Errorf("write %s: %w", f.name, err))
	}
	return len(p), nil
}

func (f *vitalFile) Sync() error {
	if err := f.File.Sync(); err != nil {
		f.failed(fmt.Errorf("sync %s: %w", f.name, err))
	}
	return nil
}

func (f *vitalFile) SyncData() error { return f.Sync() }

func (f *vitalFile) SyncTo(int64) (bool, error) { return true, f.Sync() }

func (f *vitalFile) Preallocate(int64, int64) error { return nil }

func (f *vitalFile) Close() error {
	if err := f.File.Close(); err != nil {
		f.failed(fmt.Errorf("close %s: %w", f.name, err))
	}
	return nil
}

// discard is a file that takes everything and keeps nothing.
type discard struct{}

func (discard) Close() error                           { return nil }
func (discard) Read([]byte) (int, error)               { return 0, io.EOF }
func (discard) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }
func (discard) Write(p []byte) (int, error)            { return len(p), nil }
func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (discard) Preallocate(int64, int64) error         { return nil }
func (discard) Stat() (vfs.FileInfo, error)            { return nil, errStopped }
func (discard) Sync() error                            { return nil }
func (discard) SyncTo(int64) (bool, error)             { return true, nil }
func (discard) SyncData() error                        { return nil }
func (discard) Prefetch(int64, int64) error            { return nil }
func (discard) Fd() uintptr                            { return vfs.InvalidFd }
