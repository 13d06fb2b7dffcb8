package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	statesDir = "states"

	// statesFormat is pebble's on-disk format. It is raised by hand only.
	statesFormat = pebble.FormatValueSeparation

	memTableBytes = 8 << 20
	// checkpointBatch is the size of the batches that a checkpoint writes.
	checkpointBatch = 512 << 10
	// l0Patience is the number of level-0 sublevels at which a checkpoint
	// waits for compactions.
	l0Patience = 24
)

// Keys in pebble: one byte of kind, then what it needs.
const (
	kindMeta  = 'm'
	kindRow   = 'r' // shard, big endian
	kindState = 's' // shard, big endian, then the key
)

var (
	metaPosition = []byte{kindMeta, 'p'} // cluster id, sequence number
	metaOpened   = []byte{kindMeta, 'o'} // number of times that it was opened
)

func appendStateKey(b []byte, shard uint32, key []byte) []byte {
	b = append(b, kindState)
	b = binary.BigEndian.AppendUint32(b, shard)
	return append(b, key...)
}

func rowKey(shard uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{kindRow}, shard)
}

func encodePosition(cluster [16]byte, position uint64) []byte {
	return binary.LittleEndian.AppendUint64(cluster[:], position)
}

// openStates opens pebble for one generation.
func (g *generation) openStates() (*pebble.DB, error) {
	o := &pebble.Options{
		FS:                 &statesFS{fencedFS: &fencedFS{FS: g.s.o.FS, fence: g.fence, slow: true}, failed: g.fail, spare: g.spareRoom},
		DisableWAL:         true,
		FormatMajorVersion: statesFormat,
		CacheSize:          g.s.o.CacheBytes,
		MaxOpenFiles:       1000,
		MemTableSize:       memTableBytes,
		// Writes never stall inside pebble, where nothing could end the
		// wait: a checkpoint is at most a few memtables and waits for
		// level 0 by itself.
		MemTableStopWritesThreshold: 1 << 10,
		L0StopWritesThreshold:       1 << 20,
		L0CompactionThreshold:       4,
		LBaseMaxBytes:               64 << 20,
		DisableTableStats:           true,
		Logger:                      &pebbleLogger{g: g},
		EventListener: &pebble.EventListener{
			BackgroundError: g.backgroundError,
			CompactionEnd:   func(pebble.CompactionInfo) { g.compactionEnded() },
			DataCorruption:  func(i pebble.DataCorruptionInfo) { g.dataCorruption(i) },
		},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	dir := g.s.o.FS.PathJoin(g.s.o.Dir, statesDir)
	if err := removeLogs(o.FS, dir); err != nil {
		return nil, err
	}
	// The default scheduler has a goroutine which an Open that fails leaves
	// behind. This one grants compactions when flushes and compactions end,
	// which is when there is something to grant.
	o.Experimental.CompactionScheduler = pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest()
	db, err := isolated(func() (*pebble.DB, error) { return pebble.Open(dir, o) })
	return db, errors.Join(err, g.failure())
}

// removeLogs deletes pebble's own logs, which are empty. Open would flush for each
// of them and wait, without an end, until that succeeds [source: open.go].
func removeLogs(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil && !isNotExist(err) {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, journalSuffix) {
			if err := fs.Remove(fs.PathJoin(dir, name)); err != nil && !isNotExist(err) {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
	}
	return nil
}

// isolated runs f in a goroutine of its own, so that a Goexit in it (see
// pebbleLogger) or a panic ends in an error and not in the caller's end.
func isolated[T any](f func() (T, error)) (result T, err error) {
	done := make(chan struct{})
	err = errors.New("embedded: pebble gave up")
	go func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("embedded: pebble gave up: %v", r)
			}
		}()
		result, err = f()
	}()
	<-done
	return result, err
}

// readMeta returns the position and the rows that pebble has.
func readMeta(db *pebble.DB, cluster [16]byte, rows []row) (position uint64, err error) {
	value, closer, err := db.Get(metaPosition)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read position of the states: %w", err)
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	if len(value) != 24 || [16]byte(value[:16]) != cluster {
		return 0, corrupt(statesDir, 0, "the states belong to cluster %x, the folder to %x", value[:min(16, len(value))], cluster)
	}
	return binary.LittleEndian.Uint64(value[16:]), readRows(db, rows)
}

func readRows(db *pebble.DB, rows []row) (err error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindRow}, UpperBound: []byte{kindRow + 1}})
	if err != nil {
		return fmt.Errorf("read rows of the states: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		r, ok := decodeRow(it.Value())
		key := it.Key()
		if !ok || len(key) != 5 || binary.BigEndian.Uint32(key[1:]) >= uint32(len(rows)) {
			return corrupt(statesDir, 0, "bad row %x", key)
		}
		rows[binary.BigEndian.Uint32(key[1:])] = r
	}
	return it.Error()
}

// pinStates makes pebble write and sync a MANIFEST of its own. The one that it
// read may, after a failed sync, be in the page cache only; the journal files
// that it makes needless are deleted after this.
func (g *generation) pinStates() error {
	value, closer, err := g.db.Get(metaOpened)
	var opened uint64
	switch {
	case err == nil:
		if len(value) == 8 {
			opened = binary.LittleEndian.Uint64(value)
		}
		err = closer.Close()
	case errors.Is(err, pebble.ErrNotFound):
		err = nil
	}
	if err != nil {
		return fmt.Errorf("read states: %w", err)
	}
	count := binary.LittleEndian.AppendUint64(nil, opened+1)
	if err := g.db.Set(metaOpened, count, pebble.NoSync); err != nil {
		return fmt.Errorf("write states: %w", err)
	}
	flushed, err := g.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("flush states: %w", err)
	}
	select {
	case <-flushed:
		return g.failure()
	case <-g.trouble:
		return fmt.Errorf("flush states: %w", g.lastTrouble())
	case <-g.stop:
		return fmt.Errorf("flush states: %w", g.failure())
	}
}

// pebbleLogger passes pebble's lines on at Debug and keeps it from ending the
// process.
type pebbleLogger struct{ g *generation }

func (l *pebbleLogger) Infof(format string, args ...any) { l.debug(format, args) }

func (l *pebbleLogger) Errorf(format string, args ...any) { l.debug(format, args) }

func (l *pebbleLogger) debug(format string, args []any) {
	if log := l.g.s.o.Logger; log.Enabled(context.Background(), slog.LevelDebug) {
		log.Debug("pebble", slog.String("line", fmt.Sprintf(format, args...)))
	}
}

// Fatalf stops the generation: its fence goes up and the store recovers. No
// failing file leads here (see statesFS), only what pebble finds wrong with
// itself. Pebble does not expect to go on, so its goroutine ends here. Locks that
// it does not release by defer stay locked then, and its Close may wait for ever:
// that pebble's memory and goroutines are left behind.
func (l *pebbleLogger) Fatalf(format string, args ...any) {
	l.g.fail(fmt.Errorf("pebble: "+format, args...))
	runtime.Goexit()
}
