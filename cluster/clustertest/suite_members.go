package clustertest

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/quern-io/quern/cluster"
)

func testEstablish(f *fixture) {
	a := f.connect()
	if table := f.table(a); table.Record != nil {
		f.Fatalf("a record before any: %+v", table.Record)
	}
	want := cluster.Record{ClusterID: [16]byte{7}, Store: "postgres", Shards: 64, LockDelay: 3 * time.Second, Base: 1 << 60, Format: 1, Protocol: 1}
	first, err := a.Establish(f.ctx(), want)
	if err != nil || first.Index == 0 {
		f.Fatalf("first: %+v, %v", first, err)
	}
	index := first.Index
	first.Index = 0
	if first != want {
		f.Errorf("established %+v, want %+v", first, want)
	}
	want.Index = index
	for _, own := range []cluster.Record{{}, {Shards: 64, LockDelay: time.Second, Base: 1}} {
		if got, err := f.connect().Establish(f.ctx(), own); got != want || err != nil {
			f.Errorf("with %+v: %+v, %v", own, got, err)
		}
	}
	for _, own := range []cluster.Record{{Shards: 128}, {Store: "memory"}, {ClusterID: [16]byte{8}}, {Format: 2}, {Protocol: 2}} {
		_, err := a.Establish(f.ctx(), own)
		f.wantErr("another record", err, cluster.ErrRecord)
	}
	if table := f.table(a); table.Record == nil || *table.Record != want {
		f.Errorf("the table has %+v", table.Record)
	}
	_, err = f.server.Connect(f, f.name+"-other", 0).Establish(f.ctx(), cluster.Record{Shards: 3})
	f.wantErr("a record out of bounds", err, cluster.ErrRecord)
}

func testEstablishAtOnce(f *fixture) {
	var (
		mu    sync.Mutex
		found = map[cluster.Record]bool{}
	)
	together(8, func(int) {
		record, err := f.connect().Establish(f.ctx(), cluster.Record{Base: 5})
		if err != nil {
			f.Errorf("establish: %v", err)
		}
		mu.Lock()
		defer mu.Unlock()
		found[record] = true
	})
	if len(found) != 1 {
		f.Errorf("%d records: %v", len(found), found)
	}
}

func testMembers(f *fixture) {
	b, a := f.join("b"), f.join("a")
	var members cluster.Members
	f.eventually("both pass", func() bool {
		var err error
		members, err = a.Members(f.ctx(), cluster.Watch{})
		if err != nil || members.Index == 0 {
			f.Fatalf("members: %+v, %v", members, err)
		}
		return len(passing(members)) == 2
	})
	a.self.Passing, b.self.Passing = true, true
	if want := []cluster.Member{a.self, b.self}; !slices.Equal(members.List, want) {
		f.Errorf("members are %+v, want %+v", members.List, want)
	}
	// The same node in another life is another member.
	again := f.join("a")
	f.eventually("all three pass", func() bool { return len(f.passing(b)) == 3 })
	if err := again.Leave(f.ctx(), again.session); err != nil {
		f.Fatalf("leave: %v", err)
	}
	f.eventually("one has left", func() bool { return slices.Equal(f.passing(b), []string{"a", "b"}) })
	if err := again.Leave(f.ctx(), again.session); err != nil {
		f.Errorf("leave again: %v", err)
	}
	f.wantErr("keep alive after leave", again.KeepAlive(f.ctx(), again.session), cluster.ErrSessionLost)
	// Joining twice is being there once.
	session, err := a.Join(f.ctx(), a.self, delay)
	if err != nil || session == a.session {
		f.Errorf("join again: %q after %q, %v", session, a.session, err)
	}
	if got := f.passing(b); len(got) != 2 {
		f.Errorf("after joining again: %v", got)
	}
}

func (f *fixture) passing(a cluster.Authority) []string {
	f.Helper()
	members, err := a.Members(f.ctx(), cluster.Watch{})
	if err != nil {
		f.Fatalf("members: %v", err)
	}
	return passing(members)
}

