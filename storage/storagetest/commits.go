package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/quern-io/quern/actors"
)

func testCommitAndRead(f *fixture) {
	f.raise(1, 1)
	f.commit(1, 1, set("a", "1"), set("b", "2"), set("empty", ""))
	f.want("read", f.read(1, "a", "b", "c", "empty"), map[string]string{"a": "1", "b": "2", "empty": ""})
	f.commit(1, 1, set("a", "3"), del("b"), del("never"))
	f.want("read", f.read(1, "b", "a", "empty"), map[string]string{"a": "3", "empty": ""})
	f.commit(1, 1, set("b", "back"))
	f.want("scan", f.scan(1, "", ""), map[string]string{"a": "3", "b": "back", "empty": ""})
}

func testCommitOrder(f *fixture) {
	f.raise(1, 1)
	f.commit(1, 1, set("k", "1"), set("k", "2"), set("gone", "1"), del("gone"), del("back"), set("back", "2"))
	f.want("scan", f.scan(1, "", ""), map[string]string{"k": "2", "back": "2"})
}

func testCommitKeepsNoReference(f *fixture) {
	f.raise(1, 1)
	key, value := []byte("key"), []byte("value")
	records := []actors.Record{{Key: key, Value: value}}
	f.commit(1, 1, records...)
	copy(key, "xxx")
	copy(value, "yyyyy")
	records[0] = set("other", "other")
	f.want("scan", f.scan(1, "", ""), map[string]string{"key": "value"})
}

func testCommitOpaqueBytes(f *fixture) {
	f.raise(1, 1)
	want := map[string]string{}
	var records []actors.Record
	for _, key := range []string{"\x00", "a\x00", "a\x00b", "a", "\xff", "\xff\xff", "\xfe\xff", "日本", "\x80", strings.Repeat("k", 512)} {
		want[key] = "\x00" + key + "\xff"
		records = append(records, set(key, want[key]))
	}
	f.commit(1, 1, records...)
	f.want("scan", f.scan(1, "", ""), want)
	keys := make([]string, 0, len(want))
	for key := range want {
		keys = append(keys, key)
	}
	f.want("read", f.read(1, keys...), want)
}

func testCommitFenced(f *fixture) {
	// A shard that nobody raised takes nothing.
	for _, epoch := range []uint64{0, 1} {
		if v := f.tryCommit(actors.Batch{Shard: 5, Epoch: epoch, Records: []actors.Record{set("k", "0")}}); v.Status != actors.Fenced || v.Err == nil {
			f.Errorf("epoch %d on a fresh shard: %+v", epoch, v)
		}
	}
	f.raise(5, 10)
	f.commit(5, 10, set("k", "1"))
	for _, epoch := range []uint64{0, 9, 11} {
		if v := f.tryCommit(actors.Batch{Shard: 5, Epoch: epoch, Records: []actors.Record{set("k", "2"), set("l", "2")}}); v.Status != actors.Fenced || v.Err == nil {
			f.Errorf("epoch %d on a shard with 10: %+v", epoch, v)
		}
	}
	f.raise(5, 12)
	if v := f.tryCommit(actors.Batch{Shard: 5, Epoch: 10, Records: []actors.Record{set("k", "3")}}); v.Status != actors.Fenced {
		f.Errorf("the epoch before the last: %+v", v)
	}
	f.want("scan", f.scan(5, "", ""), map[string]string{"k": "1"})
	f.commit(5, 12, set("k", "4"))
	f.want("scan", f.scan(5, "", ""), map[string]string{"k": "4"})
}

