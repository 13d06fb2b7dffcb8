package embedded

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// generation is one opening of journal and pebble. A failed write ends it, and a
// recovery opens the next one; the fence keeps the old one's hands off the disk.
type generation struct {
	s     *Store
	fence *fence
	db    *pebble.DB
	// journal, nextFreeze and freezeErr belong to the holder of Store.write.
	journal    *journal
	nextFreeze time.Time
	freezeErr  error
	tails      atomic.Pointer[tails]
	// spare says that there is a spare journal file.
	spare atomic.Bool

	// kick wakes the checkpointer, checkpointed is its end.
	kick         chan struct{}
	checkpointed chan struct{}
	// stop is closed when the generation ends, by failure or Close.
	stop chan struct{}
	// trouble and compacted each hold at most one signal from pebble.
	trouble   chan struct{}
	compacted chan struct{}

	mu struct {
		sync.Mutex
		stopped bool
		err     error // why it failed
		behind  error // the last background error since the last checkpoint
		room    chan struct{}
	}

	// readers and retired are guarded by Store.mu.
	readers int
	retired bool
}

// tails are what readers look at before pebble, newest first.
type tails struct {
	active *tail
	// frozen is nil where pebble has everything but active.
	frozen *frozenTail
}

// frozenTail is a tail on its way into pebble.
type frozenTail struct {
	*tail
	// rows are the shards' rows when it was frozen, position the last
	// sequence number in it.
	rows     []row
	position uint64
	// first is the number of the first journal file that is needed when
	// pebble has the tail.
	first uint64
}

func newGeneration(s *Store) *generation {
	g := &generation{
		s: s, fence: newFence(),
		kick: make(chan struct{}, 1), checkpointed: make(chan struct{}),
		stop: make(chan struct{}), trouble: make(chan struct{}, 1), compacted: make(chan struct{}, 1),
	}
	g.mu.room = make(chan struct{})
	return g
}

// openGeneration opens the folder, replays the journal and writes what pebble
// lacks anew into a fresh journal file, which is synced before it returns. The
// rows it found replace Store.rows; Store.write is held.
func (s *Store) openGeneration() (g *generation, err error) {
	g = newGeneration(s)
	defer func() {
		if err != nil {
			close(g.checkpointed)
			g.end(err)
			s.retire(g)
		}
	}()
	if g.db, err = g.openStates(); err != nil {
		return g, fmt.Errorf("open %s: %w", s.o.FS.PathJoin(s.o.Dir, statesDir), err)
	}
	s.o.hooks.at("states open")
	rows := make([]row, s.info.Shards)
	position, err := readMeta(g.db, s.info.ClusterID, rows)
	if err != nil {
		return g, err
	}
	old := newTail(len(rows))
	fs := &fencedFS{FS: s.o.FS, fence: g.fence}
	r := replayer{
		fs: fs, dir: fs.PathJoin(s.o.Dir, journalDir), cluster: s.info.ClusterID,
		position: position, lenient: s.o.hooks.lenient,
	}
	found, err := r.run(&applier{tail: old, rows: rows})
	if err != nil {
		return g, err
	}
	s.o.hooks.at("replayed")
	if err := g.pinStates(); err != nil {
		return g, err
	}
	s.o.hooks.at("states pinned")
	if err := g.rewrite(fs, r.dir, old, rows, position, &found); err != nil {
		return g, err
	}
	s.rows = rows
	go g.checkpointer()
	return g, nil
}

// rewrite writes rows and the last value of each key in old into a new journal
// file, makes it durable, and deletes the files before it.
func (g *generation) rewrite(fs vfs.FS, dir string, old *tail, rows []row, position uint64, found *replayed) error {
	s := g.s
	j := &journal{fs: fs, dir: dir, cluster: s.info.ClusterID, grow: s.o.GrowBytes, hooks: s.o.hooks, next: found.next}
	g.journal = j
	if s.o.hooks.keepOldTail {
		g.tails.Store(&tails{active: old})
		return j.resume(found)
	}
	if err := j.create(found.last.header.number+1, position, true); err != nil {
		return err
	}
	j.spare = &g.spare
	w := &rewriter{journal: j, tail: newTail(len(rows)), rows: rows}
	if err := w.all(old); err != nil {
		return err
	}
	if err := j.publish(); err != nil {
		return err
	}
	s.o.hooks.at("rewritten")
	g.tails.Store(&tails{active: w.tail})
	// Files that stay because they cannot be deleted are older than a
	// rewritten one and never read again; the next opening tries again.
	for _, path := range append(found.all, fs.PathJoin(dir, journalSpare)) {
		_ = fs.Remove(path)
	}
	return nil
}

