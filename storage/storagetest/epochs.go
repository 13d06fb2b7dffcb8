package storagetest

import (
	"sync"
	"sync/atomic"

	"github.com/quern-io/quern/actors"
)

func testInfo(f *fixture) {
	info := f.store.Info()
	if info.Name != f.target.Name || info.Durable != f.target.Durable || info.Shards != Shards {
		f.Errorf("info is %+v", info)
	}
	if info.ClusterID == [16]byte{} {
		f.Error("the cluster id is empty")
	}
}

func testRaiseAbove(f *fixture) {
	f.raise(1, 5)
	for _, epoch := range []uint64{0, 4, 5} {
		r := f.tryRaise(actors.Raise{Shard: 1, Epoch: epoch, Incarnation: [16]byte{9}})
		if r.OK || r.Epoch != 5 {
			f.Errorf("raise from 5 to %d: %+v", epoch, r)
		}
	}
	// Without From there is no second chance, for the same process either.
	if r := f.tryRaise(actors.Raise{Shard: 1, Epoch: 5, Incarnation: self}); r.OK {
		f.Errorf("raise to 5 twice: %+v", r)
	}
	f.raise(1, 6)
	f.raise(1, 1<<63+1)
	if r := f.tryRaise(actors.Raise{Shard: 1, Epoch: 7, Incarnation: self}); r.OK || r.Epoch != 1<<63+1 {
		f.Errorf("raise from 1<<63+1 to 7: %+v", r)
	}
}

func testRaiseCompareAndSet(f *fixture) {
	other := [16]byte{9}
	f.raise(2, 5)
	steps := []struct {
		why   string
		raise actors.Raise
		ok    bool
		epoch uint64
	}{
		{"another from", actors.Raise{From: 4, Epoch: 6, Incarnation: self}, false, 5},
		{"from above", actors.Raise{From: 6, Epoch: 7, Incarnation: self}, false, 5},
		{"not upwards", actors.Raise{From: 5, Epoch: 5, Incarnation: other}, false, 5},
		{"downwards", actors.Raise{From: 5, Epoch: 4, Incarnation: self}, false, 5},
		{"from own", actors.Raise{From: 5, Epoch: 6, Incarnation: self}, true, 6},
		{"again", actors.Raise{From: 5, Epoch: 6, Incarnation: self}, true, 6},
		{"again by another", actors.Raise{From: 5, Epoch: 6, Incarnation: other}, false, 6},
		{"another takes over", actors.Raise{From: 6, Epoch: 9, Incarnation: other}, true, 9},
		{"too late", actors.Raise{From: 6, Epoch: 7, Incarnation: self}, false, 9},
		{"same epoch, not own", actors.Raise{From: 6, Epoch: 9, Incarnation: self}, false, 9},
	}
	for _, s := range steps {
		s.raise.Shard = 2
		if r := f.tryRaise(s.raise); r.OK != s.ok || r.Epoch != s.epoch {
			f.Errorf("%s: %+v gives %+v, want %v at %d", s.why, s.raise, r, s.ok, s.epoch)
		}
	}
}

func testRaiseMany(f *fixture) {
	f.raise(3, 7)
	requests := make([]actors.Raise, Shards)
	for i := range requests {
		// Not in the order of shards.
		requests[i] = actors.Raise{Shard: uint32(Shards - 1 - i), Epoch: 5, Incarnation: self}
	}
	raised, err := f.store.Raise(f.ctx, requests)
	if err != nil || len(raised) != Shards {
		f.Fatalf("raise: %+v, %v", raised, err)
	}
	for i, r := range raised {
		want := actors.Raised{OK: true, Epoch: 5}
		if requests[i].Shard == 3 {
			want = actors.Raised{Epoch: 7}
		}
		if r != want {
			f.Errorf("shard %d: %+v, want %+v", requests[i].Shard, r, want)
		}
	}
	if raised, err := f.store.Raise(f.ctx, nil); err != nil || len(raised) != 0 {
		f.Errorf("raise of nothing: %+v, %v", raised, err)
	}
}

func testRaiseUnknownShard(f *fixture) {
	_, err := f.store.Raise(f.ctx, []actors.Raise{{Shard: 0, Epoch: 3}, {Shard: Shards, Epoch: 3}})
	if err == nil {
		f.Error("a shard out of range was raised")
	}
	if err := f.store.Read(f.ctx, Shards, [][]byte{[]byte("k")}, func(int, []byte) {}); err == nil {
		f.Error("a shard out of range was read")
	}
	if err := f.store.Scan(f.ctx, Shards, nil, nil, func(_, _ []byte) bool { return true }); err == nil {
		f.Error("a shard out of range was scanned")
	}
	f.raise(0, 4)
	f.wantVerdicts(f.store.Commit(f.ctx, []actors.Batch{
		{Shard: 0, Epoch: 4, Records: []actors.Record{set("k", "v")}},
		{Shard: Shards, Epoch: 4, Records: []actors.Record{set("k", "v")}},
	}), actors.Done, actors.Refused)
}

func testTime(f *fixture) {
	f.raise(1, 1)
	if v := f.tryCommit(actors.Batch{Shard: 1, Epoch: 1, Time: 1234, Records: []actors.Record{set("k", "v")}}); v.Err != nil {
		f.Fatal(v.Err)
	}
	if r := f.tryRaise(actors.Raise{Shard: 1, Epoch: 2, Incarnation: self}); !r.OK || r.Time != 1234 {
		f.Errorf("after a commit at 1234: %+v", r)
	}
	if v := f.tryCommit(actors.Batch{Shard: 1, Epoch: 1, Time: 9999, Records: []actors.Record{set("k", "v")}}); v.Status != actors.Fenced {
		f.Errorf("old epoch: %+v", v)
	}
	if r := f.tryRaise(actors.Raise{Shard: 1, Epoch: 2, Incarnation: self}); r.OK || r.Time != 1234 {
		f.Errorf("after a fenced commit at 9999: %+v", r)
	}
	if r := f.tryRaise(actors.Raise{Shard: 2, Epoch: 1, Incarnation: self}); r.Time != 0 {
		f.Errorf("a shard without a commit: %+v", r)
	}
}

// testConcurrentRaise lets many raise the same shard: each epoch has one winner.
func testConcurrentRaise(f *fixture) {
	const callers, epochs = 8, 20
	var wins [epochs + 1]atomic.Int32
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for epoch := uint64(1); epoch <= epochs; epoch++ {
				raised, err := f.store.Raise(f.ctx, []actors.Raise{{Shard: 4, Epoch: epoch, Incarnation: [16]byte{byte(caller + 1)}}})
				if err != nil {
					f.Errorf("raise: %v", err)
					return
				}
				if raised[0].OK {
					wins[epoch].Add(1)
				} else if raised[0].Epoch < epoch {
					f.Errorf("raise to %d refused at %d", epoch, raised[0].Epoch)
				}
			}
		})
	}
	wg.Wait()
	for epoch := 1; epoch <= epochs; epoch++ {
		if n := wins[epoch].Load(); n > 1 {
			f.Errorf("epoch %d was won %d times", epoch, n)
		}
	}
	if wins[epochs].Load() != 1 {
		f.Errorf("the last epoch was won %d times", wins[epochs].Load())
	}
}
