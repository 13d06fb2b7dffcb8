package embedded_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/storage/embedded"
)

var errDisk = errors.New("input/output error")

// rig is a store on a disk that a test can break.
type rig struct {
	*testing.T
	disk  *vfs.MemFS
	fs    *faultFS
	store *embedded.Store
}

// faultFS breaks as its rule says and reports the free space that usage says.
type faultFS struct {
	*tapFS
	rule  atomic.Pointer[func(op, path string) error]
	usage atomic.Pointer[vfs.DiskUsage]
}

func (f *faultFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	if u := f.usage.Load(); u != nil {
		return *u, nil
	}
	return vfs.DiskUsage{}, vfs.ErrUnsupported
}

func (f *faultFS) set(rule func(op, path string) error) {
	if rule == nil {
		f.rule.Store(nil)
		return
	}
	f.rule.Store(&rule)
}

func newFaultFS(disk vfs.FS) *faultFS {
	f := &faultFS{}
	f.tapFS = tap(disk, func(op, path string) error {
		if rule := f.rule.Load(); rule != nil {
			return (*rule)(op, path)
		}
		return nil
	})
	return f
}

// newRig opens a store and raises shard 1 to epoch 1.
func newRig(t *testing.T, o embedded.Options) *rig {
	t.Helper()
	r := &rig{T: t, disk: vfs.NewCrashableMem()}
	r.fs = newFaultFS(r.disk)
	o.FS, o.Dir, o.Shards, o.CacheBytes = r.fs, "/data", crashShards, 1<<20
	o.RetryMin, o.RetryMax = time.Millisecond, 5*time.Millisecond
	s, err := embedded.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	r.store = s
	t.Cleanup(func() {
		r.fs.set(nil)
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	r.raise(1)
	return r
}

func (r *rig) raise(epoch uint64) {
	r.Helper()
	raised, err := r.store.Raise(r.Context(), []actors.Raise{{Shard: 1, Epoch: epoch}})
	if err != nil || !raised[0].OK {
		r.Fatalf("raise: %+v, %v", raised, err)
	}
}

func (r *rig) commit(key, value string) actors.Verdict {
	r.Helper()
	return r.store.Commit(r.Context(), []actors.Batch{{Shard: 1, Epoch: 1, Records: []actors.Record{
		{Key: []byte(key), Value: []byte(value)}, {Key: []byte(key + "+"), Value: []byte(value)},
	}}})[0]
}

// must commits, however often it is refused.
func (r *rig) must(key, value string) {
	r.Helper()
	v := r.commit(key, value)
	for v.Status == actors.Refused {
		runtime.Gosched()
		v = r.commit(key, value)
	}
	if v.Status != actors.Done {
		r.Fatalf("commit: %+v", v)
	}
}

// get returns the value of key and of its twin, which must be the same.
func (r *rig) get(s *embedded.Store, key string) string {
	r.Helper()
	var got [2]string
	err := s.Read(r.Context(), 1, [][]byte{[]byte(key), []byte(key + "+")}, func(i int, value []byte) { got[i] = string(value) })
	if err != nil || got[0] != got[1] {
		r.Fatalf("read %q: %q, %v", key, got, err)
	}
	return got[0]
}

func (r *rig) wantValue(key string, want ...string) {
	r.Helper()
	got := r.get(r.store, key)
	if slices.Contains(want, got) {
		return
	}
	r.Errorf("%q holds %q, want one of %q", key, got, want)
}

// once returns a rule that fails the first operation that it is asked about.
func once(op string, where func(string) bool, err error) func(string, string) error {
	var done atomic.Bool
	return func(o, path string) error {
		if o == op && where(path) && done.CompareAndSwap(false, true) {
			return err
		}
		return nil
	}
}

func (r *rig) afterPowerCut(hooks embedded.Hooks) *embedded.Store {
	r.Helper()
	o := embedded.Options{Dir: "/data", FS: r.disk.CrashClone(vfs.CrashCloneCfg{}), CacheBytes: 1 << 20}
	s, err := embedded.Open(r.Context(), o.WithHooks(hooks))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

func TestFailedAppend(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		op  string
		err error
	}{
		"sync": {"sync", errDisk}, "sync that lost pages": {"sync", errLost},
		"write": {"write", errDisk}, "short write": {"write", errShort}, "full": {"write", syscall.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, embedded.Options{})
			r.must("a", "1")
			r.fs.set(once(fault.op, inJournal, fault.err))
			if v := r.commit("a", "2"); v.Status != actors.Unclear || !errors.Is(v.Err, embedded.ErrBroken) {
				t.Errorf("commit: %+v", v)
			}
			// This waits for the recovery.
			r.wantValue("a", "1", "2")
			after := r.get(r.store, "a")
			r.raise(2)
			if v := r.commit("a", "3"); v.Status != actors.Fenced {
				t.Errorf("commit of the old epoch: %+v", v)
			}
			r.fs.set(nil)
			if got := r.get(r.afterPowerCut(embedded.Hooks{}), "a"); got != after {
				t.Errorf("%q after the power cut, %q before", got, after)
			}
		})
	}
}

