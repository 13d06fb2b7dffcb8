package embedded_test

import (
	"errors"
	"os"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// tapFS is a file system that a test listens in on. before is called ahead of
// every operation that changes something and may fail it.
type tapFS struct {
	vfs.FS
	before func(op, path string) error

	mu    sync.Mutex
	open  map[*tapFile]bool
	lying map[string]bool // paths whose syncs do nothing any more
}

// errShort makes a write write half of what it was given and fail.
var errShort = errors.New("short write")

// errLost makes a sync fail as a real one does: the pages count as clean
// afterwards, no later sync of the file writes them.
var errLost = errors.New("sync lost pages")

func tap(fs vfs.FS, before func(op, path string) error) *tapFS {
	return &tapFS{FS: fs, before: before, open: map[*tapFile]bool{}, lying: map[string]bool{}}
}

func (f *tapFS) wrap(file vfs.File, err error, path string) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	t := &tapFile{File: file, fs: f, path: path}
	f.mu.Lock()
	f.open[t] = true
	f.mu.Unlock()
	return t, nil
}

func (f *tapFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.before("create", name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	return f.wrap(file, err, name)
}

func (f *tapFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	if err := f.before("create", name); err != nil {
		return nil, err
	}
	file, err := f.FS.OpenReadWrite(name, c, opts...)
	return f.wrap(file, err, name)
}

func (f *tapFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.before("create", newname); err != nil {
		return nil, err
	}
	file, err := f.FS.ReuseForWrite(oldname, newname, c)
	return f.wrap(file, err, newname)
}

func (f *tapFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	file, err = f.wrap(file, err, name)
	if tap, ok := file.(*tapFile); ok && err == nil {
		tap.dir = true
	}
	return file, err
}

func (f *tapFS) Link(oldname, newname string) error {
	if err := f.before("link", newname); err != nil {
		return err
	}
	return f.FS.Link(oldname, newname)
}

func (f *tapFS) Remove(name string) error {
	if err := f.before("remove", name); err != nil {
		return err
	}
	f.mu.Lock()
	delete(f.lying, name)
	f.mu.Unlock()
	return f.FS.Remove(name)
}

func (f *tapFS) RemoveAll(name string) error {
	if err := f.before("remove", name); err != nil {
		return err
	}
	return f.FS.RemoveAll(name)
}

func (f *tapFS) Rename(oldname, newname string) error {
	if err := f.before("rename", newname); err != nil {
		return err
	}
	if err := f.FS.Rename(oldname, newname); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.lying, newname)
	if f.lying[oldname] {
		delete(f.lying, oldname)
		f.lying[newname] = true
	}
	for file := range f.open {
		if file.path == oldname {
			file.path = newname
		}
	}
	return nil
}

func (f *tapFS) MkdirAll(dir string, perm os.FileMode) error {
	if err := f.before("mkdir", dir); err != nil {
		return err
	}
	return f.FS.MkdirAll(dir, perm)
}

func (f *tapFS) Unwrap() vfs.FS { return f.FS }

type tapFile struct {
	vfs.File
	fs   *tapFS
	path string // guarded by fs.mu
	dir  bool
}

func (f *tapFile) name() string {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.path
}

func (f *tapFile) Close() error {
	f.fs.mu.Lock()
	delete(f.fs.open, f)
	f.fs.mu.Unlock()
	return f.File.Close()
}

func (f *tapFile) Write(p []byte) (int, error) {
	if err := f.fs.before("write", f.name()); errors.Is(err, errShort) {
		n, _ := f.File.Write(p[:len(p)/2])
		return n, err
	} else if err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *tapFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.before("write", f.name()); errors.Is(err, errShort) {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, err
	} else if err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *tapFile) Preallocate(off, n int64) error {
	if err := f.fs.before("allocate", f.name()); err != nil {
		return err
	}
	return f.File.Preallocate(off, n)
}

func (f *tapFile) Sync() error { return f.sync(f.File.Sync) }

func (f *tapFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f *tapFile) sync(sync func() error) error {
	path := f.name()
	err := f.fs.before("sync", path)
	f.fs.mu.Lock()
	if errors.Is(err, errLost) && !f.dir {
		f.fs.lying[path] = true
	}
	lying := f.fs.lying[path]
	f.fs.mu.Unlock()
	if err != nil || lying {
		return err
	}
	return sync()
}

func inJournal(path string) bool { return strings.Contains(path, "/journal/") }
