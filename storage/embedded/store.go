package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/quern-io/quern/actors"
)

// Store is an actors.Store in a folder. All methods may be called concurrently,
// Commit as actors.Store says.
type Store struct {
	o       Options
	info    actors.StoreInfo
	space   space
	metrics *storeMetrics
	lock    io.Closer

	// write is held, by a value in it, by whoever appends to the journal or
	// replaces the generation. rows, applier and everything "writer only"
	// belong to the holder.
	write   chan struct{}
	rows    []row
	applier applier

	// broken holds at most one signal for the supervisor.
	broken chan struct{}
	// closing is closed by Close, supervised is the supervisor's end, done
	// that of the shutdown.
	closing, supervised, done chan struct{}
	// retiring counts generations that are not closed yet.
	retiring sync.WaitGroup

	mu struct {
		sync.Mutex
		phase phase
		gen   *generation
		cause error // why the phase is broken
		// changed is closed and replaced with every change of phase.
		changed chan struct{}
	}
}

var _ actors.Store = (*Store)(nil)

// phase is the state of the store; see doc.go.
type phase int

const (
	phaseOpen phase = iota
	phaseBroken
	phaseClosed
)

// Open opens the folder, creates it where it is empty, and replays its journal.
// Errors: ErrForeign, ErrNewer, ErrLocked, ErrShards, ErrShardCount, ErrCorrupt,
// ErrUnwritable, ErrDiskFull, the context's, and those of the file system.
func Open(ctx context.Context, o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := makeFolder(&o); err != nil {
		return nil, err
	}
	if _, err := inspect(&o); err != nil {
		return nil, err
	}
	lock, err := lockFolder(&o)
	if err != nil {
		return nil, err
	}
	s := &Store{
		o: o, lock: lock,
		info:    actors.StoreInfo{Name: "embedded", Durable: true},
		space:   newSpace(o.FS, o.Dir, o.MinFreeBytes),
		metrics: newStoreMetrics(o.Metrics),
		write:   make(chan struct{}, 1), broken: make(chan struct{}, 1),
		closing: make(chan struct{}), supervised: make(chan struct{}), done: make(chan struct{}),
	}
	s.mu.changed = make(chan struct{})
	if err := s.start(); err != nil {
		s.retiring.Wait()
		return nil, errors.Join(fmt.Errorf("embedded: open %s: %w", o.Dir, asFull(err)), lock.Close())
	}
	return s, nil
}

// start brings the folder into use.
func (s *Store) start() error {
	state, err := inspect(&s.o)
	if err != nil {
		return err
	}
	if state == folderReady {
		err = s.load()
	} else {
		err = s.create()
	}
	if err != nil {
		return err
	}
	g, err := s.openGeneration()
	if err != nil {
		return err
	}
	s.install(g)
	go s.supervise()
	return nil
}

// asFull marks what a full disk caused with ErrDiskFull.
func asFull(err error) error {
	if isFull(err) && !errors.Is(err, ErrDiskFull) {
		return fmt.Errorf("%w: make room: %w", ErrDiskFull, err)
	}
	return err
}

// Info describes the store.
func (s *Store) Info() actors.StoreInfo { return s.info }

// acquire returns the generation to read from. While the store is broken it
// waits, as long as ctx allows. Every acquire is followed by a release.
func (s *Store) acquire(ctx context.Context) (*generation, error) {
	for {
		s.mu.Lock()
		g, phase, changed := s.mu.gen, s.mu.phase, s.mu.changed
		if phase == phaseOpen {
			g.readers++
		}
		s.mu.Unlock()
		switch phase {
		case phaseOpen:
			return g, nil
		case phaseClosed:
			return nil, ErrClosed
		case phaseBroken:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, s.why(ctx)
		}
	}
}

func (s *Store) release(g *generation) {
	s.mu.Lock()
	g.readers--
	last := g.retired && g.readers == 0
	s.mu.Unlock()
	if last {
		go s.closeRetired(g)
	}
}

