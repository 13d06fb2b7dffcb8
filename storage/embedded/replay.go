package embedded

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// journalFile is a journal file as found on disk.
type journalFile struct {
	path   string
	header fileHeader
}

// replayed is what a replay found.
type replayed struct {
	// next is the sequence number after the last intact frame.
	next uint64
	// last is the last file, and end where its intact frames end.
	last journalFile
	end  int64
	// all are the paths of all files.
	all []string
}

// replayer reads the journal of a folder.
type replayer struct {
	fs      vfs.FS
	dir     string
	cluster [16]byte
	// position is the last sequence number whose effect the states have.
	position uint64
	lenient  bool
}

// run applies every frame after r.position to a. It returns ErrCorrupt for
// whatever a power cut cannot have caused, and ErrNewer.
func (r *replayer) run(a *applier) (replayed, error) {
	files, err := r.list()
	if err != nil {
		return replayed{}, err
	}
	var found replayed
	for _, f := range files {
		found.all = append(found.all, f.path)
	}
	files, err = r.needed(files)
	if err != nil {
		return found, err
	}
	for i, f := range files {
		until := uint64(0)
		if i+1 < len(files) {
			until = files[i+1].header.first
		}
		if found.next, found.end, err = r.file(f, until, a); err != nil {
			return found, err
		}
		found.last = f
	}
	if found.next <= r.position {
		return found, corrupt(found.last.path, found.end, "the journal ends before the states, at %d of %d", found.next-1, r.position)
	}
	return found, nil
}

func corrupt(path string, offset int64, format string, args ...any) error {
	return fmt.Errorf("%w: %s at offset %d: %s; restore the folder from a backup, or move it away to start empty",
		ErrCorrupt, path, offset, fmt.Sprintf(format, args...))
}

// list reads the headers of all journal files, in the order of their numbers.
func (r *replayer) list() ([]journalFile, error) {
	names, err := r.fs.List(r.dir)
	if isNotExist(err) {
		return nil, corrupt(r.dir, 0, "the journal is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", r.dir, err)
	}
	var numbers []uint64
	for _, name := range names {
		if n, ok := parseJournalName(name); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	files := make([]journalFile, 0, len(numbers))
	for _, n := range numbers {
		f := journalFile{path: r.fs.PathJoin(r.dir, journalName(n))}
		if f.header, err = r.header(f.path, n); err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func (r *replayer) header(path string, number uint64) (fileHeader, error) {
	b, err := readFile(r.fs, path, fileHeaderSize)
	if err != nil {
		return fileHeader{}, err
	}
	h, version, ok := decodeFileHeader(b)
	switch {
	case !ok:
		return h, corrupt(path, 0, "bad file header")
	case version > journalVersion:
		return h, fmt.Errorf("%w: %s has journal version %d, this program knows %d: use a newer quern", ErrNewer, path, version, journalVersion)
	case h.number != number:
		return h, corrupt(path, 0, "the file says that it is number %d", h.number)
	case h.cluster != r.cluster:
		return h, corrupt(path, 0, "the file belongs to cluster %x, the folder to %x", h.cluster, r.cluster)
	}
	return h, nil
}

// needed drops the files that a rewritten one replaced and those that the states
// have taken in whole, and checks that what is left begins where the states end.
func (r *replayer) needed(files []journalFile) ([]journalFile, error) {
	for i, f := range slices.Backward(files) {
		if f.header.rewritten {
			files = files[i:]
			break
		}
	}
	for len(files) > 1 && files[1].header.first <= r.position+1 {
		files = files[1:]
	}
	if len(files) == 0 {
		return nil, corrupt(r.dir, 0, "the journal is missing")
	}
	first := files[0]
	switch {
	case first.header.rewritten && first.header.base > r.position:
		return nil, corrupt(first.path, 0, "the states end at %d and this file builds on %d", r.position, first.header.base)
	case !first.header.rewritten && first.header.first > r.position+1:
		return nil, corrupt(first.path, 0, "the states end at %d and this file begins with %d: a file is missing", r.position, first.header.first)
	}
	return files, nil
}

// file applies the frames of one file. until is the first sequence number of the
// next file, 0 for the last one. It returns the number and the offset after the
// last intact frame.
func (r *replayer) file(f journalFile, until uint64, a *applier) (uint64, int64, error) {
	data, err := readFile(r.fs, f.path, -1)
	if err != nil {
		return 0, 0, err
	}
	base := a.tail.adopt(data)
	a.ended = false
	seq, off := f.header.first, int64(fileHeaderSize)
	for until == 0 || seq < until {
		payload, ok := nextFrame(data[off:], seq, f.header.salt)
		if !ok {
			break
		}
		if seq > r.position {
			if err := a.apply(payload, base+uint64(off)+frameHeaderSize); err != nil {
				return 0, 0, corrupt(f.path, off, "frame %d: %v", seq, err)
			}
		} else {
			a.ended = true
		}
		off += int64(frameHeaderSize + len(payload))
		seq++
	}
	return seq, off, r.checkEnd(f, data, seq, off, until, a.ended)
}

// checkEnd tells a torn end from damage. Only the last append of the last file
// can be torn, because each was synced before the next began.
func (r *replayer) checkEnd(f journalFile, data []byte, seq uint64, off int64, until uint64, ended bool) error {
	if r.lenient {
		return nil
	}
	if until != 0 {
		if seq != until {
			return corrupt(f.path, off, "bad frame %d, and the next file begins with %d", seq, until)
		}
		return nil
	}
	if later := laterFrame(data[off:], seq, f.header.salt); later >= 0 {
		return corrupt(f.path, off, "bad frame %d, and a later one stands at %d", seq, off+int64(later))
	}
	if f.header.rewritten && !ended {
		return corrupt(f.path, off, "bad frame %d in the part that was synced before the file had its name", seq)
	}
	return nil
}

// readFile returns the first limit bytes of a file, all of it for -1.
func readFile(fs vfs.FS, path string, limit int64) (b []byte, err error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	size := info.Size()
	if limit >= 0 {
		size = min(size, limit)
	}
	b = make([]byte, size)
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b, nil
}