func testMemberNames(f *fixture) {
	names := []string{"host.example.org", "../../up?x=1#%41", `q"uote\`, "~!@$&'()*+,;=:[]{}|^`<>"}
	for _, name := range names {
		n := f.join(name)
		n.self.Addr = "[::1]:7411"
		if _, err := n.Join(f.ctx(), n.self, delay); err != nil {
			f.Fatalf("%q: %v", name, err)
		}
		if err := n.KeepAlive(f.ctx(), n.session); err != nil {
			f.Errorf("%q: keep alive: %v", name, err)
		}
		f.eventually("it has the new address", func() bool {
			members, err := n.Members(f.ctx(), cluster.Watch{})
			if err != nil {
				f.Fatalf("members: %v", err)
			}
			n.self.Passing = true
			return slices.Contains(members.List, n.self)
		})
		if err := n.Leave(f.ctx(), n.session); err != nil {
			f.Errorf("%q: leave: %v", name, err)
		}
	}
	f.eventually("all have left", func() bool { return len(f.passing(f.connect())) == 0 })
}

// testCheckEnds lets a member fall silent: its locks become free, after a while
// others get them, and it cannot go on under its session.
func testCheckEnds(f *fixture) {
	silent, other := f.joinWith("silent", shortCheck, delay), f.join("other")
	silent.holds(1, 2)
	f.eventually("the locks are free", func() bool {
		table := f.table(other)
		lock, _ := table.Lock(1)
		if lock.Value.Epoch != 1001 || lock.Value.Owner != silent.self.Incarnation {
			f.Fatalf("the value is %+v", lock.Value)
		}
		return lock.Holder == ""
	})
	f.eventually("it does not pass", func() bool { return slices.Equal(f.passing(other), []string{"other"}) })
	silent.prove(cluster.Gone, 1, 2)
	f.eventually("the session is known to be lost", func() bool {
		results, err := silent.Acquire(f.ctx(), silent.session, silent.writes(1, 2))
		for _, r := range results {
			// While the delay lasts, an authority may see no further than that.
			if r.Verdict != cluster.Refused && (r.Verdict != cluster.Delayed || err != nil) {
				f.Fatalf("shard %d is %v, %v", r.Shard, r.Verdict, err)
			}
		}
		return errors.Is(err, cluster.ErrSessionLost)
	})
	session, err := silent.Join(f.ctx(), silent.self, delay)
	if err != nil || session == silent.session {
		f.Fatalf("join again: %q after %q, %v", session, silent.session, err)
	}
	silent.session = session
	f.eventually("a new session can take them", func() bool {
		if err := silent.KeepAlive(f.ctx(), silent.session); err != nil {
			f.Fatalf("keep alive: %v", err)
		}
		results, err := silent.Acquire(f.ctx(), silent.session, silent.writes(1, 2))
		return err == nil && results[0].Verdict == cluster.Done && results[1].Verdict == cluster.Done
	})
}

// testSessions: a member that passes again is not taken for one that has kept its
// session.
func testSessions(f *fixture) {
	silent, other := f.joinWith("silent", shortCheck, delay), f.join("other")
	left := f.join("left")
	if err := left.Leave(f.ctx(), left.session); err != nil {
		f.Fatalf("leave: %v", err)
	}
	sessions := func() map[cluster.Incarnation]bool {
		alive, err := other.Sessions(f.ctx())
		if err != nil {
			f.Fatalf("sessions: %v", err)
		}
		return alive
	}
	if alive := sessions(); len(alive) != 2 || !alive[silent.self.Incarnation] || !alive[other.self.Incarnation] {
		f.Errorf("sessions %v", alive)
	}
	f.eventually("its session is gone", func() bool { return !sessions()[silent.self.Incarnation] })
	f.eventually("it passes", func() bool {
		if err := silent.KeepAlive(f.ctx(), silent.session); err != nil && !errors.Is(err, cluster.ErrSessionLost) {
			f.Fatalf("keep alive: %v", err)
		}
		return slices.Contains(f.passing(other), "silent")
	})
	if alive := sessions(); len(alive) != 1 {
		f.Errorf("sessions %v, of one that passes again", alive)
	}
	if _, err := silent.Join(f.ctx(), silent.self, delay); err != nil {
		f.Fatalf("join again: %v", err)
	}
	if !sessions()[silent.self.Incarnation] {
		f.Error("the one that has joined again has no session")
	}
}

// testKeepAlive keeps a member for longer than its check lasts by itself.
func testKeepAlive(f *fixture) {
	n := f.joinWith("a", shortCheck, delay)
	n.holds(1)
	ticker := time.NewTicker(shortCheck / 10)
	defer ticker.Stop()
	for range 15 {
		<-ticker.C
		if err := n.KeepAlive(f.ctx(), n.session); err != nil {
			f.Fatalf("keep alive: %v", err)
		}
	}
	n.prove(cluster.Done, 1)
	if got := f.passing(n); !slices.Equal(got, []string{"a"}) {
		f.Errorf("members are %v", got)
	}
	f.server.EndSession(f, n.session)
	f.eventually("the loss is noticed", func() bool {
		<-ticker.C
		err := n.KeepAlive(f.ctx(), n.session)
		if err != nil {
			f.wantErr("keep alive", err, cluster.ErrSessionLost)
		}
		return err != nil
	})
	f.wantErr("no session", n.KeepAlive(f.ctx(), ""), cluster.ErrSessionLost)
}