// lostPages acknowledges, loses an append's pages in a failed sync, acknowledges
// again, cuts the power and returns what is left of the second.
func lostPages(t *testing.T, hooks embedded.Hooks) string {
	t.Helper()
	r := newRig(t, embedded.Options{}.WithHooks(hooks))
	r.must("a", "1")
	r.fs.set(once("sync", inJournal, errLost))
	if v := r.commit("b", "1"); v.Status != actors.Unclear {
		t.Errorf("commit: %+v", v)
	}
	r.must("c", "1")
	s := r.afterPowerCut(hooks)
	if got := r.get(s, "a"); got != "1" {
		t.Errorf("a is %q", got)
	}
	return r.get(s, "c")
}

func TestLostPages(t *testing.T) {
	t.Parallel()
	if got := lostPages(t, embedded.Hooks{}); got != "1" {
		t.Errorf("acknowledged after a failed sync, lost with the power: %q", got)
	}
	if got := lostPages(t, embedded.Hooks{KeepOldTail: true}); got == "1" {
		t.Error("going on with the old file was not noticed")
	}
}

// TestHangingSync holds a sync: readers see the old and only the old.
func TestHangingSync(t *testing.T) {
	t.Parallel()
	seen := func(hooks embedded.Hooks) string {
		r := newRig(t, embedded.Options{}.WithHooks(hooks))
		r.must("a", "old")
		entered, leave := make(chan struct{}), make(chan struct{})
		r.fs.set(func(op, path string) error {
			if op == "sync" && inJournal(path) {
				close(entered)
				<-leave
				r.fs.set(nil)
			}
			return nil
		})
		var done sync.WaitGroup
		done.Go(func() { r.must("a", "new") })
		<-entered
		got := r.get(r.store, "a")
		n := 0
		if err := r.store.Scan(r.Context(), 0, nil, nil, func(_, _ []byte) bool { n++; return true }); err != nil || n != 0 {
			t.Errorf("scan beside a hanging sync: %d, %v", n, err)
		}
		ctx, cancel := context.WithCancel(r.Context())
		cancel()
		if _, err := r.store.Raise(ctx, []actors.Raise{{Shard: 2, Epoch: 1}}); !errors.Is(err, context.Canceled) {
			t.Errorf("raise beside a hanging sync: %v", err)
		}
		close(leave)
		done.Wait()
		r.wantValue("a", "new")
		return got
	}
	if got := seen(embedded.Hooks{}); got != "old" {
		t.Errorf("read %q beside a hanging sync", got)
	}
	if got := seen(embedded.Hooks{ShowBeforeSync: true}); got != "new" {
		t.Error("records shown before the sync were not noticed")
	}
}

