package clustertest

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/cluster"
)

// testLocks goes through the life of more locks than a transaction takes.
func testLocks(f *fixture) {
	a, b := f.join("a"), f.join("b")
	all := shardRange(0, 150)
	some := shardRange(100, 200)
	a.create(all...)
	results, err := b.Create(f.ctx(), b.writes(some...))
	if err != nil {
		f.Fatalf("create: %v", err)
	}
	f.wantEach("create", results, some, func(s uint32) cluster.Verdict {
		if s < 150 {
			return cluster.Moved
		}
		return cluster.Done
	})
	for _, lock := range f.table(a).Locks {
		if lock.Holder != "" || lock.Damaged || lock.Value.Epoch != uint64(lock.Shard)+1000 {
			f.Errorf("created: %+v", lock)
		}
	}
	results = a.acquire(cluster.Done, all...)
	table := f.table(b)
	if len(table.Locks) != 200 {
		f.Fatalf("%d locks", len(table.Locks))
	}
	for i, r := range results {
		if lock := table.Locks[i]; lock.Shard != r.Shard || lock.Index != r.Index || lock.Holder != a.session {
			f.Errorf("acquired %+v, in the table %+v", r, lock)
		}
	}
	a.prove(cluster.Done, all...)
	b.prove(cluster.Gone, all...)
	b.acquire(cluster.Held, all...)
	a.release(cluster.Done, all[:75]...)
	b.acquire(cluster.Done, all[:75]...)
	results, err = a.Prove(f.ctx(), a.session, some)
	f.want("prove", results[:50], err, some[:50], cluster.Done)
	f.want("prove", results[50:], err, some[50:], cluster.Gone)
	for _, none := range []func() ([]cluster.Result, error){
		func() ([]cluster.Result, error) { return a.Create(f.ctx(), nil) },
		func() ([]cluster.Result, error) { return a.Acquire(f.ctx(), a.session, nil) },
		func() ([]cluster.Result, error) { return a.Release(f.ctx(), a.session, nil) },
		func() ([]cluster.Result, error) { return a.Prove(f.ctx(), a.session, nil) },
	} {
		if results, err := none(); err != nil || len(results) != 0 {
			f.Errorf("of nothing: %v, %v", results, err)
		}
	}
}

func testLockValues(f *fixture) {
	a, b := f.join("a"), f.join("b")
	a.holds(65535)
	clean := cluster.LockValue{
		Epoch: 1<<64 - 1, Owner: a.self.Incarnation,
		Clean: cluster.CleanRelease{Receiver: b.self.Incarnation, Handoff: cluster.HandoffID{9}},
	}
	locks := a.writes(65535)
	locks[0].Value = clean
	results, err := a.Release(f.ctx(), a.session, locks)
	f.want("release", results, err, []uint32{65535}, cluster.Done)
	table := f.table(b)
	if lock, _ := table.Lock(65535); lock.Value != clean || lock.Holder != "" || lock.Index != results[0].Index {
		f.Errorf("released: %+v", lock)
	}
	b.acquire(cluster.Done, 65535)
	table = f.table(a)
	if lock, _ := table.Lock(65535); lock.Value.Clean != (cluster.CleanRelease{}) || lock.Holder != b.session {
		f.Errorf("acquired: %+v", lock)
	}
}

// testAcquireIsGuarded mixes locks that may and may not be taken: each has its
// own verdict, and none holds up another.
func testAcquireIsGuarded(f *fixture) {
	a, b := f.join("a"), f.join("b")
	shards := shardRange(0, 70)
	a.create(shards...)
	before := b.writes(shards...)
	a.acquire(cluster.Done, 1, 40)
	a.acquire(cluster.Done, 2)
	a.release(cluster.Done, 2)
	missing := cluster.LockWrite{Shard: 99, Index: before[0].Index}
	results, err := b.Acquire(f.ctx(), b.session, append(before, missing))
	if err != nil {
		f.Fatal(err)
	}
	f.wantEach("acquire", results, append(shards, 99), func(s uint32) cluster.Verdict {
		switch s {
		case 1, 40:
			return cluster.Held
		case 2, 99:
			return cluster.Moved
		default:
			return cluster.Done
		}
	})
	// An acquisition that arrives twice is done once: its index has passed.
	results, err = b.Acquire(f.ctx(), b.session, before[:1])
	f.want("acquire again", results, err, shards[:1], cluster.Moved)
	// A holder rewrites its lock, under the index of now.
	rewrite := b.writes(0)
	rewrite[0].Value.Epoch = 5000
	results, err = b.Acquire(f.ctx(), b.session, rewrite)
	f.want("rewrite", results, err, shards[:1], cluster.Done)
	table := f.table(b)
	if lock, _ := table.Lock(0); lock.Value.Epoch != 5000 || lock.Holder != b.session || lock.Index != results[0].Index {
		f.Errorf("rewritten: %+v", lock)
	}
	b.prove(cluster.Done, 0)
	// Writing what is there already is done, and changes no index.
	rewrite[0].Index = results[0].Index
	again, err := b.Acquire(f.ctx(), b.session, rewrite)
	f.want("rewrite again", again, err, shards[:1], cluster.Done)
	if again[0].Index != results[0].Index {
		f.Errorf("written again: index %d, before %d", again[0].Index, results[0].Index)
	}
}