func testVerdictsAreIndependent(f *fixture) {
	for shard := range uint32(Shards) {
		f.raise(shard, 3)
	}
	var batches []actors.Batch
	var want []actors.Status
	for shard := uint32(Shards); shard > 0; shard-- {
		b := actors.Batch{Shard: shard - 1, Epoch: 3, Records: []actors.Record{set("k", fmt.Sprint(shard-1))}}
		status := actors.Done
		if b.Shard%2 == 1 {
			b.Epoch, status = 2, actors.Fenced
		}
		batches, want = append(batches, b), append(want, status)
	}
	f.wantVerdicts(f.store.Commit(f.ctx, batches), want...)
	for shard := range uint32(Shards) {
		records := map[string]string{}
		if shard%2 == 0 {
			records["k"] = fmt.Sprint(shard)
		}
		f.want(fmt.Sprintf("shard %d", shard), f.scan(shard, "", ""), records)
	}
}

func testCommitEmpty(f *fixture) {
	if v := f.store.Commit(f.ctx, nil); len(v) != 0 {
		f.Errorf("verdicts for no batch: %+v", v)
	}
	f.raise(1, 1)
	if v := f.tryCommit(actors.Batch{Shard: 1, Epoch: 1, Time: 77}); v.Status != actors.Done {
		f.Errorf("a batch without records: %+v", v)
	}
	if r := f.tryRaise(actors.Raise{Shard: 1, Epoch: 2, Incarnation: self}); r.Time != 77 {
		f.Errorf("its time is not kept: %+v", r)
	}
}

func testCommitLarge(f *fixture) {
	f.raise(1, 1)
	f.raise(2, 1)
	// The largest value of the contract, many of them, and many small ones.
	big := strings.Repeat("v", 64<<10)
	want := map[string]string{}
	var large, small []actors.Record
	for i := range 32 {
		want[name(i)] = big
		large = append(large, set(name(i), big))
	}
	for i := range 5000 {
		small = append(small, set(name(i), "x"))
	}
	f.wantVerdicts(f.store.Commit(f.ctx, []actors.Batch{
		{Shard: 1, Epoch: 1, Records: large},
		{Shard: 2, Epoch: 1, Records: small},
	}), actors.Done, actors.Done)
	f.want("scan", f.scan(1, "", ""), want)
	if n := len(f.scan(2, "", "")); n != 5000 {
		f.Errorf("%d records, want 5000", n)
	}
}

func testReadMissing(f *fixture) {
	f.want("read", f.read(1, "a", ""), nil)
	f.want("read", f.read(1), nil)
	f.want("scan", f.scan(1, "", ""), nil)
	f.raise(1, 1)
	f.commit(1, 1, set("b", "1"))
	f.want("read", f.read(1, "a", "c", "bb", ""), nil)
}

func testShardsAreApart(f *fixture) {
	for shard := range uint32(Shards) {
		f.raise(shard, 1)
		f.commit(shard, 1, set("same", fmt.Sprint(shard)), set(fmt.Sprint("own", shard), "x"))
	}
	for shard := range uint32(Shards) {
		f.want("scan", f.scan(shard, "", ""), map[string]string{"same": fmt.Sprint(shard), fmt.Sprint("own", shard): "x"})
	}
	f.commit(3, 1, del("same"))
	f.want("read", f.read(3, "same"), nil)
	f.want("read", f.read(4, "same"), map[string]string{"same": "4"})
}

func testContext(f *fixture) {
	f.raise(1, 1)
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	if err := f.store.Read(ctx, 1, [][]byte{[]byte("k")}, func(int, []byte) {}); !errors.Is(err, context.Canceled) {
		f.Errorf("read with a cancelled context: %v", err)
	}
	if err := f.store.Scan(ctx, 1, nil, nil, func(_, _ []byte) bool { return true }); !errors.Is(err, context.Canceled) {
		f.Errorf("scan with a cancelled context: %v", err)
	}
	// A commit may have been made or not, but its verdict says which.
	switch v := f.store.Commit(ctx, []actors.Batch{{Shard: 1, Epoch: 1, Records: []actors.Record{set("k", "v")}}})[0]; v.Status {
	case actors.Done:
		f.want("scan", f.scan(1, "", ""), map[string]string{"k": "v"})
	case actors.Refused:
		f.want("scan", f.scan(1, "", ""), nil)
	case actors.Unclear:
	default:
		f.Errorf("commit with a cancelled context: %+v", v)
	}
}

