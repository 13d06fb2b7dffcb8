package storagetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/quern-io/quern/actors"
)

// Shards is the number of shards of the stores that the suite opens.
const Shards = 8

// Target is a store under test.
type Target struct {
	// Name and Durable are what Info must say.
	Name    string
	Durable bool
	// New prepares an empty place with Shards shards and returns a function
	// that opens a store there. The suite calls it again only after it closed
	// the store before, and only if Durable. Failures go to t.
	New func(t testing.TB) (open func(t testing.TB) actors.Store)
	// Seed starts the random tests; zero takes a random one. It is printed.
	Seed uint64
	// Steps is the length of the random test. Default 3000.
	Steps int
}

// Run runs the suite as parallel subtests.
func Run(t *testing.T, target Target) {
	t.Helper()
	tests := []struct {
		name string
		run  func(*fixture)
	}{
		{"Info", testInfo},
		{"RaiseAbove", testRaiseAbove},
		{"RaiseCompareAndSet", testRaiseCompareAndSet},
		{"RaiseMany", testRaiseMany},
		{"RaiseUnknownShard", testRaiseUnknownShard},
		{"CommitAndRead", testCommitAndRead},
		{"CommitOrder", testCommitOrder},
		{"CommitKeepsNoReference", testCommitKeepsNoReference},
		{"CommitOpaqueBytes", testCommitOpaqueBytes},
		{"CommitFenced", testCommitFenced},
		{"CommitVerdictsAreIndependent", testVerdictsAreIndependent},
		{"CommitEmpty", testCommitEmpty},
		{"CommitLarge", testCommitLarge},
		{"Time", testTime},
		{"ReadMissing", testReadMissing},
		{"ScanOrderAndBounds", testScanOrderAndBounds},
		{"ScanStops", testScanStops},
		{"ScanDuringCommit", testScanDuringCommit},
		{"ShardsAreApart", testShardsAreApart},
		{"Context", testContext},
		{"Concurrent", testConcurrent},
		{"ConcurrentRaise", testConcurrentRaise},
		{"Close", testClose},
		{"Reopen", testReopen},
		{"Random", testRandom},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(newFixture(t, target))
		})
	}
}

// fixture is one open store with helpers that fail the test.
type fixture struct {
	testing.TB
	target Target
	ctx    context.Context //nolint:containedctx // the test's own, for its length
	open   func(t testing.TB) actors.Store
	store  actors.Store
}

func newFixture(t *testing.T, target Target) *fixture {
	t.Helper()
	f := &fixture{TB: t, target: target, ctx: t.Context(), open: target.New(t)}
	f.store = f.open(t)
	t.Cleanup(func() { f.close() })
	return f
}

func (f *fixture) close() {
	f.Helper()
	// The test's own context has ended when its cleanups run.
	if err := f.store.Close(context.WithoutCancel(f.ctx)); err != nil {
		f.Errorf("close: %v", err)
	}
}

// reopen closes the store and opens it again.
func (f *fixture) reopen() {
	f.Helper()
	f.close()
	f.store = f.open(f)
}

var self = [16]byte{1, 2, 3}

// raise raises a shard's epoch and fails where that is refused.
func (f *fixture) raise(shard uint32, epoch uint64) {
	f.Helper()
	if r := f.tryRaise(actors.Raise{Shard: shard, Epoch: epoch, Incarnation: self}); !r.OK || r.Epoch != epoch {
		f.Fatalf("raise shard %d to %d: %+v", shard, epoch, r)
	}
}

func (f *fixture) tryRaise(r actors.Raise) actors.Raised {
	f.Helper()
	raised, err := f.store.Raise(f.ctx, []actors.Raise{r})
	if err != nil || len(raised) != 1 {
		f.Fatalf("raise %+v: %+v, %v", r, raised, err)
	}
	return raised[0]
}

// commit commits records to one shard and fails where that is not Done.
func (f *fixture) commit(shard uint32, epoch uint64, records ...actors.Record) {
	f.Helper()
	if v := f.tryCommit(actors.Batch{Shard: shard, Epoch: epoch, Records: records}); v.Status != actors.Done || v.Err != nil {
		f.Fatalf("commit: %+v", v)
	}
}

func (f *fixture) tryCommit(b actors.Batch) actors.Verdict {
	f.Helper()
	verdicts := f.store.Commit(f.ctx, []actors.Batch{b})
	if len(verdicts) != 1 {
		f.Fatalf("%d verdicts for one batch", len(verdicts))
	}
	return verdicts[0]
}

func (f *fixture) wantVerdicts(got []actors.Verdict, want ...actors.Status) {
	f.Helper()
	if len(got) != len(want) {
		f.Fatalf("%d verdicts, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i].Status != want[i] || (got[i].Err == nil) != (want[i] == actors.Done) {
			f.Errorf("verdict %d is %+v, want status %d", i, got[i], want[i])
		}
	}
}

// read returns what Read finds for keys.
func (f *fixture) read(shard uint32, keys ...string) map[string]string {
	f.Helper()
	asked := make([][]byte, len(keys))
	for i, key := range keys {
		asked[i] = []byte(key)
	}
	found := make(map[string]string)
	err := f.store.Read(f.ctx, shard, asked, func(i int, value []byte) {
		if _, twice := found[keys[i]]; twice {
			f.Errorf("key %q was found twice", keys[i])
		}
		found[keys[i]] = string(value)
	})
	if err != nil {
		f.Fatalf("read: %v", err)
	}
	return found
}

// scan returns the records of a range and checks their order and bounds.
func (f *fixture) scan(shard uint32, from, to string) map[string]string {
	f.Helper()
	found := make(map[string]string)
	var last []byte
	err := f.store.Scan(f.ctx, shard, []byte(from), []byte(to), func(key, value []byte) bool {
		if len(found) > 0 && bytes.Compare(last, key) >= 0 {
			f.Errorf("scan yields %q after %q", key, last)
		}
		if string(key) < from || to != "" && string(key) >= to {
			f.Errorf("scan of [%q, %q) yields %q", from, to, key)
		}
		last = bytes.Clone(key)
		found[string(key)] = string(value)
		return true
	})
	if err != nil {
		f.Fatalf("scan: %v", err)
	}
	return found
}

func (f *fixture) want(what string, got, want map[string]string) {
	f.Helper()
	if maps.Equal(got, want) {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if value, ok := got[key]; !ok || value != want[key] {
			f.Errorf("%s: key %q is %q (found %v), want %q", what, key, value, ok, want[key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			f.Errorf("%s: key %q is there with %q, want none", what, key, got[key])
		}
	}
	f.FailNow()
}

func set(key, value string) actors.Record {
	return actors.Record{Key: []byte(key), Value: []byte(value)}
}

func del(key string) actors.Record {
	return actors.Record{Key: []byte(key), Delete: true, Value: []byte("ignored")}
}

func name(i int) string { return fmt.Sprintf("key:%04d", i) }
