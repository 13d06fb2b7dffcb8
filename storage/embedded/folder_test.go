package embedded_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/storage/embedded"
)

func write(t *testing.T, fs vfs.FS, path, content string) {
	t.Helper()
	if err := fs.MkdirAll(fs.PathDir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil && len(b) > 0 {
		t.Fatal(err)
	}
	return b
}

// openFails opens and wants an error that says each of words.
func openFails(t *testing.T, o embedded.Options, want error, words ...string) {
	t.Helper()
	s, err := embedded.Open(t.Context(), o)
	if err == nil {
		_ = s.Close(context.Background())
	}
	if !errors.Is(err, want) {
		t.Fatalf("open: %v, want %v", err, want)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

func opens(t *testing.T, o embedded.Options) actors.StoreInfo {
	t.Helper()
	s, err := embedded.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s.Info()
}

func TestForeignFolder(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"photo.jpg", "journal/00000001.log", "states/MANIFEST-000001", ".hidden"} {
		fs := vfs.NewMem()
		write(t, fs, "/data/"+name, "mine")
		openFails(t, embedded.Options{Dir: "/data", FS: fs}, embedded.ErrForeign, "/data", "FORMAT")
		if got := string(read(t, fs, "/data/"+name)); got != "mine" {
			t.Errorf("%s holds %q afterwards", name, got)
		}
	}
	for _, content := range []string{"", "hello", "{}", `{"quern_store":"postgres","version":1}`} {
		fs := vfs.NewMem()
		write(t, fs, "/data/FORMAT", content)
		openFails(t, embedded.Options{Dir: "/data", FS: fs}, embedded.ErrForeign, "FORMAT")
	}
	fs := vfs.NewMem()
	write(t, fs, "/data", "a file")
	openFails(t, embedded.Options{Dir: "/data", FS: fs}, embedded.ErrForeign)
}

func TestEmptyFolder(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	write(t, fs, "/data/node.json", "{}")
	write(t, fs, "/data/lost+found/x", "")
	write(t, fs, "/data/LOCK", "")
	o := embedded.Options{Dir: "/data", FS: fs}
	info := opens(t, o)
	if info.Shards != 256 || info.Name != "embedded" || !info.Durable {
		t.Errorf("info is %+v", info)
	}
	if got := string(read(t, fs, "/data/node.json")); got != "{}" {
		t.Errorf("node.json is %q", got)
	}
	if again := opens(t, o); again != info {
		t.Errorf("info was %+v, is %+v", info, again)
	}
}

func TestNewerFormat(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	o := embedded.Options{Dir: "/data", FS: fs}
	opens(t, o)
	format := string(read(t, fs, "/data/FORMAT"))
	write(t, fs, "/data/FORMAT", strings.Replace(format, `"version": 1`, `"version": 2`, 1))
	openFails(t, o, embedded.ErrNewer, "newer quern")
}

func TestDamagedFormat(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	o := embedded.Options{Dir: "/data", FS: fs}
	opens(t, o)
	format := string(read(t, fs, "/data/FORMAT"))
	write(t, fs, "/data/FORMAT", strings.Replace(format, `"shards": 256`, `"shards": 128`, 1))
	openFails(t, o, embedded.ErrCorrupt, "/data/FORMAT")
}

func TestOtherShards(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	opens(t, embedded.Options{Dir: "/data", FS: fs, Shards: 64})
	openFails(t, embedded.Options{Dir: "/data", FS: fs, Shards: 128}, embedded.ErrShards, "64", "128")
	openFails(t, embedded.Options{Dir: "/data", FS: fs, Shards: 48}, embedded.ErrShardCount, "48")
	if info := opens(t, embedded.Options{Dir: "/data", FS: fs}); info.Shards != 64 {
		t.Errorf("info is %+v", info)
	}
}

func TestLockedFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := embedded.Open(t.Context(), embedded.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	openFails(t, embedded.Options{Dir: dir}, embedded.ErrLocked, dir)
	openFails(t, embedded.Options{Dir: link}, embedded.ErrLocked, dir)
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	opens(t, embedded.Options{Dir: link})
}

func TestUnwritableFolder(t *testing.T) {
	t.Parallel()
	for _, op := range []string{"mkdir", "create", "sync"} {
		fs := newFaultFS(vfs.NewMem())
		fs.set(func(o, path string) error {
			if o == op {
				return &os.PathError{Op: op, Path: path, Err: syscall.EROFS}
			}
			return nil
		})
		s, err := embedded.Open(t.Context(), embedded.Options{Dir: "/data", FS: fs})
		if err == nil {
			_ = s.Close(context.Background())
			t.Errorf("%s fails and open does not", op)
		} else if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s fails: %v", op, err)
		}
	}
	if os.Getuid() == 0 {
		return
	}
	dir := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	openFails(t, embedded.Options{Dir: dir}, embedded.ErrUnwritable, dir)
	openFails(t, embedded.Options{Dir: filepath.Join(dir, "sub")}, embedded.ErrUnwritable, dir)
}

func TestMissingParts(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"journal", "states"} {
		fs := vfs.NewMem()
		o := embedded.Options{Dir: "/data", FS: fs, TailBytes: 500}
		s, err := embedded.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Raise(t.Context(), []actors.Raise{{Shard: 1, Epoch: 1}}); err != nil {
			t.Fatal(err)
		}
		for range 50 {
			v := s.Commit(t.Context(), []actors.Batch{{Shard: 1, Epoch: 1, Records: []actors.Record{{Key: []byte("key"), Value: make([]byte, 100)}}}})
			if v[0].Err != nil {
				t.Fatal(v[0].Err)
			}
		}
		if err := s.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := fs.RemoveAll("/data/" + part); err != nil {
			t.Fatal(err)
		}
		openFails(t, o, embedded.ErrCorrupt, "/data/journal")
	}
}

func TestOpenOnFullDisk(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	opens(t, embedded.Options{Dir: "/data", FS: mem})
	fs := newFaultFS(mem)
	fs.set(func(op, _ string) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	})
	openFails(t, embedded.Options{Dir: "/data", FS: fs}, embedded.ErrDiskFull, "make room")
	fs.set(nil)
	opens(t, embedded.Options{Dir: "/data", FS: fs})
}