func TestCloseDuringHangingSync(t *testing.T) {
	t.Parallel()
	r := newRig(t, embedded.Options{})
	entered, leave := make(chan struct{}), make(chan struct{})
	r.fs.set(func(op, path string) error {
		if op == "sync" && inJournal(path) {
			close(entered)
			<-leave
			r.fs.set(nil)
		}
		return nil
	})
	var done sync.WaitGroup
	done.Go(func() { r.commit("a", "1") })
	<-entered
	ctx, cancel := context.WithCancel(r.Context())
	cancel()
	if err := r.store.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v", err)
	}
	close(leave)
	done.Wait()
}

// TestFullDisk: below the reserve, commits are refused before the journal is
// touched, reads and raises go on, and commits come back by themselves.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	r := newRig(t, embedded.Options{MinFreeBytes: 1000})
	r.must("a", "1")
	r.fs.usage.Store(&vfs.DiskUsage{AvailBytes: 900})
	var touched atomic.Int64
	r.fs.set(func(_, path string) error {
		if inJournal(path) {
			touched.Add(1)
		}
		return nil
	})
	// The last reading of the free space may be 50 ms old.
	for v := r.commit("b", "0"); v.Status == actors.Done; v = r.commit("b", "0") {
		touched.Store(0)
	}
	touched.Store(0)
	v := r.commit("a", "2")
	if v.Status != actors.Refused || !errors.Is(v.Err, embedded.ErrDiskFull) {
		t.Errorf("commit on a full disk: %+v", v)
	}
	if touched.Load() != 0 {
		t.Errorf("the journal was touched %d times", touched.Load())
	}
	r.wantValue("a", "1")
	r.fs.usage.Store(&vfs.DiskUsage{AvailBytes: 1 << 30})
	for v = r.commit("a", "3"); errors.Is(v.Err, embedded.ErrDiskFull); v = r.commit("a", "3") { //nolint:revive // each look is a commit
	}
	if v.Status != actors.Done {
		t.Errorf("commit when there is room again: %+v", v)
	}
	r.wantValue("a", "3")
}

// TestNoSpaceToGrow: the file system has no room for the journal to grow.
func TestNoSpaceToGrow(t *testing.T) {
	t.Parallel()
	r := newRig(t, embedded.Options{GrowBytes: 256, MinFreeBytes: -1})
	r.must("a", "1")
	full := errors.New("unset")
	r.fs.set(func(op, path string) error {
		// Everything that needs new blocks fails: growth comes ahead of the
		// frames, so that no frame does.
		if op == "write" && inJournal(path) {
			return full
		}
		return nil
	})
	full = syscall.ENOSPC
	// Frames still fit into what was filled ahead, but this rule cannot tell
	// them from growth: a large one grows first.
	v := r.commit("b", strings.Repeat("x", 1000))
	if v.Status != actors.Refused || !errors.Is(v.Err, embedded.ErrDiskFull) {
		t.Errorf("commit: %+v", v)
	}
	r.wantValue("a", "1")
	r.wantValue("b", "")
	r.fs.set(nil)
	r.must("b", "2")
	if got := r.get(r.afterPowerCut(embedded.Hooks{}), "b"); got != "2" {
		t.Errorf("after the power cut: %q", got)
	}
}

