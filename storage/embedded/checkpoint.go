package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// checkpointRetry is the pause after a checkpoint that failed.
const checkpointRetry = 100 * time.Millisecond

// checkpointer writes frozen tails into pebble until the generation ends.
func (g *generation) checkpointer() {
	defer close(g.checkpointed)
	for {
		select {
		case <-g.stop:
			return
		case <-g.kick:
		}
		for f := g.tails.Load().frozen; f != nil; f = g.tails.Load().frozen {
			err := g.checkpoint(f)
			if errors.Is(err, errStopped) {
				return
			}
			if err == nil {
				continue
			}
			g.noteTrouble(err)
			timer := time.NewTimer(checkpointRetry)
			select {
			case <-g.stop:
				timer.Stop()
				return
			case <-timer.C:
			}
		}
	}
}

// checkpoint brings pebble up to f, drops f and deletes the journal files that
// hold it. It returns errStopped when the generation has ended.
func (g *generation) checkpoint(f *frozenTail) error {
	start := time.Now()
	if err := g.awaitCompactions(); err != nil {
		return err
	}
	if g.s.o.hooks.dropBeforeFlush {
		g.dropJournal(f.first)
		_ = syncDir(g.s.o.FS, g.s.o.FS.PathJoin(g.s.o.Dir, journalDir))
	}
	if err := g.writeStates(f); err != nil {
		return err
	}
	g.s.o.hooks.at("states written")
	flushed, err := g.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("flush states: %w", err)
	}
	select {
	case <-flushed:
	case <-g.stop:
		return errStopped
	}
	g.s.o.hooks.at("states flushed")
	g.tails.Store(&tails{active: g.tails.Load().active})
	g.dropJournal(f.first)
	g.s.o.hooks.at("checkpointed")
	g.caughtUp()
	g.s.metrics.checkpoint.UpdateDuration(start)
	return nil
}

// awaitCompactions waits while pebble's level 0 is too deep to take more.
func (g *generation) awaitCompactions() error {
	for g.db.Metrics().Levels[0].Sublevels >= l0Patience {
		select {
		case <-g.compacted:
		case <-g.stop:
			return errStopped
		}
	}
	return nil
}

// writeStates writes f into pebble's memtables in the order of shards and keys.
// The last batch carries the rows and the position: where a crash leaves only a
// part of the batches, the old position stands and the journal is replayed over
// them.
func (g *generation) writeStates(f *frozenTail) error {
	w := stateWriter{g: g, batch: g.db.NewBatch()}
	defer func() { _ = w.batch.Close() }()
	for shard := range f.shards {
		w.items = f.collect(w.items[:0], uint32(shard), nil, nil)
		for i := range w.items {
			if err := w.put(uint32(shard), &w.items[i]); err != nil {
				return err
			}
		}
	}
	var buf []byte
	for shard := range f.rows {
		if f.rows[shard].epoch == 0 {
			continue
		}
		buf = appendRow(buf[:0], &f.rows[shard])
		if err := w.batch.Set(rowKey(uint32(shard)), buf, nil); err != nil {
			return err
		}
	}
	if err := w.batch.Set(metaPosition, encodePosition(g.s.info.ClusterID, f.position), nil); err != nil {
		return err
	}
	return w.flush()
}

type stateWriter struct {
	g     *generation
	batch *pebble.Batch
	key   []byte
	items []item
}

func (w *stateWriter) put(shard uint32, it *item) error {
	w.key = appendStateKey(w.key[:0], shard, it.key)
	var err error
	if it.deleted {
		err = w.batch.Delete(w.key, nil)
	} else {
		err = w.batch.Set(w.key, it.value, nil)
	}
	if err != nil || w.batch.Len() < checkpointBatch {
		return err
	}
	return w.flush()
}

func (w *stateWriter) flush() error {
	select {
	case <-w.g.stop:
		return errStopped
	default:
	}
	if err := w.batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write states: %w", err)
	}
	w.batch.Reset()
	return nil
}

// dropJournal deletes the journal files before number, but for one that becomes
// the spare file. What cannot be deleted now is deleted by a later call.
func (g *generation) dropJournal(number uint64) {
	fs := &fencedFS{FS: g.s.o.FS, fence: g.fence}
	dir := fs.PathJoin(g.s.o.Dir, journalDir)
	names, err := fs.List(dir)
	if err != nil {
		return
	}
	for _, name := range names {
		if n, ok := parseJournalName(name); ok && n < number {
			g.dropFile(fs, dir, fs.PathJoin(dir, name))
		}
	}
}

// dropFile makes a journal file the spare one or deletes it. The spare file may be
// written to only when its old name is gone for good: after a power cut the name
// would stand for what the next file wrote.
func (g *generation) dropFile(fs vfs.FS, dir, path string) {
	if g.spare.Load() || fs.Rename(path, fs.PathJoin(dir, journalSpare)) != nil {
		_ = fs.Remove(path)
		return
	}
	if syncDir(fs, dir) == nil {
		g.spare.Store(true)
	}
}

// backgroundError is called by pebble, under its locks, for every failed flush
// and compaction. Both are tried again.
func (g *generation) backgroundError(err error) {
	g.noteTrouble(err)
	signal(g.trouble)
}

func (g *generation) noteTrouble(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.stopped {
		return
	}
	if g.mu.behind == nil {
		g.s.o.Logger.Error("checkpoint fails, trying again", slog.Any("err", err))
		// Those who wait for room look at the error.
		close(g.mu.room)
		g.mu.room = make(chan struct{})
	}
	g.mu.behind = err
}

func (g *generation) lastTrouble() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.behind
}

func (g *generation) compactionEnded() { signal(g.compacted) }

// dataCorruption is called by pebble when it finds a damaged table. Reads of it
// fail, each with its own error; nothing else is affected.
func (g *generation) dataCorruption(i pebble.DataCorruptionInfo) {
	g.s.o.Logger.Error("states are damaged", slog.String("path", i.Path), slog.Any("err", i.Details))
}

// caughtUp wakes the commits that wait for room.
func (g *generation) caughtUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.behind != nil {
		g.s.o.Logger.Info("checkpoint succeeded again")
	}
	g.mu.behind = nil
	close(g.mu.room)
	g.mu.room = make(chan struct{})
}

// spareRoom refuses pebble a new table while the disk is nearly full, so that
// what is left is for pebble's MANIFEST and the journal.
func (g *generation) spareRoom() error { return g.s.space.check(0, 8) }
