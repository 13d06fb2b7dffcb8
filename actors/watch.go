package actors

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
)

// Watchable is a State that can be watched.
type Watchable interface {
	State
	// Event returns what watchers are told of the state, by a shard's clock.
	// It is called at a cut, once for all watchers of the grain. The message
	// is never changed; it may share only what the state never changes, too.
	Event(at handles.Place, now int64) handles.WatchMessage
}

// Bounds of watchers where Config has none.
const (
	defaultWatchersPerKey   = 16_384
	defaultWatchersPerShard = 65_536
)

var (
	errKeyWatched   = failure.New(failure.Overloaded, "this key has as many watchers as are taken").After(time.Second)
	errShardWatched = failure.New(failure.Overloaded, "the keys of this shard have as many watchers as are taken").After(time.Second)
	errBegunAnew    = failure.New(failure.NotOwner, "the shard raises its epoch; watch again")
)

// topic is a key that is watched, for one activation of its shard. It holds the
// last event, for all of its watchers: a reader that is slow finds the last one
// when it comes back, and costs nothing meanwhile. What is atomic is read by the
// watchers; the rest belongs to the shard's turn.
type topic struct {
	event   atomic.Pointer[handles.Event]
	ended   atomic.Pointer[failure.Error]
	changed atomic.Pointer[chan struct{}] // closed when there is something new
	queued  atomic.Bool                   // at the herald

	kind     *kindGrains
	tenure   *tenure // under which it was made
	key      string
	watchers int
	noted    bool // in watches.noted
}

// wake wakes those who wait. Who has loaded changed before finds the channel
// closed; who loads it later finds what is new.
func (t *topic) wake() {
	next := make(chan struct{})
	close(*t.changed.Swap(&next))
}

// watches is what a shard knows of its watchers.
type watches struct {
	// noted were changed in this batch of a shard whose gate is open.
	noted []*grain
	// sequence orders the events of an epoch: it rises with each state that
	// is looked at, in the order of the turns.
	sequence uint64
	n        int
	// flying are the events of what is in the commit under way.
	flying []flyingEvent
	// untold may be told when a leased shard has looked at the clock.
	untold []flyingEvent
}

type flyingEvent struct {
	topic *topic
	event *handles.Event
}

// watcher is one watch. It is the completer of the call that begins it.
type watcher struct {
	shard   *shard
	started chan error // has room for one
	seen    *handles.Event
	// Set in the shard's turn before started gets its value.
	topic *topic
	first *handles.Event // what the call saw
	gone  bool
}

// Watch tells each of a grain's state and then of its changes, until ctx ends,
// each fails or the shard ends its watches: with STOPPING, or with NOT_OWNER,
// also where it only begins anew. Events are in rising order, durable, and the
// last at the time at which each is called. Where idle is not 0, each gets a
// heartbeat after that time without an event. The error is that of each or a
// *failure.Error.
func (r *Runtime) Watch(ctx context.Context, shard uint32, kind, key string, idle time.Duration, each func(*handles.Event) error) error {
	w, err := r.beginWatch(shard, kind, key)
	if err != nil {
		return err
	}
	defer w.close()
	select {
	case err := <-w.started:
		if err != nil {
			return w.refused(err)
		}
	case <-ctx.Done():
		return handles.WatchEnded(ctx)
	}
	return w.run(ctx, idle, each)
}

// refused says why a watch did not begin.
func (w *watcher) refused(err error) error {
	if w.topic == nil {
		return err
	}
	if ended := w.topic.ended.Load(); ended != nil {
		return ended // which nothing of a read's perhaps is in
	}
	return err
}

// run tells each of one event after the other.
func (w *watcher) run(ctx context.Context, idle time.Duration, each func(*handles.Event) error) error {
	beat := &time.Ticker{}
	if idle > 0 {
		beat = time.NewTicker(idle)
		defer beat.Stop()
	}
	w.seen = w.first
	if last := w.topic.event.Load(); last != nil && last.After(w.first) {
		w.seen = last
	}
	for e := w.seen; ; {
		err := each(e)
		if err == nil {
			e, err = w.next(ctx, beat.C)
		}
		if err != nil {
			return err
		}
		if idle > 0 {
			beat.Reset(idle)
		}
	}
}

// beginWatch submits the call that begins a watch.
func (r *Runtime) beginWatch(shard uint32, kind, key string) (*watcher, error) {
	if err := keyspace.Check(key); err != nil {
		return nil, err
	}
	index := r.kindOf(kind)
	switch {
	case r.stopping.Load():
		return nil, errStopping
	case index < 0:
		return nil, failure.New(failure.UnknownKind, "this node serves no kind named %q", kind)
	}
	if _, ok := r.kinds[index].New().(Watchable); !ok {
		return nil, failure.New(failure.UnknownMethod, "grains of kind %q cannot be watched", kind)
	}
	s := r.shards[shard]
	w := &watcher{shard: s, started: make(chan error, 1)}
	c := r.calls.get()
	c.task, c.kindIndex, c.key, c.method = taskWatch, index, key, "Watch"
	s.submit(c, w)
	return w, nil
}

// Completed implements [Completer]: what the call saw is durable.
func (w *watcher) Completed(_ uint64, err error) { w.started <- err }

