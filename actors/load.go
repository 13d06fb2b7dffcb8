package actors

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/quern-io/quern/failure"
)

// loadQueue gathers what a shard must read. One read of a shard is under way at
// a time; what is wanted meanwhile goes together into the next.
type loadQueue struct {
	wanted   []wanted
	underWay bool
}

// wanted is a grain whose record, or whose kept answers too, are to be read.
type wanted struct {
	grain *grain
	once  bool
	// Filled in by the loader.
	state   []byte // nil where there is no record
	entries map[string]*onceEntry
}

func (l *loadQueue) want(g *grain, once bool) {
	if once {
		g.extras().loadOnce = true
	}
	l.wanted = append(l.wanted, wanted{grain: g, once: once})
}

// startLoad hands what is wanted to the loader.
func (s *shard) startLoad() {
	if s.load.underWay || len(s.load.wanted) == 0 {
		return
	}
	items, activation := s.load.wanted, s.activation
	s.load.wanted, s.load.underWay = nil, true
	s.rt.loader.run(func(ctx context.Context) {
		err := s.rt.read(ctx, s.id, items)
		s.box.post(func() { s.loaded(activation, items, err) })
	})
}

// read fills in the records of items.
func (r *Runtime) read(ctx context.Context, shard uint32, items []wanted) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	keys := make([][]byte, len(items))
	for i, w := range items {
		keys[i] = appendStateKey(nil, w.grain.kind.kind.Name(), w.grain.key)
	}
	err := r.store.Read(ctx, shard, keys, func(i int, value []byte) {
		items[i].state = append([]byte{}, value...)
	})
	for i := range items {
		if err == nil && items[i].once {
			err = r.readOnce(ctx, shard, &items[i])
		}
	}
	return err
}

func (r *Runtime) readOnce(ctx context.Context, shard uint32, w *wanted) error {
	prefix := appendOncePrefix(nil, w.grain.kind.kind.Name(), w.grain.key)
	w.entries = make(map[string]*onceEntry)
	var broken error
	err := r.store.Scan(ctx, shard, prefix, prefixEnd(prefix), func(key, value []byte) bool {
		e, err := decodeOnce(value)
		if err != nil {
			broken = err
			return false
		}
		w.entries[string(bytes.TrimPrefix(key, prefix))] = e
		return true
	})
	if err == nil {
		err = broken
	}
	return err
}

// loaded takes what was read, and runs the calls that waited for it.
func (s *shard) loaded(activation uint64, items []wanted, err error) {
	if activation != s.activation {
		return
	}
	s.load.underWay = false
	for i := range items {
		w := &items[i]
		if w.grain.is(dropped) {
			continue
		}
		if e := s.install(w, err); e != nil {
			s.failLoad(w.grain, e)
			continue
		}
		s.runParked(w.grain)
	}
}

// install puts the read records into the grain.
func (s *shard) install(w *wanted, err error) error {
	if err != nil {
		return failure.Wrap(err, failure.StoreUnavailable, "the store could not be read: %v", err).After(time.Second)
	}
	g := w.grain
	if g.is(loading) {
		if w.state != nil {
			if err := g.state.Decode(w.state); err != nil {
				return failure.Wrap(err, failure.Internal, "the record of this grain does not decode")
			}
		}
		g.timer = g.state.Due()
		g.clear(loading)
	}
	if w.once {
		x := g.extras()
		x.loadOnce = false
		if x.once == nil {
			x.once = newOnceTable(w.entries)
			s.residents.weight += len(w.entries)
		}
	}
	return nil
}

func (s *shard) runParked(g *grain) {
	if g.extra == nil {
		return
	}
	parked := g.extra.parked.take()
	s.waiting -= parked.n
	for c := parked.pop(); c != nil; c = parked.pop() {
		if g.is(dropped) {
			s.handle(c)
			continue
		}
		s.current = c
		s.dispatch(g, c)
		s.current = nil
	}
	if x := g.extra; x != nil && x.once == nil && x.parked.n == 0 && !x.loadOnce {
		g.extra = nil
	}
}

// failLoad answers the calls of a grain that could not be read. The next call
// tries again.
func (s *shard) failLoad(g *grain, err error) {
	s.rt.log.Error("grain not loaded", slog.String("kind", g.kind.kind.Name()), slog.Any("shard", s.id), slog.Any("err", err))
	var parked callList
	if g.extra != nil {
		g.extra.loadOnce = false
		parked = g.extra.parked.take()
	}
	if g.is(loading) {
		s.residents.drop(g)
	}
	s.failAll(&parked, err)
}

// loader runs reads on a bounded number of goroutines. Each shard has at most
// two reads under way (records and timers), which bounds the queue.
type loader struct {
	tasks chan func(context.Context)
	group sync.WaitGroup
}

func (l *loader) start(ctx context.Context, workers, shards int) {
	l.tasks = make(chan func(context.Context), 2*shards)
	for range workers {
		l.group.Go(func() {
			for {
				select {
				case task := <-l.tasks:
					task(ctx)
				case <-ctx.Done():
					return
				}
			}
		})
	}
}

// run never blocks.
func (l *loader) run(task func(context.Context)) { l.tasks <- task }
