package embedded

import (
	"errors"
	"os"
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

// fencedFS is a file system behind a fence.
type fencedFS struct {
	vfs.FS
	fence *fence
	// slow has failed operations take their time; see pause.
	slow bool
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
	if err == nil || !f.slow || oserror.IsNotExist(err) || oserror.IsExist(err) {
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

func (f *fencedFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *fencedFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.open(func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, opts...) })
}

func (f *fencedFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.open(func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

func (f *fencedFS) OpenDir(name string) (vfs.File, error) {
	return f.open(func() (vfs.File, error) { return f.FS.OpenDir(name) })
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

func (f *fencedFS) Unwrap() vfs.FS { return f.FS }

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

// isFull says whether err is a full disk or a quota.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, ErrDiskFull)
}