// next returns the last event as soon as it is another one than the last time,
// or a heartbeat.
func (w *watcher) next(ctx context.Context, beat <-chan time.Time) (*handles.Event, error) {
	t := w.topic
	for {
		// In this order: the last event comes before the end, and both before
		// the channel that tells of them is closed.
		changed, ended, event := t.changed.Load(), t.ended.Load(), t.event.Load()
		switch {
		case event != nil && event.After(w.seen):
			w.seen = event
			return event, nil
		case ended != nil:
			return nil, ended
		}
		select {
		case <-*changed:
		case <-beat:
			if !w.shard.rt.trusts(t.tenure) {
				return nil, errNotOwner
			}
			return w.seen.Heartbeat(), nil
		case <-ctx.Done():
			return nil, handles.WatchEnded(ctx)
		}
	}
}

// close removes the watcher.
func (w *watcher) close() { w.shard.box.post(func() { w.shard.unwatch(w) }) }

// watchTurn is the turn of a call that begins a watch. Like a read it passes the
// gate, and is run again where what it saw was undone.
func (s *shard) watchTurn(g *grain, c *call) {
	w, ok := c.done.(*watcher)
	if !ok || w.gone {
		c.complete(nil)
		return
	}
	if w.topic == nil {
		if err := s.join(g, w); err != nil {
			c.complete(err)
			return
		}
	}
	w.first = s.see(g)
	s.answer(g, 0, c, nil)
}

// join adds a watcher to its topic.
func (s *shard) join(g *grain, w *watcher) error {
	t := g.kind.topics[g.key]
	switch {
	case s.watches.n >= s.rt.cfg.WatchersPerShard:
		s.counts.overloaded.Add(1)
		return errShardWatched
	case t != nil && t.watchers >= s.rt.cfg.WatchersPerKey:
		s.counts.overloaded.Add(1)
		return errKeyWatched
	case t == nil:
		changed := make(chan struct{})
		t = &topic{kind: g.kind, key: g.key, tenure: s.tenure}
		t.changed.Store(&changed)
		if g.kind.topics == nil {
			g.kind.topics = make(map[string]*topic)
		}
		g.kind.topics[g.key] = t
		g.set(watched)
	}
	t.watchers++
	s.watches.n++
	w.topic = t
	s.counts.watchers.Store(int64(s.watches.n))
	return nil
}

// unwatch removes a watcher.
func (s *shard) unwatch(w *watcher) {
	t := w.topic
	w.gone = true
	if t == nil || t.kind.topics[t.key] != t {
		return // it had no turn, or its topic has ended
	}
	t.watchers--
	s.watches.n--
	s.counts.watchers.Store(int64(s.watches.n))
	if t.watchers > 0 {
		return
	}
	delete(t.kind.topics, t.key)
	if g := t.kind.grains[t.key]; g != nil {
		g.clear(watched)
	}
}

// see returns an event of a grain's state as it is now.
func (s *shard) see(g *grain) *handles.Event {
	state, ok := g.state.(Watchable)
	if !ok {
		return nil // never: only such have topics
	}
	s.watches.sequence++
	s.counts.events.Add(1)
	return handles.NewEvent(state.Event(handles.Place{Epoch: s.epoch.Load(), Sequence: s.watches.sequence}, s.now()))
}

// seeFlying looks at a grain that is about to fly: what watchers are told when
// the commit is done is this state, and not what later turns make of it.
func (s *shard) seeFlying(g *grain) {
	if t := g.kind.topics[g.key]; t != nil && !s.rt.openWatches {
		s.watches.flying = append(s.watches.flying, flyingEvent{t, s.see(g)})
	}
}

// note remembers a grain that was changed, where the gate holds nothing back.
func (s *shard) note(g *grain) {
	if t := g.kind.topics[g.key]; t != nil && s.rt.openWatches && !t.noted {
		t.noted = true
		s.watches.noted = append(s.watches.noted, g)
	}
}

// tellNoted tells of what was changed in this batch.
func (s *shard) tellNoted() {
	for i, g := range s.watches.noted {
		if t := g.kind.topics[g.key]; t != nil {
			t.noted = false
			if !g.is(dropped) {
				s.announce(t, s.see(g))
			}
		}
		s.watches.noted[i] = nil
	}
	s.watches.noted = s.watches.noted[:0]
}

// landEvents tells of the commit that is done.
func (s *shard) landEvents() {
	for _, f := range s.watches.flying {
		s.announce(f.topic, f.event)
	}
	s.dropEvents()
}

// dropEvents forgets the events of a commit: it is done, or was not.
func (s *shard) dropEvents() {
	clear(s.watches.flying)
	s.watches.flying = s.watches.flying[:0]
}

// announce tells of an event; a leased shard does so at the end of the batch.
func (s *shard) announce(t *topic, e *handles.Event) {
	if s.tenure == nil {
		s.tell(t, e)
		return
	}
	s.watches.untold = append(s.watches.untold, flyingEvent{t, e})
}

// tell replaces a topic's event. It costs the turn the same for one watcher as
// for many: the herald wakes them.
func (s *shard) tell(t *topic, e *handles.Event) {
	t.event.Store(e)
	s.rt.herald.enqueue(t)
}

// endWatches ends all watches of the activation.
func (s *shard) endWatches() {
	reason := errBegunAnew
	switch s.phase {
	case fenced:
		reason = errNotOwner
	case idle, winding:
		if reason = s.refusal; reason == nil {
			reason = errNotOwner
		}
	case closed:
		reason = errStopping
	default:
	}
	for i := range s.kinds {
		k := &s.kinds[i]
		for _, t := range k.topics {
			t.ended.Store(reason)
			s.rt.herald.enqueue(t)
		}
		k.topics = nil
	}
	s.watches = watches{sequence: s.watches.sequence}
	s.counts.watchers.Store(0)
}
