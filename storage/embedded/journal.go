package embedded

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	journalDir    = "journal"
	journalSuffix = ".log"
	journalTemp   = "next.tmp"
	// journalSpare is a file that is not needed any more and becomes the next
	// one: its blocks are there already, so that syncs change nothing but data.
	// What stands in it has another salt.
	journalSpare = "spare.tmp"
	// zeroFillMax is the largest frame for which a file is filled with zeros
	// ahead; a larger one pays for its own allocation.
	zeroFillMax = 64 << 10
)

var zeros [64 << 10]byte

func journalName(number uint64) string { return fmt.Sprintf("%08d%s", number, journalSuffix) }

// parseJournalName returns the number in the name of a journal file.
func parseJournalName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, journalSuffix)
	if !ok || len(digits) < 8 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && journalName(n) == name
}

// journal is the file that takes the frames. It has one user at a time: the
// holder of Store.write, or the recovery that builds it.
type journal struct {
	fs      vfs.FS
	dir     string
	cluster [16]byte
	grow    int64
	hooks   *hooks

	file   vfs.File
	number uint64
	salt   uint64
	// off is where the next frame goes; the file has its size up to filled.
	off, filled int64
	// next is the sequence number of the next frame.
	next uint64
	// spare says that there is a spare file. The checkpointer sets it.
	spare *atomic.Bool
}

// create starts file number; its first frame will be j.next. The file gets its
// name when its header is on disk, so that every named file has one. After an
// error the file may or may not have its name, and j must not be used any more.
func (j *journal) create(number, base uint64, rewritten bool) error {
	file, size, err := j.blank()
	if err != nil {
		return fmt.Errorf("create journal file: %w", err)
	}
	var salt [8]byte
	_, _ = rand.Read(salt[:])
	h := fileHeader{
		rewritten: rewritten, cluster: j.cluster, number: number,
		first: j.next, base: base, salt: binary.LittleEndian.Uint64(salt[:]),
	}
	if _, err := file.WriteAt(h.encode(), 0); err != nil {
		return errors.Join(fmt.Errorf("write journal header: %w", err), file.Close())
	}
	j.file, j.number, j.salt = file, number, h.salt
	j.off, j.filled = fileHeaderSize, max(size, fileHeaderSize)
	return nil
}

// blank opens a file without a name to begin in, the spare one where there is
// one, and returns its size.
func (j *journal) blank() (vfs.File, int64, error) {
	temp := j.fs.PathJoin(j.dir, journalTemp)
	if err := removeIfThere(j.fs, temp); err != nil {
		return nil, 0, err
	}
	reuse := j.spare != nil && j.spare.CompareAndSwap(true, false)
	if reuse {
		if err := j.fs.Rename(j.fs.PathJoin(j.dir, journalSpare), temp); err != nil {
			return nil, 0, err
		}
	}
	file, err := j.fs.OpenReadWrite(temp, vfs.WriteCategoryUnspecified)
	if err != nil || !reuse {
		return file, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// publish syncs the new file and gives it its name.
func (j *journal) publish() error {
	if err := j.settle(); err != nil {
		return err
	}
	return j.name()
}

func (j *journal) settle() error {
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("sync journal file: %w", err)
	}
	j.hooks.at("journal synced")
	return nil
}

func (j *journal) name() error {
	err := j.fs.Rename(j.fs.PathJoin(j.dir, journalTemp), j.fs.PathJoin(j.dir, journalName(j.number)))
	if err != nil {
		return fmt.Errorf("name journal file: %w", err)
	}
	j.hooks.at("journal named")
	return syncDir(j.fs, j.dir)
}

// errHalfRotated wraps an error after which the next file is perhaps there. The
// journal must not be used any more.
var errHalfRotated = errors.New("embedded: journal file is perhaps begun")

// rotate starts the next file. After any error but errHalfRotated the journal
// goes on as it was.
func (j *journal) rotate() error {
	next := *j
	if err := next.create(j.number+1, 0, false); err != nil {
		return err
	}
	if err := next.settle(); err != nil {
		return errors.Join(err, next.close())
	}
	if err := next.name(); err != nil {
		return errors.Join(fmt.Errorf("%w: %w", errHalfRotated, err), next.close())
	}
	old := j.file
	*j = next
	// Every byte in it was synced: there is nothing left to go wrong.
	_ = old.Close()
	return nil
}

// write writes a sealed frame without syncing it. An error that is ErrGrow
// left the journal as it was; after any other, and after any error of sync, the
// frame is perhaps there and the journal must not be used any more.
func (j *journal) write(frame []byte) error {
	if err := j.reserve(int64(len(frame))); err != nil {
		return err
	}
	if _, err := j.file.WriteAt(frame, j.off); err != nil {
		return fmt.Errorf("write %s at %d: %w", journalName(j.number), j.off, err)
	}
	j.off += int64(len(frame))
	j.filled = max(j.filled, j.off)
	j.next++
	return nil
}

func (j *journal) sync() error {
	if j.hooks.skipSync {
		return nil
	}
	if err := j.file.SyncData(); err != nil {
		return fmt.Errorf("sync %s: %w", journalName(j.number), err)
	}
	return nil
}

// reserve makes the file long enough for n more bytes, so that a full disk is
// met before a frame is begun. Filling with zeros also spares most syncs the
// change of the file's size and of its extents.
func (j *journal) reserve(n int64) error {
	need := j.off + n
	if j.grow < 0 || need <= j.filled {
		return nil
	}
	if n > zeroFillMax {
		err := j.file.Preallocate(j.filled, need-j.filled)
		if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) || err == nil {
			return nil
		}
		return fmt.Errorf("%w: %w", ErrGrow, err)
	}
	for end := need + j.grow - need%j.grow; j.filled < end; {
		n, err := j.file.WriteAt(zeros[:min(end-j.filled, int64(len(zeros)))], j.filled)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrGrow, err)
		}
		j.filled += int64(n)
	}
	return nil
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}

// syncDir makes the names in dir durable.
func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("open folder %s: %w", dir, err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync folder %s: %w", dir, err), d.Close())
	}
	return d.Close()
}

func removeIfThere(fs vfs.FS, name string) error {
	if _, err := fs.Stat(name); err != nil {
		if isNotExist(err) {
			return nil
		}
		return fmt.Errorf("stat %s: %w", name, err)
	}
	if err := fs.Remove(name); err != nil && !isNotExist(err) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