func testClose(f *fixture) {
	f.raise(1, 1)
	f.commit(1, 1, set("k", "v"))
	ctx := context.WithoutCancel(f.ctx)
	for range 2 {
		if err := f.store.Close(ctx); err != nil {
			f.Errorf("close: %v", err)
		}
	}
	if _, err := f.store.Raise(ctx, []actors.Raise{{Shard: 1, Epoch: 2}}); err == nil {
		f.Error("raise after close")
	}
	if err := f.store.Read(ctx, 1, [][]byte{[]byte("k")}, func(int, []byte) {}); err == nil {
		f.Error("read after close")
	}
	if err := f.store.Scan(ctx, 1, nil, nil, func(_, _ []byte) bool { return true }); err == nil {
		f.Error("scan after close")
	}
	if v := f.tryCommit(actors.Batch{Shard: 1, Epoch: 1, Records: []actors.Record{set("k", "w")}}); v.Status != actors.Refused || v.Err == nil {
		f.Errorf("commit after close: %+v", v)
	}
}

func testReopen(f *fixture) {
	if !f.target.Durable {
		f.Skip("the store is not durable")
	}
	info := f.store.Info()
	want := map[string]string{}
	for round := range 4 {
		epoch := uint64(round + 1)
		f.raise(1, epoch)
		for i := range 20 {
			key := name(i * (round + 1))
			want[key] = fmt.Sprint(round)
			if v := f.tryCommit(actors.Batch{Shard: 1, Epoch: epoch, Time: int64(epoch), Records: []actors.Record{set(key, want[key])}}); v.Err != nil {
				f.Fatal(v.Err)
			}
		}
		f.reopen()
		if f.store.Info() != info {
			f.Errorf("info was %+v, is %+v", info, f.store.Info())
		}
		f.want("scan", f.scan(1, "", ""), want)
		if r := f.tryRaise(actors.Raise{Shard: 1, Epoch: epoch, Incarnation: self}); r.OK || r.Epoch != epoch || r.Time != int64(epoch) {
			f.Errorf("the row after reopening: %+v, want epoch and time %d", r, epoch)
		}
		if r := f.tryRaise(actors.Raise{Shard: 1, From: 1, Epoch: epoch, Incarnation: self}); !r.OK {
			f.Errorf("the incarnation is lost: %+v", r)
		}
	}
}

// testConcurrent runs one committer per shard beside readers. A reader must see
// whole batches that never go back.
func testConcurrent(f *fixture) {
	const rounds = 60
	var committers, readers sync.WaitGroup
	stop := make(chan struct{})
	for shard := range uint32(Shards) {
		f.raise(shard, 1)
		f.commit(shard, 1, set("a", "0000"), set("b", "0000"))
	}
	for shard := range uint32(Shards) {
		committers.Go(func() {
			for i := 1; i <= rounds; i++ {
				value := fmt.Sprintf("%04d", i)
				v := f.store.Commit(f.ctx, []actors.Batch{{Shard: shard, Epoch: 1, Records: []actors.Record{set("a", value), set("b", value)}}})[0]
				if v.Status != actors.Done {
					f.Errorf("commit: %+v", v)
					return
				}
				seen := make([]byte, 0, 4)
				err := f.store.Read(f.ctx, shard, [][]byte{[]byte("b")}, func(_ int, value []byte) { seen = append(seen, value...) })
				if err != nil || string(seen) != value {
					f.Errorf("read %q after commit of %q: %v", seen, value, err)
				}
			}
		})
		readers.Go(func() {
			var last []byte
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := f.store.Read(f.ctx, shard, [][]byte{[]byte("a")}, func(_ int, value []byte) {
					if bytes.Compare(value, last) < 0 {
						f.Errorf("shard %d went from %q back to %q", shard, last, value)
					}
					last = append(last[:0], value...)
				})
				if err != nil {
					f.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	committers.Wait()
	close(stop)
	readers.Wait()
}