// resume goes on with the last file that a replay found.
func (j *journal) resume(found *replayed) (err error) {
	j.file, err = j.fs.OpenReadWrite(found.last.path, vfs.WriteCategoryUnspecified)
	h := &found.last.header
	j.number, j.salt, j.off, j.filled = h.number, h.salt, found.end, found.end
	return err
}

// rewriter copies a replayed tail into a new file and a new tail.
type rewriter struct {
	journal *journal
	tail    *tail
	rows    []row
	items   []item
}

func (w *rewriter) all(old *tail) error {
	buf := w.begin(len(w.rows)*rowEntrySize + 1)
	for shard := range w.rows {
		if w.rows[shard].epoch != 0 {
			buf = appendRowEntry(buf, uint32(shard), &w.rows[shard])
		}
	}
	if err := w.finish(buf); err != nil {
		return err
	}
	for shard := range w.rows {
		w.items = old.collect(w.items[:0], uint32(shard), nil, nil)
		for rest := w.items; len(rest) > 0; {
			n, size := 0, batchHeaderSize
			for n < len(rest) && (n == 0 || size < chunkSize/2) {
				size += len(rest[n].key) + len(rest[n].value) + recordOverhead
				n++
			}
			if err := w.batch(uint32(shard), rest[:n], size); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return w.finish(append(w.begin(1), entryEnd))
}

func (w *rewriter) batch(shard uint32, items []item, size int) error {
	r := &w.rows[shard]
	buf := appendBatchHeader(w.begin(size), shard, r.epoch, r.time, len(items))
	for _, it := range items {
		buf = appendRecord(buf, it.key, it.value, it.deleted)
	}
	return w.finish(buf)
}

func (w *rewriter) begin(n int) []byte {
	return w.tail.room(frameHeaderSize + n)[:frameHeaderSize]
}

func (w *rewriter) finish(frame []byte) error {
	sealFrame(frame, w.journal.next, w.journal.salt)
	if err := w.journal.write(frame); err != nil {
		return err
	}
	ref := w.tail.accept(len(frame))
	a := applier{tail: w.tail, rows: w.rows}
	return a.apply(frame[frameHeaderSize:], ref+frameHeaderSize)
}

// fail ends the generation because of err and has the store recover. It may be
// called from anywhere, under pebble's locks too.
func (g *generation) fail(err error) {
	g.end(err)
	g.s.failed(g, err)
}

// end raises the fence and stops the checkpointer.
func (g *generation) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.stopped {
		return
	}
	g.mu.stopped, g.mu.err = true, err
	g.fence.raise()
	close(g.stop)
}

// halt stops the checkpointer and leaves the disk to pebble's orderly Close.
func (g *generation) halt() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.mu.stopped {
		g.mu.stopped = true
		close(g.stop)
	}
}

func (g *generation) failure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.err
}

// closeFiles closes journal and pebble once nothing uses them. It returns when
// pebble is closed, or gave up on it.
func (g *generation) closeFiles() error {
	<-g.checkpointed
	var errs []error
	if g.journal != nil {
		errs = append(errs, g.journal.close())
	}
	if g.db != nil {
		_, err := isolated(func() (struct{}, error) { return struct{}{}, g.db.Close() })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// freeze hands the active tail to the checkpointer and starts a new one with a
// new journal file. Store.write is held; there is no frozen tail. After a failure
// it waits a while before it tries again.
func (g *generation) freeze() error {
	t := g.tails.Load()
	f := &frozenTail{tail: t.active, rows: slices.Clone(g.s.rows), position: g.journal.next - 1}
	if now := time.Now(); now.Before(g.nextFreeze) {
		return g.freezeErr
	} else if err := g.journal.rotate(); err != nil {
		g.nextFreeze, g.freezeErr = now.Add(checkpointRetry), err
		g.noteTrouble(err)
		if errors.Is(err, errHalfRotated) {
			g.fail(err)
		}
		return err
	}
	f.first = g.journal.number
	g.s.o.hooks.at("rotated")
	g.tails.Store(&tails{active: newTail(len(f.rows)), frozen: f})
	signal(g.kick)
	return nil
}
