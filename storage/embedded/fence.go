package embedded

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// fence stands between one generation and the disk. Once it is up, every
// operation of that generation that could change a file fails, so that nothing
// it left behind can touch the files of the next one.
type fence struct {
	up atomic.Bool
	// mu is held for reading by every operation that changes something.
	mu sync.RWMutex
	// raised is closed with up.
	raised chan struct{}
}

func newFence() *fence { return &fence{raised: make(chan struct{})} }

// raise makes operations fail from now on. It may be called more than once, but
// not concurrently.
func (f *fence) raise() {
	if f.up.CompareAndSwap(false, true) {
		close(f.raised)
	}
}

// drain waits for operations that began before raise.
func (f *fence) drain() {
	f.mu.Lock()
	//nolint:staticcheck // an empty critical section waits for the readers
	f.mu.Unlock()
}

// do runs op unless the fence is up.
func (f *fence) do(op func() error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.up.Load() {
		return errStopped
	}
	return op()
}

// fencedFS is a file system behind a fence. With pebble set it also bends to
// what pebble needs: see pause, Create and Lock.
type fencedFS struct {
	vfs.FS
	fence *fence
	// pebble is set where pebble uses it, not the journal.
	pebble bool
	// spare refuses new tables while the disk has too little room. Pebble only.
	spare func() error
	// dirFailed is told when a folder could not be synced. Pebble only.
	dirFailed func(error)
}

// errorPause is how long pebble waits for the answer of a failed operation,
// stoppedPause how long behind a fence. It tries a failed flush or compaction
// again at once and for ever, until it is closed [source: pebble compaction.go,
// flush]; this keeps it from spinning. Pebble holds no lock during file operations
// of flushes and compactions.
const (
	errorPause   = 50 * time.Millisecond
	stoppedPause = 2 * time.Millisecond
)

// pause returns err, for pebble after a while.
func (f *fencedFS) pause(err error) error {
	if err == nil || !f.pebble || oserror.IsNotExist(err) || oserror.IsExist(err) {
		return err
	}
	d, raised := errorPause, f.fence.raised
	if f.fence.up.Load() {
		d, raised = stoppedPause, nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-raised:
	}
	return err
}

func (f *fencedFS) change(op func() error) error { return f.pause(f.fence.do(op)) }

func (f *fencedFS) open(op func() (vfs.File, error)) (vfs.File, error) {
	var file vfs.File
	err := f.change(func() (err error) {
		file, err = op()
		return err
	})
	if err != nil {
		return nil, err
	}
	return &fencedFile{File: file, fs: f}, nil
}

// Create refuses tables while there is less room than spare asks for, so that
// pebble's MANIFEST, whose failure costs a recovery, does not meet a full disk.
// It syncs the folder ahead of a marker: pebble creates a MANIFEST and the marker
// that names it and syncs their names together [source: atomicfs, Marker.Move],
// so that a power cut could leave the marker alone.
func (f *fencedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if f.pebble && strings.HasPrefix(f.FS.PathBase(name), "marker.") {
		if err := syncDir(f, f.FS.PathDir(name)); err != nil {
			return nil, err
		}
	}
	if f.spare != nil && strings.HasSuffix(name, ".sst") {
		if err := f.spare(); err != nil {
			return nil, f.pause(err)
		}
	}
	return f.open(func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *fencedFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.open(func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

func (f *fencedFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

func (f *fencedFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.open(func() (vfs.File, error) { return f.FS.OpenDir(name) })
	if err == nil && f.pebble {
		file = &pebbleDir{File: file, failed: f.dirFailed}
	}
	return file, err
}

func (f *fencedFS) Link(oldname, newname string) error {
	return f.change(func() error { return f.FS.Link(oldname, newname) })
}

func (f *fencedFS) Remove(name string) error {
	return f.change(func() error { return f.FS.Remove(name) })
}

func (f *fencedFS) RemoveAll(name string) error {
	return f.change(func() error { return f.FS.RemoveAll(name) })
}

func (f *fencedFS) Rename(oldname, newname string) error {
	return f.change(func() error { return f.FS.Rename(oldname, newname) })
}

func (f *fencedFS) MkdirAll(dir string, perm os.FileMode) error {
	return f.change(func() error { return f.FS.MkdirAll(dir, perm) })
}

// Lock does nothing: the store's own lock covers pebble's folder, and an old
// pebble that was fenced off must not keep the next one out.
func (f *fencedFS) Lock(string) (io.Closer, error) { return nopCloser{}, nil }

func (f *fencedFS) Unwrap() vfs.FS { return f.FS }

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// fencedFile is an open file behind a fence.
type fencedFile struct {
	vfs.File
	fs *fencedFS
}

func (f *fencedFile) Write(p []byte) (n int, err error) {
	err = f.fs.change(func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f *fencedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.change(func() (err error) { n, err = f.File.WriteAt(p, off); return err })
	return n, err
}

func (f *fencedFile) Preallocate(offset, length int64) error {
	return f.fs.change(func() error { return f.File.Preallocate(offset, length) })
}

func (f *fencedFile) Sync() error { return f.fs.change(f.File.Sync) }

func (f *fencedFile) SyncData() error { return f.fs.change(f.File.SyncData) }

func (f *fencedFile) SyncTo(length int64) (full bool, err error) {
	err = f.fs.change(func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// pebbleDir is a folder that pebble syncs. Pebble panics where that fails while it
// moves a marker [source: atomicfs, Marker.Move]. So failed raises the fence, and
// then pebble is told that all is well: whatever it goes on to do fails, and
// nothing that it believes durable is used to delete anything.
type pebbleDir struct {
	vfs.File
	failed func(error)
}

func (d *pebbleDir) Sync() error {
	if err := d.File.Sync(); err != nil {
		d.failed(fmt.Errorf("sync states folder: %w", err))
	}
	return nil
}

// isFull says whether err is a full disk or a quota.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, ErrDiskFull)
}
