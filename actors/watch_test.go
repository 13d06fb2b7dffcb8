package actors_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// seen is an event of a counter as a test sees it.
type seen struct {
	handles.Place
	value       int64
	found, beat bool
}

func seenOf(e *handles.Event) seen {
	m := e.Message().(*quernv1.CounterServiceWatchResponse) //nolint:errcheck,forcetypeassert // counters are watched
	return seen{
		handles.Place{Epoch: m.GetEpoch(), Sequence: m.GetSequence()},
		m.GetEvent().GetValue(), m.GetEvent().GetFound(), m.GetEvent() == nil,
	}
}

// observer is a watch whose reader takes each event when the test does.
type observer struct {
	events chan seen
	end    chan error
	cancel context.CancelFunc
}

// observe watches a counter until the test ends.
func (r *rig) observe(tb testing.TB, key string, idle time.Duration) *observer {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	o := &observer{make(chan seen), make(chan error, 1), cancel}
	var reader sync.WaitGroup
	reader.Go(func() {
		o.end <- r.Watch(ctx, r.shardOf(key), "counter", key, idle, func(e *handles.Event) error {
			select {
			case o.events <- seenOf(e):
				return nil
			case <-ctx.Done():
				return handles.WatchEnded(ctx)
			}
		})
	})
	tb.Cleanup(func() {
		cancel()
		reader.Wait()
	})
	return o
}

// until takes events until one has the value, and checks their order.
func (o *observer) until(tb testing.TB, value int64) seen {
	tb.Helper()
	var last seen
	for {
		select {
		case e := <-o.events:
			if e.Epoch < last.Epoch || e.Epoch == last.Epoch && e.Sequence <= last.Sequence {
				tb.Fatalf("%+v came after %+v", e, last)
			}
			if last = e; e.value == value {
				return e
			}
		case err := <-o.end:
			tb.Fatalf("the watch ended while it waited for %d: %v", value, err)
		}
	}
}

func (o *observer) nothing(tb testing.TB, when string) {
	tb.Helper()
	select {
	case e := <-o.events:
		tb.Errorf("%s: %+v was told", when, e)
	default:
	}
}

// ended waits for the end of a watch that the test has cancelled.
func (o *observer) ended(tb testing.TB) {
	tb.Helper()
	if err := <-o.end; !errors.Is(err, failure.Canceled) {
		tb.Errorf("a watch that was cancelled ended with %v", err)
	}
}