func testReleaseIsGuarded(f *fixture) {
	a, b := f.join("a"), f.join("b")
	a.holds(1, 2, 3)
	old := a.writes(1)
	rewrite := a.writes(1)
	rewrite[0].Value.Epoch = 5000
	results, err := a.Acquire(f.ctx(), a.session, rewrite)
	f.want("rewrite", results, err, []uint32{1}, cluster.Done)
	// A release that arrives late does not end what came after it.
	results, err = a.Release(f.ctx(), a.session, append(old, a.writes(2)...))
	if err != nil {
		f.Fatal(err)
	}
	f.wantEach("release", results, []uint32{1, 2}, func(s uint32) cluster.Verdict {
		return map[uint32]cluster.Verdict{1: cluster.Moved, 2: cluster.Done}[s]
	})
	a.prove(cluster.Done, 1, 3)
	a.release(cluster.Gone, 2)
	b.release(cluster.Gone, 3)
	a.prove(cluster.Done, 1, 3)
}

// testRace lets nodes take the same locks at once: each lock has one taker.
func testRace(f *fixture) {
	const nodes = 4
	shards := shardRange(0, 100)
	f.join("creator").create(shards...)
	var members []*node
	for range nodes {
		members = append(members, f.join("n"))
	}
	var wins [100]atomic.Int32
	together(nodes, func(i int) {
		locks := members[i].writes(shards...)
		// Not all in the same order, so that they meet in the middle.
		if i%2 == 1 {
			slices.Reverse(locks)
		}
		results, err := members[i].Acquire(f.ctx(), members[i].session, locks)
		if err != nil {
			f.Errorf("acquire: %v", err)
		}
		for _, r := range results {
			if r.Verdict == cluster.Done {
				wins[r.Shard].Add(1)
			}
		}
	})
	for shard := range wins {
		if n := wins[shard].Load(); n != 1 {
			f.Errorf("shard %d was won %d times", shard, n)
		}
	}
}

func testNoSession(f *fixture) {
	a := f.join("a")
	a.create(1)
	f.server.EndSession(f, a.session)
	for _, s := range []cluster.Session{"", a.session} {
		results, err := a.Acquire(f.ctx(), s, a.writes(1))
		f.wantErr("acquire", err, cluster.ErrSessionLost)
		if len(results) != 1 || results[0].Verdict != cluster.Refused {
			f.Errorf("acquire: %v", results)
		}
	}
	_, err := a.Lead(f.ctx(), a.session)
	f.wantErr("lead", err, cluster.ErrSessionLost)
	// A lock that nobody holds is not held by nobody's session.
	results, err := a.Prove(f.ctx(), "", []uint32{1})
	f.wantErr("prove", err, cluster.ErrSessionLost)
	if len(results) != 1 || results[0].Verdict != cluster.Refused {
		f.Errorf("prove: %v", results)
	}
	_, err = a.Release(f.ctx(), "", a.writes(1))
	f.wantErr("release", err, cluster.ErrSessionLost)
	a.prove(cluster.Gone, 1)
	if err := a.Leave(f.ctx(), a.session); err != nil {
		f.Errorf("leave without a session: %v", err)
	}
}

// testLockDelay: a lock whose session was lost is left alone for the session's
// delay, one that is merely free is not.
func testLockDelay(f *fixture) {
	const delay = 3 * time.Second
	a, b := f.joinWith("a", steadyCheck, delay), f.join("b")
	a.holds(1)
	a.create(2)
	ended := time.Now()
	f.server.EndSession(f, a.session)
	results, err := b.Acquire(f.ctx(), b.session, b.writes(1, 2))
	if err != nil {
		f.Fatal(err)
	}
	f.wantEach("acquire", results, []uint32{1, 2}, func(s uint32) cluster.Verdict {
		return map[uint32]cluster.Verdict{1: cluster.Delayed, 2: cluster.Done}[s]
	})
	f.eventually("the lock can be taken", func() bool {
		results, err := b.Acquire(f.ctx(), b.session, b.writes(1))
		return err == nil && results[0].Verdict == cluster.Done
	})
	if took := time.Since(ended); took < delay {
		f.Errorf("it was taken after %v, the delay is %v", took, delay)
	}
}

func testReleaseHasNoDelay(f *fixture) {
	a, b := f.joinWith("a", steadyCheck, time.Minute), f.join("b")
	a.holds(1)
	a.release(cluster.Done, 1)
	b.acquire(cluster.Done, 1)
}

