package clustertest

import (
	"context"
	"time"

	"github.com/quern-io/quern/cluster"
)

// watched is what a watch has returned.
type watched struct {
	table cluster.Table
	err   error
	took  time.Duration
}

// watch begins a watch; its outcome comes through the channel.
func (f *fixture) watch(ctx context.Context, a cluster.Authority, w cluster.Watch) <-chan watched {
	out := make(chan watched, 1)
	began := time.Now()
	go func() {
		table, err := a.Table(ctx, w)
		out <- watched{table, err, time.Since(began)}
	}()
	return out
}

func testWatch(f *fixture) {
	a, b := f.join("a"), f.join("b")
	a.create(1)
	table := f.table(b)

	// Nothing new: it waits, and tells all the same.
	const wait = 300 * time.Millisecond
	got := <-f.watch(f.ctx(), b, cluster.Watch{Index: table.Index, Wait: wait})
	if got.err != nil || got.table.Index != table.Index || got.table.Fell || len(got.table.Locks) != 1 || got.took < wait {
		f.Errorf("without news: %+v after %v", got, got.took)
	}
	// No wait, no waiting.
	got = <-f.watch(f.ctx(), b, cluster.Watch{Index: table.Index})
	if got.err != nil || len(got.table.Locks) != 1 || got.took > patience/2 {
		f.Errorf("without a wait: %+v", got)
	}
	// What is new already is told at once, and what comes, as it comes.
	waiting := f.watch(f.ctx(), b, cluster.Watch{Index: table.Index, Wait: cluster.MaxWait})
	a.acquire(cluster.Done, 1)
	got = <-waiting
	lock, _ := got.table.Lock(1)
	if got.err != nil || lock.Holder != a.session || got.table.Index <= table.Index || got.table.Fell {
		f.Errorf("with news: %+v", got)
	}
	// The end of a session is news.
	waiting = f.watch(f.ctx(), b, cluster.Watch{Index: got.table.Index, Wait: cluster.MaxWait})
	f.server.EndSession(f, a.session)
	got = <-waiting
	if lock, _ := got.table.Lock(1); got.err != nil || lock.Holder != "" || lock.Value.Epoch != 1001 {
		f.Errorf("after the session's end: %+v", got)
	}
	// Who gives up does not wait.
	ctx, cancel := context.WithCancel(f.Context())
	waiting = f.watch(ctx, b, cluster.Watch{Index: got.table.Index, Wait: cluster.MaxWait})
	cancel()
	f.wantErr("given up", (<-waiting).err, context.Canceled)
	short, cancel := context.WithTimeout(f.Context(), wait)
	defer cancel()
	end := <-f.watch(short, b, cluster.Watch{Index: got.table.Index, Wait: cluster.MaxWait})
	f.wantErr("in time", end.err, context.DeadlineExceeded)
	f.wantErr("in time", end.err, cluster.ErrUnreachable)
}

func testWatchMembers(f *fixture) {
	a := f.join("a")
	var members cluster.Members
	f.eventually("it is a member", func() bool {
		var err error
		if members, err = a.Members(f.ctx(), cluster.Watch{}); err != nil {
			f.Fatal(err)
		}
		return len(passing(members)) == 1
	})
	news := make(chan []string)
	go func() {
		defer close(news)
		ctx, last := f.ctx(), members.Index
		for range 100 {
			got, err := a.Members(ctx, cluster.Watch{Index: last, Wait: cluster.MaxWait})
			if err != nil || got.Fell {
				f.Errorf("members: %+v, %v", got, err)
				return
			}
			last = got.Index
			if names := passing(got); len(names) == 2 {
				news <- names
				return
			}
		}
	}()
	f.join("b")
	if got := <-news; len(got) != 2 {
		f.Errorf("after another has joined: %v", got)
	}
}

// testRestoreBringsBack: a restored snapshot sends indexes back, and gives a
// lock back to a session that had lost it, so that the same session and value
// prove nothing of what was in between.
func testRestoreBringsBack(f *fixture) {
	a, b := f.join("a"), f.join("b")
	a.holds(1)
	a.create(2)
	before := f.table(b)
	restore := f.server.Save(f)
	f.server.EndSession(f, a.session)
	a.prove(cluster.Gone, 1)
	b.acquire(cluster.Done, 2)
	after := f.table(b)
	if after.Index <= before.Index {
		f.Fatalf("the index was %d and is %d", before.Index, after.Index)
	}
	// One that arrives only after the restore waits to its end, and then tells.
	waiting := f.watch(f.ctx(), b, cluster.Watch{Index: after.Index, Wait: patience / 10})
	f.settle()
	restore(f)
	got := <-waiting
	if got.err != nil || !got.table.Fell || got.table.Index != before.Index {
		f.Errorf("the watch tells %+v, the index before was %d", got, before.Index)
	}
	for i, lock := range got.table.Locks {
		if lock != before.Locks[i] {
			f.Errorf("lock %+v, before %+v", lock, before.Locks[i])
		}
	}
	a.prove(cluster.Done, 1)
	b.prove(cluster.Gone, 2)
	b.acquire(cluster.Held, 1)
	b.acquire(cluster.Done, 2)
}

// settle lets a watch that was begun arrive, in all likelihood.
func (f *fixture) settle() {
	timer := time.NewTimer(200 * time.Millisecond)
	defer timer.Stop()
	<-timer.C
}

// testRestoreDropsDelay: a second owner comes at once, whatever the delay.
func testRestoreDropsDelay(f *fixture) {
	a, b := f.joinWith("a", steadyCheck, time.Minute), f.join("b")
	a.create(1)
	restore := f.server.Save(f)
	a.acquire(cluster.Done, 1)
	f.server.EndSession(f, a.session)
	b.acquire(cluster.Delayed, 1)
	restore(f)
	b.acquire(cluster.Done, 1)
}

// testEmptied: what was there is gone, and a cluster can be established anew,
// under another record.
func testEmptied(f *fixture) {
	restore := f.server.Save(f)
	a := f.join("a")
	first, err := a.Establish(f.ctx(), cluster.Record{Base: 5})
	if err != nil {
		f.Fatal(err)
	}
	a.holds(1)
	before := f.table(a)
	restore(f)
	table, err := a.Table(f.ctx(), cluster.Watch{Index: before.Index, Wait: pollEvery})
	if err != nil || table.Record != nil || len(table.Locks) != 0 || !table.Fell {
		f.Fatalf("emptied: %+v, %v", table, err)
	}
	a.prove(cluster.Gone, 1)
	second, err := a.Establish(f.ctx(), cluster.Record{ClusterID: first.ClusterID, Base: 500})
	if err != nil || second.Base != 500 || second.ClusterID != first.ClusterID {
		f.Errorf("established %+v, %v", second, err)
	}
	a.create(1)
	_, err = a.Acquire(f.ctx(), a.session, a.writes(1))
	f.wantErr("acquire", err, cluster.ErrSessionLost)
}