// bothStores are a store with a gate and one without.
func bothStores(t *testing.T, test func(t *testing.T, store actors.Store)) {
	t.Helper()
	for name, open := range map[string]func() actors.Store{
		"durable": func() actors.Store { return newFaultStore() }, "memory": newMemory,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open())
		})
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	bothStores(t, func(t *testing.T, store actors.Store) {
		t.Helper()
		r := newRig(t, store)
		c := r.counter("a")
		o := r.observe(t, "a", 0)
		if e := <-o.events; e.value != 0 || e.found {
			t.Errorf("at first: %+v", e)
		}
		for want := int64(1); want <= 3; want++ {
			if _, err := c.Add(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			if e := o.until(t, want); !e.found || e.Epoch != r.epoch("a") {
				t.Errorf("%+v", e)
			}
		}
		// Who comes later begins with what is there.
		if e := <-r.observe(t, "a", 0).events; e.value != 3 {
			t.Errorf("a second watch: %+v", e)
		}
		if _, err := c.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		if e := o.until(t, 0); e.found {
			t.Errorf("after the reset: %+v", e)
		}
		if _, err := c.Set(t.Context(), 9); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Expire(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if e := o.until(t, 0); e.found {
			t.Errorf("after the expiry: %+v", e)
		}
	})
}

// TestWatchersWaitForTheCommit holds commits up and refuses them.
func TestWatchersWaitForTheCommit(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	if _, err := r.counter("a").Add(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	early := r.observe(t, "a", 0)
	early.until(t, 7)
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) {
		f.hold, f.verdict = hold, func(actors.Batch) actors.Status { return actors.Refused }
	})
	first := begin(add(r, "a"))
	<-store.began
	second := begin(add(r, "a"))
	late := r.observe(t, "a", 0) // begins on a state that is not durable
	await(r, "a", 3)
	early.nothing(t, "before the commit")
	late.nothing(t, "before the commit")

	close(hold)
	for _, c := range []<-chan answer{first, second} {
		if got := <-c; !errors.Is(got.err, failure.Overloaded) {
			t.Errorf("%+v", got)
		}
	}
	if e := <-late.events; e.value != 7 {
		t.Errorf("who began meanwhile was told %+v", e)
	}
	early.nothing(t, "after a commit that was refused")

	store.set(func(f *faultStore) { f.verdict, f.hold = nil, nil })
	if _, err := r.counter("a").Add(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	for _, o := range []*observer{early, late} {
		if e := <-o.events; e.value != 107 {
			t.Errorf("after it: %+v", e)
		}
	}
}

// TestWatchSeesTheStateOfItsCommit: turns that come after the cut change the
// state in memory; who watches is told of what has landed.
func TestWatchSeesTheStateOfItsCommit(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	o := r.observe(t, "a", 0)
	o.until(t, 0)
	hold, again := make(chan struct{}), make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	first := begin(add(r, "a"))
	<-store.began
	second := begin(add(r, "a"))
	await(r, "a", 2)
	store.set(func(f *faultStore) { f.hold = again })
	close(hold)
	<-first
	<-store.began // the second commit, which hangs
	if e := <-o.events; e.value != 1 {
		t.Errorf("told of %d, which is not durable", e.value)
	}
	o.nothing(t, "before the second commit")
	close(again)
	<-second
	o.until(t, 2)
}

// TestWatchEnds: the shard ends its watches with what owning it ends with, after
// the last event.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		end  func(t *testing.T, r *rig, store *faultStore)
		want failure.Reason
	}{
		"the node stops": {func(t *testing.T, r *rig, _ *faultStore) {
			t.Helper()
			if err := r.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}, failure.Stopping},
		"the store fences": {func(t *testing.T, r *rig, store *faultStore) {
			t.Helper()
			raised, err := store.Raise(t.Context(), []actors.Raise{{Shard: r.shardOf("a"), Epoch: 1 << 40, Incarnation: [16]byte{1}}})
			if err != nil || !raised[0].OK {
				t.Error(raised, err)
			}
			if _, err := r.counter("a").Add(t.Context(), 1); !errors.Is(err, failure.NotOwner) {
				t.Error(err)
			}
		}, failure.NotOwner},
		"a commit is unclear": {func(t *testing.T, r *rig, store *faultStore) {
			t.Helper()
			store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return actors.Unclear } })
			if _, err := r.counter("a").Add(t.Context(), 1); !errors.Is(err, failure.OutcomeUnknown) {
				t.Error(err)
			}
		}, failure.NotOwner},
		"the shard restarts": {func(_ *testing.T, r *rig, _ *faultStore) { r.Crash(r.shardOf("a")) }, failure.NotOwner},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newFaultStore()
			r := newRig(t, store)
			o := r.observe(t, "a", 0)
			o.until(t, 0)
			if _, err := r.counter("a").Add(t.Context(), 5); err != nil {
				t.Fatal(err)
			}
			c.end(t, r, store)
			o.until(t, 5)
			if err := <-o.end; !errors.Is(err, c.want) || failure.OutcomeOf(err) != failure.NotDone {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if c.want == failure.Stopping {
				return // nobody can be asked any more
			}
			if n, topics := r.WatchersAt(r.shardOf("a")); n != 0 || topics != 0 {
				t.Errorf("%d watchers and %d topics are left", n, topics)
			}
		})
	}
}