// retire closes a generation when its last reader is gone.
func (s *Store) retire(g *generation) {
	s.retiring.Add(1)
	s.mu.Lock()
	g.retired = true
	idle := g.readers == 0
	s.mu.Unlock()
	if idle {
		go s.closeRetired(g)
	}
}

func (s *Store) closeRetired(g *generation) {
	defer s.retiring.Done()
	if err := g.closeFiles(); err != nil {
		s.o.Logger.Debug("closed a generation", slog.Any("err", err))
	}
	g.fence.raise()
}

// why explains a wait that ctx ended.
func (s *Store) why(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.phase == phaseBroken {
		return fmt.Errorf("%w (%w): %w", ErrBroken, s.mu.cause, ctx.Err())
	}
	return ctx.Err()
}

// change enters a phase and wakes everyone who waits for one. s.mu is held.
func (s *Store) change(p phase) {
	s.mu.phase = p
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
	s.metrics.open.Set(map[bool]float64{true: 1}[p == phaseOpen])
}

// lockWrite takes s.write and returns the generation to write to, once its tail
// is below limit. Errors: ErrClosed, ErrBroken, ErrBehind, the context's;
// s.write is not held then.
func (s *Store) lockWrite(ctx context.Context, limit int64) (*generation, error) {
	for {
		select {
		case s.write <- struct{}{}:
		case <-ctx.Done():
			return nil, s.why(ctx)
		}
		s.mu.Lock()
		g, phase, wait := s.mu.gen, s.mu.phase, s.mu.changed
		s.mu.Unlock()
		if phase == phaseOpen {
			var err error
			if wait, err = g.makeRoom(limit); err == nil && wait == nil {
				return g, nil
			} else if err != nil {
				<-s.write
				return nil, err
			}
		}
		<-s.write
		if phase == phaseClosed {
			return nil, ErrClosed
		}
		select {
		case <-wait:
		case <-g.stopped(phase):
		case <-ctx.Done():
			return nil, s.why(ctx)
		}
	}
}

// stopped returns the channel that ends a wait for room.
func (g *generation) stopped(p phase) <-chan struct{} {
	if p == phaseOpen {
		return g.stop
	}
	return nil
}

// makeRoom sees to it that the active tail is below limit. It returns a
// channel to wait on where the checkpoint must be waited for, ErrBehind where it
// fails. s.write is held.
func (g *generation) makeRoom(limit int64) (wait chan struct{}, err error) {
	if g.tails.Load().active.bytes < limit {
		return nil, nil
	}
	g.mu.Lock()
	wait, err = g.mu.room, g.mu.behind
	g.mu.Unlock()
	if g.tails.Load().frozen != nil {
		if err != nil {
			return nil, asFull(fmt.Errorf("%w: %w", ErrBehind, err))
		}
		return wait, nil
	}
	if err := g.freeze(); err != nil {
		return nil, asFull(fmt.Errorf("%w: %w", ErrBehind, err))
	}
	return nil, nil
}

// Close ends the store. It waits for what is under way as long as ctx allows,
// and returns the context's error where that was too short; the rest is then
// done in the background.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	first := s.mu.phase != phaseClosed
	if first {
		s.change(phaseClosed)
		close(s.closing)
	}
	s.mu.Unlock()
	if first {
		go s.shutdown()
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	g := s.mu.gen
	s.mu.Unlock()
	g.fence.raise()
	return fmt.Errorf("embedded: close %s: %w", s.o.Dir, ctx.Err())
}

// shutdown waits for the writer, the supervisor and the readers, and lets go of
// the folder.
func (s *Store) shutdown() {
	defer close(s.done)
	<-s.supervised
	s.write <- struct{}{}
	s.mu.Lock()
	g, retired := s.mu.gen, s.mu.gen.retired
	s.mu.Unlock()
	if !retired {
		g.halt()
		s.retire(g)
	}
	<-s.write
	s.retiring.Wait()
	if err := s.lock.Close(); err != nil {
		s.o.Logger.Error("unlock data folder", slog.Any("err", err))
	}
}
