package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// wanted is a grain whose record, or whose kept answers or guards too, are to be
// read.
type wanted struct {
	grain        *grain
	once, guards bool
	// Filled in by the loader.
	state   []byte // nil where there is no record
	marks   []byte // the record of the guards
	entries map[string]*onceEntry
	err     error
}

func (l *loadQueue) want(g *grain, once, guards bool) {
	if once {
		g.extras().loadOnce = true
	}
	if guards {
		g.extras().loadGuards = true
	}
	l.wanted = append(l.wanted, wanted{grain: g, once: once, guards: guards})
}

// lacks reports whether something must be read before a turn on the grain, and
// asks for what nobody has asked for yet.
func (s *shard) lacks(g *grain, once, guards bool) bool {
	once, guards = once && g.once() == nil, guards && g.guards() == nil
	if !once && !guards {
		return g.is(loading)
	}
	x := g.extras()
	once, guards = once && !x.loadOnce, guards && !x.loadGuards
	if once || guards {
		s.load.want(g, once, guards)
	}
	return true
}

// startLoad hands what is wanted to the loader.
func (s *shard) startLoad() {
	if s.load.underWay || len(s.load.wanted) == 0 {
		return
	}
	items, activation := s.load.wanted, s.activation
	s.load.wanted, s.load.underWay = nil, true
	s.rt.loader.run(func(ctx context.Context) {
		s.rt.read(ctx, s.id, items)
		s.box.post(func() { s.loaded(activation, items) })
	})
}

// read fills in the records of items, or why they could not be read.
func (r *Runtime) read(ctx context.Context, shard uint32, items []wanted) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	keys := make([][]byte, 0, len(items))
	var guarded []int // whose guards are read behind the states
	for i, w := range items {
		keys = append(keys, appendStateKey(nil, w.grain.kind.kind.Name(), w.grain.key))
		if w.guards {
			guarded = append(guarded, i)
		}
	}
	for _, i := range guarded {
		keys = append(keys, appendGuardKey(nil, items[i].grain.kind.kind.Name(), items[i].grain.key))
	}
	err := r.store.Read(ctx, shard, keys, func(i int, value []byte) {
		if i < len(items) {
			items[i].state = append([]byte{}, value...)
		} else {
			items[guarded[i-len(items)]].marks = append([]byte{}, value...)
		}
	})
	for i := range items {
		if err != nil {
			items[i].err = unreadable(err)
		} else if items[i].once {
			items[i].err = r.readOnce(ctx, shard, &items[i])
		}
	}
}

func unreadable(err error) error {
	return failure.Wrap(err, failure.StoreUnavailable, "the store could not be read: %v", err).After(time.Second)
}

// undecodable is a record that says nothing: the grain cannot be used until it
// was mended, and trying again is in vain.
func undecodable(err error) error {
	return failure.Wrap(err, failure.Internal, "a record of this grain does not decode; nothing was done")
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
	switch {
	case err != nil:
		return unreadable(err)
	case broken != nil:
		return undecodable(broken)
	default:
		return nil
	}
}

// loaded takes what was read, and runs the calls that waited for it.
func (s *shard) loaded(activation uint64, items []wanted) {
	if activation != s.activation {
		return
	}
	s.load.underWay = false
	for i := range items {
		w := &items[i]
		if w.grain.is(dropped) {
			continue
		}
		if err := s.install(w); err != nil {
			s.failLoad(w.grain, err)
			continue
		}
		s.unpark(w.grain)
	}
}

// install puts the read records into the grain.
func (s *shard) install(w *wanted) error {
	if w.err != nil {
		return w.err
	}
	g := w.grain
	if g.is(loading) {
		if w.state != nil {
			before := g.weight()
			err := decode(g.state, w.state)
			s.residents.weight += g.weight() - before
			if err != nil {
				return undecodable(err)
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
	if w.guards {
		return s.installGuards(g, w.marks)
	}
	return nil
}

func (s *shard) installGuards(g *grain, record []byte) error {
	x := g.extras()
	x.loadGuards = false
	if x.guards != nil {
		return nil
	}
	t, err := decodeGuards(record)
	if err != nil {
		return undecodable(err)
	}
	x.guards = t
	s.residents.weight += len(t.marks)
	return nil
}

// decode turns a panic of the kind into an error.
func decode(state State, record []byte) (err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("actors: decode panicked: %v", reason)
		}
	}()
	return state.Decode(record)
}

// unpark lets the calls that waited for the load have their turns.
func (s *shard) unpark(g *grain) {
	x := g.extra
	if x == nil {
		return
	}
	x.released += x.parked.n
	for c := x.parked.first; c != nil; c = c.next {
		c.grain = g
	}
	s.resume(&x.parked)
	g.tidy()
}

// failLoad answers the calls of a grain that could not be read. The next call
// tries again.
func (s *shard) failLoad(g *grain, err error) {
	s.rt.log.Error("grain not loaded", slog.String("kind", g.kind.kind.Name()), slog.Any("shard", s.id), slog.Any("err", err))
	var parked callList
	if g.extra != nil {
		g.extra.loadOnce, g.extra.loadGuards = false, false
		parked = g.extra.parked.take()
	}
	if g.is(loading) {
		s.residents.drop(g)
	}
	if errors.Is(err, failure.Internal) {
		s.passOver(g, &parked, err)
	}
	s.failAll(&parked, err)
}

// passOver takes the columns out of a list, which go on without a grain that
// does not decode.
func (s *shard) passOver(g *grain, l *callList, err error) {
	var columns callList
	calls := l.take()
	for c := calls.pop(); c != nil; c = calls.pop() {
		if c.column == nil {
			l.push(c)
			continue
		}
		if c.broken == nil {
			c.broken = make(map[string]error)
		}
		c.broken[g.key] = err
		columns.push(c)
	}
	s.resume(&columns)
}

// loader runs reads on a fixed number of goroutines. An activation of a shard
// has at most three reads under way (records, timers, the count of sessions),
// which bounds the queue but for those of activations that have ended.
type loader struct {
	mu    sync.Mutex
	queue []func(context.Context)
	wake  chan struct{} // holds a signal for each worker that should look
	group sync.WaitGroup
}

func (l *loader) start(ctx context.Context, workers int) {
	l.wake = make(chan struct{}, workers)
	for range workers {
		l.group.Go(func() {
			for {
				select {
				case <-l.wake:
				case <-ctx.Done():
					return
				}
				for task := l.take(); task != nil; task = l.take() {
					task(ctx)
				}
			}
		})
	}
}

func (l *loader) take() func(context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	task := l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	return task
}

// run never blocks.
func (l *loader) run(task func(context.Context)) {
	l.mu.Lock()
	l.queue = append(l.queue, task)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default: // as many workers as there are will look
	}
}