// TestWatchAtTheGateWhenItsShardEnds: it had no event, and is told to begin anew
// rather than that something perhaps happened.
func TestWatchAtTheGateWhenItsShardEnds(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	hold := make(chan struct{})
	store.set(func(f *faultStore) {
		f.hold, f.verdict = hold, func(actors.Batch) actors.Status { return actors.Unclear }
	})
	write := begin(add(r, "a"))
	<-store.began
	o := r.observe(t, "a", 0)
	await(r, "a", 2)
	store.set(func(f *faultStore) { f.hold, f.verdict = nil, nil })
	close(hold)
	<-write
	if err := <-o.end; !errors.Is(err, failure.NotOwner) {
		t.Errorf("got %v", err)
	}
}

func TestWatchRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withProbe(probe{}))
	for name, c := range map[string]struct {
		kind, key string
		want      failure.Reason
	}{
		"no such kind":     {"nothing", "a", failure.UnknownKind},
		"nothing to watch": {"probe", "a", failure.UnknownMethod},
		"bad key":          {"counter", "", failure.InvalidKey},
	} {
		err := r.Watch(t.Context(), 0, c.kind, c.key, 0, func(*handles.Event) error { return nil })
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	store := newFaultStore()
	r = newRig(t, store)
	store.set(func(f *faultStore) { f.read = func(uint32) error { return errBroken } })
	if err := <-r.observe(t, "a", 0).end; !errors.Is(err, failure.StoreUnavailable) {
		t.Errorf("a store that cannot be read: %v", err)
	}
	store.set(func(f *faultStore) { f.read = nil })
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-r.observe(t, "a", 0).end; !errors.Is(err, failure.Stopping) {
		t.Errorf("after the stop: %v", err)
	}
}

// TestWatchersAreBounded: who leaves makes room at once.
func TestWatchersAreBounded(t *testing.T) {
	t.Parallel()
	const perKey, perShard = 3, 5
	r := newRig(t, newFaultStore(), func(c *actors.Config) { c.WatchersPerKey, c.WatchersPerShard = perKey, perShard })
	var keys []string // of one shard
	for i := 0; len(keys) < 3; i++ {
		if key := "k" + strconv.Itoa(i); r.shardOf(key) == 0 {
			keys = append(keys, key)
		}
	}
	taken := map[string][]*observer{}
	watch := func(key string) error {
		o := r.observe(t, key, 0)
		select {
		case <-o.events:
			taken[key] = append(taken[key], o)
			return nil
		case err := <-o.end:
			return err
		}
	}
	for i, want := range []struct {
		key  string
		full bool
	}{
		{keys[0], false},
		{keys[0], false},
		{keys[0], false},
		{keys[0], true},
		{keys[1], false},
		{keys[1], false},
		{keys[1], true},
		{keys[2], true},
	} {
		var e *failure.Error
		err := watch(want.key)
		if want.full != errors.Is(err, failure.Overloaded) || want.full && (!errors.As(err, &e) || e.RetryAfter <= 0) {
			t.Fatalf("watch %d: %v", i, err)
		}
	}
	gone := taken[keys[0]][0]
	gone.cancel()
	gone.ended(t)
	if err := watch(keys[2]); err != nil {
		t.Errorf("after one has left: %v", err)
	}
	for _, of := range taken {
		for _, o := range of {
			o.cancel()
			if o != gone {
				o.ended(t)
			}
		}
	}
	if n, topics := r.WatchersAt(0); n != 0 || topics != 0 {
		t.Errorf("%d watchers and %d topics are left", n, topics)
	}
}

