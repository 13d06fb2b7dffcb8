package actors_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/storage/embedded"
)

// TestWatchersSeeNothingUndone: commits are refused, fail half way, land or do
// not, at random. Each value is written once in all; whoever watches sees only
// what a commit has written by then, and in the end the last one.
func TestWatchersSeeNothingUndone(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			if problem := watchFaults(t, seed, false); problem != nil {
				t.Error(problem)
			}
		})
	}
}

// TestEventsThatPassTheGateAreNoticed holds the tests that look for undone
// events against a runtime that sends them.
func TestEventsThatPassTheGateAreNoticed(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(seed uint64) error{
		"faults":     func(seed uint64) error { return watchFaults(t, seed, true) },
		"power cuts": func(seed uint64) error { return watchPowerCut(t, seed, true) },
	} {
		noticed := false
		for seed := uint64(0); seed < 20 && !noticed; seed++ {
			noticed = run(seed) != nil
		}
		if !noticed {
			t.Errorf("%s: events of undone changes were not noticed", name)
		}
	}
}

// ledger is a store that notes the value of the counter "a" when a commit has
// written it.
type ledger struct {
	*faultStore

	mu      sync.Mutex
	written map[int64]bool // guarded by mu
	last    int64          // guarded by mu
}

func (l *ledger) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	verdicts := l.faultStore.Commit(ctx, batches)
	for i, b := range batches {
		landed := verdicts[i].Status == actors.Done || verdicts[i].Status == actors.Unclear && l.land(b, actors.Unclear)
		for _, r := range b.Records {
			if !landed || string(r.Key) != string(actors.StateKey("counter", "a")) {
				continue
			}
			state := grains.Counter{}.New()
			if err := state.Decode(r.Value); err != nil {
				return verdicts // none of the test's values was written
			}
			var reply quernv1.CounterServiceGetResponse
			if _, err := state.Apply(actors.TurnAt("a", 0), &quernv1.CounterServiceGetRequest{}, &reply); err != nil {
				return verdicts // none of the test's values was written
			}
			l.mu.Lock()
			l.written[reply.GetValue()], l.last = true, reply.GetValue()
			l.mu.Unlock()
		}
	}
	return verdicts
}

// watchFaults returns the first broken promise.
func watchFaults(t *testing.T, seed uint64, broken bool) error {
	t.Helper()
	const writers, writes, watchers = 4, 60, 4
	chance := func(b actors.Batch, salt uint64) uint64 { // the same for a batch whenever it is asked
		sum := seed ^ salt
		for _, r := range b.Records {
			for _, c := range r.Value {
				sum = sum*1099511628211 ^ uint64(c)
			}
		}
		return rand.New(rand.NewPCG(sum, b.Epoch)).Uint64() % 100
	}
	store := &ledger{faultStore: newFaultStore(), written: map[int64]bool{0: true}}
	calm := atomic.Bool{}
	store.set(func(f *faultStore) {
		f.verdict = func(b actors.Batch) actors.Status {
			switch n := chance(b, 1); {
			case calm.Load() || n < 60:
				return actors.Done
			case n < 85:
				return actors.Refused
			default:
				return actors.Unclear
			}
		}
		f.land = func(b actors.Batch, status actors.Status) bool { return status == actors.Unclear && chance(b, 2) < 50 }
	})
	r := newRig(t, store)
	if broken {
		r.BreakWatches()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	problems := make(chan error, 1)
	report := func(format string, args ...any) {
		select {
		case problems <- fmt.Errorf(format, args...):
		default:
		}
	}
	final := atomic.Int64{}
	var watching, writing sync.WaitGroup
	for range watchers {
		watching.Go(func() { r.watchLedger(ctx, store, &final, report) })
	}
	value := atomic.Int64{}
	for range writers {
		writing.Go(func() {
			for range writes {
				_, _ = r.counter("a").Set(ctx, value.Add(1))
			}
		})
	}
	writing.Wait()
	calm.Store(true)
	last := value.Add(1)
	final.Store(last)
	for {
		if _, err := r.counter("a").Set(t.Context(), last); err == nil {
			break
		}
	}
	watching.Wait()
	select {
	case err := <-problems:
		return err
	default:
		return nil
	}
}

// watchLedger watches until it has seen the final value.
func (r *rig) watchLedger(ctx context.Context, store *ledger, final *atomic.Int64, report func(string, ...any)) {
	var last seen
	for {
		err := r.Watch(ctx, r.shardOf("a"), "counter", "a", 0, func(e *handles.Event) error {
			now := seenOf(e)
			store.mu.Lock()
			written := store.written[now.value]
			store.mu.Unlock()
			if !written {
				report("%d was told before a commit had written it", now.value)
			}
			if now.Epoch < last.Epoch || now.Epoch == last.Epoch && now.Sequence <= last.Sequence {
				report("%+v came after %+v", now, last)
			}
			if last = now; now.value == final.Load() && now.value != 0 {
				return errBroken
			}
			return nil
		})
		switch {
		case errors.Is(err, errBroken):
			return
		case !errors.Is(err, failure.NotOwner) && !errors.Is(err, failure.Overloaded):
			report("the watch ended with %w", err)
			return
		}
	}
}

// TestWatchPowerCuts: what a watcher was told before the power was cut is there
// afterwards. The counters only rise.
func TestWatchPowerCuts(t *testing.T) {
	t.Parallel()
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			if problem := watchPowerCut(t, seed, false); problem != nil {
				t.Error(problem)
			}
		})
	}
}

// openDisk starts a runtime on a disk in memory, and returns what stops it.
func openDisk(t *testing.T, disk vfs.FS) (*rig, func()) {
	t.Helper()
	store, err := embedded.Open(t.Context(), embedded.Options{
		Dir: "data", Shards: 4, FS: disk, MinFreeBytes: -1, TailBytes: 2 << 10, GrowBytes: 512,
	})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, store)
	return r, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(r.Stop(ctx), store.Close(ctx)); err != nil {
			t.Error(err)
		}
	}
}

// watchPowerCut returns the first broken promise.
func watchPowerCut(t *testing.T, seed uint64, broken bool) error {
	t.Helper()
	const keys = 4
	random := rand.New(rand.NewPCG(seed, 3))
	disk := vfs.NewCrashableMem()
	r, stop := openDisk(t, disk)
	if broken {
		r.BreakWatches()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var told [keys]atomic.Int64
	var all sync.WaitGroup
	for i := range keys {
		key := strconv.Itoa(i)
		all.Go(func() {
			_ = r.Watch(ctx, r.shardOf(key), "counter", key, 0, func(e *handles.Event) error {
				told[i].Store(seenOf(e).value)
				return nil
			})
		})
		for range 2 {
			all.Go(func() {
				for ctx.Err() == nil {
					_, _ = r.counter(key).Add(ctx, 1)
				}
			})
		}
	}
	for enough := int64(5 + random.IntN(100)); told[0].Load() < enough; {
		runtime.Gosched()
	}
	var before [keys]int64
	for i := range before {
		before[i] = told[i].Load()
	}
	after := disk.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: random.IntN(101), RNG: rand.New(rand.NewPCG(seed, 4)),
	})
	cancel()
	all.Wait()
	stop()
	r, stop = openDisk(t, after)
	defer stop()
	for i, value := range before {
		got, err := r.counter(strconv.Itoa(i)).Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got < value {
			return fmt.Errorf("a watcher was told %d, and after the power cut there was %d", value, got)
		}
	}
	return nil
}