// testDeletedLock: who deletes a key takes the lock from its holder at once,
// and the lock-delay with it. A proof sees it.
func testDeletedLock(f *fixture) {
	a, b := f.joinWith("a", steadyCheck, time.Minute), f.join("b")
	a.holds(1, 2, 3)
	f.server.DeleteLock(f, f.name, 2)
	results, err := a.Prove(f.ctx(), a.session, []uint32{1, 2, 3})
	if err != nil {
		f.Fatal(err)
	}
	f.wantEach("prove", results, []uint32{1, 2, 3}, func(s uint32) cluster.Verdict {
		return map[uint32]cluster.Verdict{1: cluster.Done, 2: cluster.Gone, 3: cluster.Done}[s]
	})
	if table := f.table(b); len(table.Locks) != 2 {
		f.Errorf("locks are %+v", table.Locks)
	}
	b.holds(2)
	a.prove(cluster.Gone, 2)
	f.server.EndSession(f, a.session)
	b.prove(cluster.Done, 2)
}

func testLead(f *fixture) {
	a, b := f.join("a"), f.join("b")
	leads := func(n *node, want bool) {
		f.Helper()
		if got, err := n.Lead(f.ctx(), n.session); got != want || err != nil {
			f.Errorf("%s leads: %v, %v", n.self.Name, got, err)
		}
	}
	leads(a, true)
	leads(a, true)
	leads(b, false)
	if table := f.table(b); table.Leader != a.session || len(table.Locks) != 0 {
		f.Errorf("the table is %+v", table)
	}
	if err := a.Leave(f.ctx(), a.session); err != nil {
		f.Fatal(err)
	}
	leads(b, true) // at once: who leaves gives it up
	if err := a.Leave(f.ctx(), a.session); err != nil {
		f.Errorf("leave again: %v", err)
	}
	leads(b, true)
}

func testPlacement(f *fixture) {
	a, b := f.join("a"), f.join("b")
	put := func(n *node, index uint64, value string) (uint64, error) {
		return n.PutPlacement(f.ctx(), n.session, index, []byte(value))
	}
	_, err := put(a, 0, "too early")
	f.wantErr("without lead", err, cluster.ErrIndexMoved)
	if leads, err := a.Lead(f.ctx(), a.session); !leads || err != nil {
		f.Fatalf("lead: %v, %v", leads, err)
	}
	opaque := "\x00\xff{\"\n"
	first, err := put(a, 0, opaque)
	if err != nil || first == 0 {
		f.Fatalf("first: %d, %v", first, err)
	}
	if p := f.table(b).Placement; string(p.Value) != opaque || p.Index != first {
		f.Errorf("the placement is %+v, its index was %d", p, first)
	}
	_, err = put(a, 0, "again")
	f.wantErr("as if there were none", err, cluster.ErrIndexMoved)
	second, err := put(a, first, "second")
	if err != nil || second <= first {
		f.Errorf("second: %d after %d, %v", second, first, err)
	}
	_, err = put(a, first, "third")
	f.wantErr("under an old index", err, cluster.ErrIndexMoved)
	_, err = put(b, second, "b's")
	f.wantErr("by another", err, cluster.ErrIndexMoved)
	_, err = a.PutPlacement(f.ctx(), "", second, nil)
	f.wantErr("by nobody", err, cluster.ErrSessionLost)
	if p := f.table(b).Placement; string(p.Value) != "second" || p.Index != second {
		f.Errorf("the placement is %+v", p)
	}
}

func testContexts(f *fixture) {
	a := f.join("a")
	a.create(1)
	locks := a.writes(1)
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	_, errTable := a.Table(ctx, cluster.Watch{})
	_, errMembers := a.Members(ctx, cluster.Watch{})
	_, errEstablish := a.Establish(ctx, cluster.Record{})
	_, errLead := a.Lead(ctx, a.session)
	_, errPut := a.PutPlacement(ctx, a.session, 0, nil)
	_, errJoin := a.Join(ctx, a.self, delay)
	_, errProve := a.Prove(ctx, a.session, []uint32{1})
	_, errAcquire := a.Acquire(ctx, a.session, locks)
	_, errRelease := a.Release(ctx, a.session, locks)
	results, errCreate := a.Create(ctx, []cluster.LockWrite{{Shard: 2}})
	for what, err := range map[string]error{
		"table": errTable, "members": errMembers, "establish": errEstablish, "lead": errLead, "placement": errPut,
		"join": errJoin, "prove": errProve, "acquire": errAcquire, "release": errRelease, "create": errCreate,
		"keep alive": a.KeepAlive(ctx, a.session), "leave": a.Leave(ctx, a.session),
	} {
		f.wantErr(what, err, context.Canceled)
	}
	if len(results) != 1 || results[0].Shard != 2 || results[0].Verdict != cluster.Unknown {
		f.Errorf("create: %v", results)
	}
	late, cancel := context.WithDeadline(f.Context(), time.Now())
	defer cancel()
	_, err := a.Table(late, cluster.Watch{})
	f.wantErr("table, too late", err, cluster.ErrUnreachable)
	f.wantErr("table, too late", err, context.DeadlineExceeded)
	a.acquire(cluster.Done, 1)
}