// TestWatchersThatLeaveEarly: at the gate, or before the record was read.
func TestWatchersThatLeaveEarly(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	reading, read := make(chan struct{}, 1), make(chan struct{})
	store.set(func(f *faultStore) {
		f.read = func(uint32) error {
			reading <- struct{}{}
			<-read
			return nil
		}
	})
	loading := r.observe(t, "a", 0)
	<-reading
	loading.cancel()
	if err := <-loading.end; !errors.Is(err, failure.Canceled) {
		t.Errorf("got %v", err)
	}
	store.set(func(f *faultStore) { f.read = nil })
	close(read)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	write := begin(add(r, "a"))
	<-store.began
	gated := r.observe(t, "a", 0)
	await(r, "a", 2)
	gated.cancel()
	gated.ended(t)
	close(hold)
	<-write
	if n, topics := r.WatchersAt(r.shardOf("a")); n != 0 || topics != 0 {
		t.Errorf("%d watchers and %d topics are left", n, topics)
	}
}

// TestWatchSurvivesEviction: the key is driven out of memory again and again.
func TestWatchSurvivesEviction(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), func(c *actors.Config) { c.ResidentLimit = 1 })
	o := r.observe(t, "a", 0)
	o.until(t, 0)
	for round := int64(1); round <= 5; round++ {
		for i := range 200 {
			if _, err := r.counter(fmt.Sprintf("{a}%d", i)).Add(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
		if n := r.RingAt(r.shardOf("a")); n > 100 {
			t.Fatalf("%d grains are resident", n)
		}
		if _, err := r.counter("a").Add(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		o.until(t, round)
	}
}

// TestLastStateArrives: watchers that read at their own pace see rising values,
// and in the end the last.
func TestLastStateArrives(t *testing.T) {
	t.Parallel()
	bothStores(t, func(t *testing.T, store actors.Store) {
		t.Helper()
		const watchers, callers, adds = 20, 8, 300
		r := newRig(t, store)
		var all sync.WaitGroup
		for i := range watchers {
			o := r.observe(t, "a", 0)
			all.Go(func() {
				last := seen{value: -1}
				for last.value < callers*adds {
					e := <-o.events
					if e.value <= last.value && e.value != 0 || e.Epoch == last.Epoch && e.Sequence <= last.Sequence {
						t.Errorf("%+v came after %+v", e, last)
					}
					last = e
					for range i {
						runtime.Gosched()
					}
				}
			})
		}
		for range callers {
			all.Go(func() {
				for range adds {
					if _, err := r.counter("a").Add(context.Background(), 1); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
	})
}

// TestSlowReaderGetsTheLast: whatever happens while it does not read, it costs
// one event, the last one.
func TestSlowReaderGetsTheLast(t *testing.T) { //nolint:paralleltest // it measures the heap
	for name, store := range map[string]actors.Store{"durable": newFaultStore(), "memory": newMemory()} {
		slowReader(t, name, store)
	}
}

func slowReader(t *testing.T, name string, store actors.Store) {
	t.Helper()
	r := newRig(t, store, func(c *actors.Config) { c.Kinds = []actors.Kind{grains.Map{}} })
	entry := handles.NewMapEntry(r, "a")
	reading, goOn := make(chan uint64), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := begin(func() (int64, error) {
		return 0, r.Watch(ctx, r.shardOf("a"), "map", "a", 0, func(e *handles.Event) error {
			reading <- e.Message().(*quernv1.MapServiceWatchResponse).GetEvent().GetVersion() //nolint:errcheck,forcetypeassert // entries are watched
			<-goOn
			return nil
		})
	})
	<-reading
	const changes, size = 2_000, 64 << 10
	value, before := make([]byte, size), heap()
	var version uint64
	for range changes {
		var err error
		if version, err = entry.Put(t.Context(), value, handles.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if grown := heap() - before; grown > changes*size/8 {
		t.Errorf("%s: the heap has grown by %d bytes", name, grown)
	}
	goOn <- struct{}{}
	if got := <-reading; got != version {
		t.Errorf("%s: the next event has version %d, the last one is %d", name, got, version)
	}
	cancel()
	close(goOn)
	<-ended
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestWatchersComeAndGo while the key changes and the shard begins anew.
func TestWatchersComeAndGo(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	stop := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = r.counter("a").Add(context.Background(), 1)
			}
			if i%100 == 0 {
				r.Crash(r.shardOf("a"))
			}
		}
	})
	var watchers sync.WaitGroup
	for range 16 {
		watchers.Go(func() {
			for round := range 100 {
				left := round % 4
				err := r.Watch(context.Background(), r.shardOf("a"), "counter", "a", 0, func(*handles.Event) error {
					if left--; left < 0 {
						return errBroken
					}
					return nil
				})
				if !errors.Is(err, errBroken) && !errors.Is(err, failure.NotOwner) {
					t.Error(err)
				}
			}
		})
	}
	watchers.Wait()
	close(stop)
	all.Wait()
	if n, topics := r.WatchersAt(r.shardOf("a")); n != 0 || topics != 0 {
		t.Errorf("%d watchers and %d topics are left", n, topics)
	}
}

// TestHeartbeats: one in each span without an event, and none between events.
func TestHeartbeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const idle = 10 * time.Second
		r := newRig(t, newMemory())
		o := r.observe(t, "a", idle)
		first := <-o.events
		began := time.Now()
		for n := range 3 {
			e := <-o.events
			if !e.beat || e.Place != first.Place || time.Since(began) != time.Duration(n+1)*idle {
				t.Fatalf("%+v after %v", e, time.Since(began))
			}
		}
		time.Sleep(idle / 2) //nolint:forbidigo // in a bubble
		if _, err := r.counter("a").Add(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		changed := <-o.events
		began = time.Now()
		if e := <-o.events; changed.beat || !e.beat || e.Place != changed.Place || time.Since(began) != idle {
			t.Errorf("%+v, %+v after %v", changed, e, time.Since(began))
		}
		o.cancel()
		o.ended(t)
		if err := r.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestManyWatchers: 10,000 of one key are all told, and the shard goes on
// meanwhile.
func TestManyWatchers(t *testing.T) {
	t.Parallel()
	watchers := 10_000
	if testing.Short() {
		watchers = 1_000
	}
	r := newRig(t, newMemory())
	const rounds = 20
	var begun, done sync.WaitGroup
	begun.Add(watchers)
	for range watchers {
		done.Go(func() {
			first := true
			err := r.Watch(context.Background(), r.shardOf("a"), "counter", "a", 0, func(e *handles.Event) error {
				if first {
					begun.Done()
				}
				if first = false; seenOf(e).value == rounds {
					return errBroken
				}
				return nil
			})
			if !errors.Is(err, errBroken) {
				t.Error(err)
			}
		})
	}
	begun.Wait()
	var took []time.Duration
	for range rounds {
		start := time.Now()
		if _, err := r.counter("a").Add(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	done.Wait()
	slices.Sort(took)
	t.Logf("%d watchers: an add took %v in the middle, %v at most", watchers, took[rounds/2], took[rounds-1])
}

// BenchmarkWatched adds to a key of a shard in which another key, that changes
// as often, has many watchers.
func BenchmarkWatched(b *testing.B) {
	for _, watchers := range []int{0, 1, 100, 10_000} {
		b.Run(strconv.Itoa(watchers), func(b *testing.B) {
			r := newRig(b, newMemory())
			ctx, cancel := context.WithCancel(context.Background())
			var begun, done sync.WaitGroup
			begun.Add(watchers)
			for range watchers {
				done.Go(func() {
					first := sync.OnceFunc(begun.Done)
					_ = r.Watch(ctx, r.shardOf("a"), "counter", "a", 0, func(*handles.Event) error {
						first()
						return nil
					})
				})
			}
			begun.Wait()
			var slowest time.Duration
			for b.Loop() {
				for _, key := range [...]string{"a", "{a}b"} {
					start := time.Now()
					if _, err := r.counter(key).Add(b.Context(), 1); err != nil {
						b.Fatal(err)
					}
					slowest = max(slowest, time.Since(start))
				}
			}
			b.ReportMetric(float64(slowest.Microseconds()), "slowest-us")
			cancel()
			done.Wait()
		})
	}
}
