package embedded

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	formatFile    = "FORMAT"
	formatTemp    = "FORMAT.new"
	lockFile      = "LOCK"
	formatStore   = "embedded"
	formatVersion = 1
	formatHash    = "xxh64"
)

// format is the content of the format file, which makes a folder a Quern folder.
type format struct {
	Store   string `json:"quern_store"`
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	Shards  uint32 `json:"shards"`
	// Hash names the hash from a key's tag to its shard.
	Hash string `json:"hash"`
	// Sum is the xxh64 of the other fields.
	Sum string `json:"sum"`
}

func (f *format) sum() string {
	text := fmt.Sprintf("%s %d %s %d %s", f.Store, f.Version, f.Cluster, f.Shards, f.Hash)
	return fmt.Sprintf("%016x", xxhash.Sum64String(text))
}

func (f *format) encode() ([]byte, error) {
	f.Sum = f.sum()
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

// decodeFormat checks a format file's content. Its errors are ErrForeign,
// ErrNewer and ErrCorrupt.
func decodeFormat(path string, b []byte) (f format, cluster [16]byte, err error) {
	if err := json.Unmarshal(b, &f); err != nil || f.Store == "" {
		return f, cluster, fmt.Errorf("%w: %s is not a Quern format file: name another folder", ErrForeign, path)
	}
	if f.Store != formatStore {
		return f, cluster, fmt.Errorf("%w: %s says that the folder belongs to the %s store: name another folder", ErrForeign, path, f.Store)
	}
	if f.Version > formatVersion {
		return f, cluster, fmt.Errorf("%w: %s says %d, this program knows %d: use a newer quern", ErrNewer, path, f.Version, formatVersion)
	}
	n, err := hex.Decode(cluster[:], []byte(f.Cluster[:min(len(f.Cluster), 32)]))
	if err != nil || n != 16 || len(f.Cluster) != 32 || f.Sum != f.sum() || f.Hash != formatHash ||
		f.Version < 1 || f.Shards == 0 || f.Shards > maxShards || f.Shards&(f.Shards-1) != 0 {
		return f, cluster, corrupt(path, 0, "the format file does not hold together")
	}
	return f, cluster, nil
}

// folder is what Open finds.
type folder int

const (
	folderEmpty folder = iota
	folderUnfinished
	folderReady
)

// inspect says what the folder is. Errors: ErrForeign, ErrUnwritable.
func inspect(o *Options) (folder, error) {
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return 0, fmt.Errorf("%w: %s: %w", ErrUnwritable, o.Dir, err)
	}
	if slices.Contains(names, formatFile) {
		return folderReady, nil
	}
	if slices.Contains(names, formatTemp) {
		return folderUnfinished, nil
	}
	for _, name := range names {
		if !slices.Contains([]string{"node.json", "lost+found", lockFile}, name) {
			return 0, fmt.Errorf("%w: %s holds %s and no %s file: name an empty folder or a Quern one", ErrForeign, o.Dir, name, formatFile)
		}
	}
	return folderEmpty, nil
}

// lockFolder takes the folder for this process. Errors: ErrLocked, ErrUnwritable.
func lockFolder(o *Options) (io.Closer, error) {
	path := o.FS.PathJoin(o.Dir, lockFile)
	lock, err := o.FS.Lock(path)
	if err == nil {
		return lock, nil
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) || isFull(err) {
		return nil, fmt.Errorf("%w: %s: %w: give this user the right to write there", ErrUnwritable, path, err)
	}
	return nil, fmt.Errorf("%w: %s: %w: stop the other process or name another folder", ErrLocked, o.Dir, err)
}

// makeFolder creates the folder where it is missing. On the real disk it makes
// o.Dir absolute and free of links: a lock taken twice by one process is found out
// by its name only.
func makeFolder(o *Options) error {
	if err := ensureFolder(o); err != nil || o.FS != vfs.Default {
		return err
	}
	dir, err := filepath.Abs(o.Dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUnwritable, o.Dir, err)
	}
	o.Dir = dir
	return nil
}

func ensureFolder(o *Options) error {
	if info, err := o.FS.Stat(o.Dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%w: %s is a file: name a folder", ErrForeign, o.Dir)
		}
		return nil
	}
	if err := o.FS.MkdirAll(o.Dir, 0o750); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUnwritable, o.Dir, err)
	}
	if err := syncDir(o.FS, o.FS.PathDir(o.Dir)); err != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	return nil
}

// create fills an empty or an unfinished folder. FORMAT.new says that what stands
// beside it was never used; it becomes FORMAT as the last step.
func (s *Store) create() error {
	fsys := s.o.FS
	temp := fsys.PathJoin(s.o.Dir, formatTemp)
	if s.o.Shards == 0 {
		s.o.Shards = defaultShards
	}
	_, _ = rand.Read(s.info.ClusterID[:])
	s.info.Shards = s.o.Shards
	f := format{
		Store: formatStore, Version: formatVersion, Hash: formatHash,
		Cluster: hex.EncodeToString(s.info.ClusterID[:]), Shards: s.o.Shards,
	}
	content, err := f.encode()
	if err != nil {
		return err
	}
	if err := writeSynced(fsys, temp, content); err != nil {
		return err
	}
	if err := syncDir(fsys, s.o.Dir); err != nil {
		return err
	}
	for _, dir := range []string{journalDir, statesDir} {
		if err := fsys.RemoveAll(fsys.PathJoin(s.o.Dir, dir)); err != nil {
			return err
		}
		if err := fsys.MkdirAll(fsys.PathJoin(s.o.Dir, dir), 0o750); err != nil {
			return err
		}
	}
	if err := s.firstJournal(); err != nil {
		return err
	}
	s.o.hooks.at("folder filled")
	if err := fsys.Rename(temp, fsys.PathJoin(s.o.Dir, formatFile)); err != nil {
		return err
	}
	return syncDir(fsys, s.o.Dir)
}

// firstJournal writes the journal's first file, which is empty.
func (s *Store) firstJournal() error {
	fsys := s.o.FS
	j := &journal{
		fs: fsys, dir: fsys.PathJoin(s.o.Dir, journalDir), cluster: s.info.ClusterID,
		grow: -1, hooks: s.o.hooks, next: 1,
	}
	if err := j.create(1, 0, false); err != nil {
		return err
	}
	if err := j.publish(); err != nil {
		return errors.Join(err, j.close())
	}
	return errors.Join(j.close(), syncDir(fsys, s.o.Dir))
}

// load reads the format file.
func (s *Store) load() error {
	path := s.o.FS.PathJoin(s.o.Dir, formatFile)
	content, err := readFile(s.o.FS, path, 4096)
	if err != nil {
		return err
	}
	f, cluster, err := decodeFormat(path, content)
	if err != nil {
		return err
	}
	if s.o.Shards != 0 && s.o.Shards != f.Shards {
		return fmt.Errorf("%w: %s was created with %d shards, %d are asked for: ask for %d, or name another folder",
			ErrShards, s.o.Dir, f.Shards, s.o.Shards, f.Shards)
	}
	s.o.Shards = f.Shards
	s.info.Shards, s.info.ClusterID = f.Shards, cluster
	return removeIfThere(s.o.FS, s.o.FS.PathJoin(s.o.Dir, formatTemp))
}

func writeSynced(fsys vfs.FS, path string, content []byte) error {
	f, err := fsys.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if _, err := f.Write(content); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync %s: %w", path, err), f.Close())
	}
	return f.Close()
}