// TestFailingStates breaks pebble's files while checkpoints run. Nothing that was
// acknowledged is lost, and the process lives.
func TestFailingStates(t *testing.T) {
	t.Parallel()
	manifest := func(path string) bool { return strings.Contains(path, "MANIFEST") }
	table := func(path string) bool { return strings.HasSuffix(path, ".sst") }
	marker := func(path string) bool { return strings.Contains(path, "marker") }
	folder := func(path string) bool { return strings.HasSuffix(path, "/states") }
	for name, fault := range map[string]struct {
		op    string
		where func(string) bool
	}{
		"MANIFEST sync": {"sync", manifest}, "MANIFEST write": {"write", manifest}, "MANIFEST create": {"create", manifest},
		"marker create": {"create", marker}, "folder sync": {"sync", folder},
		"table sync": {"sync", table}, "table write": {"write", table}, "table create": {"create", table},
		"journal name": {"rename", inJournal}, "journal create": {"create", inJournal},
		"journal folder sync": {"sync", func(path string) bool { return strings.HasSuffix(path, "/journal") }},
		"journal delete":      {"remove", inJournal},
	} {
		for _, err := range []error{errDisk, syscall.ENOSPC, errLost} {
			if errors.Is(err, errLost) && fault.op != "sync" {
				continue
			}
			t.Run(fmt.Sprintf("%s/%v", name, err), func(t *testing.T) {
				t.Parallel()
				failingStates(t, fault.op, fault.where, err)
			})
		}
	}
}

func failingStates(t *testing.T, op string, where func(string) bool, err error) {
	t.Helper()
	r := newRig(t, embedded.Options{TailBytes: 1000, GrowBytes: 500})
	var hits atomic.Int64
	// A recovery on the way, for what only an opening touches.
	var commits atomic.Int64
	breakOnce := once("sync", func(path string) bool { return inJournal(path) && strings.HasSuffix(path, ".log") }, errDisk)
	r.fs.set(func(o, path string) error {
		if commits.Load() > 100 {
			if err := breakOnce(o, path); err != nil {
				return err
			}
		}
		// Three faults, with operations that succeed in between.
		if o == op && where(path) && hits.Add(1)%2 == 1 && hits.Load() < 6 {
			return err
		}
		return nil
	})
	want := map[string]string{}
	for i := 0; i < 3000 && (hits.Load() < 5 || i < 300); i++ {
		key, value := fmt.Sprint(i%50), fmt.Sprint(i)
		commits.Add(1)
		switch v := r.commit(key, value); v.Status {
		case actors.Done:
			want[key] = value
		case actors.Unclear:
			want[key] = r.get(r.store, key)
		case actors.Refused:
		case actors.Fenced:
			t.Fatal(v.Err)
		}
	}
	if hits.Load() == 0 {
		t.Error("the fault never happened")
	}
	r.fs.set(nil)
	r.must("last", "1")
	s := r.afterPowerCut(embedded.Hooks{})
	for key, value := range want {
		if got := r.get(r.store, key); got != value {
			t.Errorf("%q is %q, want %q", key, got, value)
		}
		if got := r.get(s, key); got != value {
			t.Errorf("%q is %q after the power cut, want %q", key, got, value)
		}
	}
}

// TestFaultStorm fails operations at random, beside random work, and cuts the
// power at the end.
func TestFaultStorm(t *testing.T) {
	t.Parallel()
	seeds := 40
	if raceEnabled {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			faultStorm(t, uint64(seed))
		})
	}
}

func faultStorm(t *testing.T, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 3))
	disk := vfs.NewCrashableMem()
	fs := newFaultFS(disk)
	o := crashOptions
	o.FS, o.RetryMin, o.RetryMax = fs, time.Millisecond, 4*time.Millisecond
	s, err := embedded.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	faults := rand.New(rand.NewPCG(seed, 4))
	fs.set(func(_, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if faults.IntN(60) != 0 {
			return nil
		}
		return []error{errDisk, syscall.ENOSPC, errLost, errShort}[faults.IntN(4)]
	})
	d := &driver{history: newHistory(), rng: rng, store: s, fat: 700}
	for range 150 {
		if err := d.step(t.Context()); err != nil {
			t.Fatalf("step: %v", err)
		}
		if err := d.settle(t.Context()); err != nil && !errors.Is(err, embedded.ErrBroken) {
			t.Fatalf("settle: %v", err)
		}
	}
	fs.set(nil)
	if err := d.settle(t.Context()); err != nil {
		t.Fatalf("settle: %v", err)
	}
	if err := verify(t.Context(), disk.CrashClone(vfs.CrashCloneCfg{}), d.history, embedded.Hooks{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
