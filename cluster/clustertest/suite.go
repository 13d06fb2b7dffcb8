package clustertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/cluster"
)

// Server is an authority under test, with the hands of its operator. Failures
// go to t.
type Server interface {
	// Connect returns the connection of a new process to a cluster. A check
	// TTL of zero means cluster.DefaultCheckTTL.
	Connect(t testing.TB, name string, checkTTL time.Duration) cluster.Authority
	// DeleteLock deletes the key of a lock.
	DeleteLock(t testing.TB, name string, shard uint32)
	// EndSession ends a session without asking its holder.
	EndSession(t testing.TB, s cluster.Session)
	// Save returns a function that brings back the state of now.
	Save(t testing.TB) (restore func(t testing.TB))
}

// Target is what the suite runs against.
type Target struct {
	// Start returns a server that is empty and ends with the test.
	Start func(t testing.TB) Server
	// Virtual runs each test in a bubble of testing/synctest, with a server of
	// its own; else most tests share one, each in a cluster of its own.
	Virtual bool
}

// tests are the suite. Those that are alone change the whole server.
var tests = []struct {
	name  string
	alone bool
	run   func(*fixture)
}{
	{"Establish", false, testEstablish},
	{"EstablishAtOnce", false, testEstablishAtOnce},
	{"Members", false, testMembers},
	{"MemberNames", false, testMemberNames},
	{"CheckEnds", false, testCheckEnds},
	{"Sessions", false, testSessions},
	{"KeepAlive", false, testKeepAlive},
	{"Announce", false, testAnnounce},
	{"Locks", false, testLocks},
	{"LockValues", false, testLockValues},
	{"AcquireIsGuarded", false, testAcquireIsGuarded},
	{"ReleaseIsGuarded", false, testReleaseIsGuarded},
	{"Race", false, testRace},
	{"NoSession", false, testNoSession},
	{"LockDelay", false, testLockDelay},
	{"ReleaseHasNoDelay", false, testReleaseHasNoDelay},
	{"DeletedLock", false, testDeletedLock},
	{"Watch", false, testWatch},
	{"WatchMembers", false, testWatchMembers},
	{"Contexts", false, testContexts},
	{"Lead", false, testLead},
	{"Placement", false, testPlacement},
	{"RestoreBringsBack", true, testRestoreBringsBack},
	{"RestoreDropsDelay", true, testRestoreDropsDelay},
	{"Emptied", true, testEmptied},
}

// Run runs the suite as parallel subtests.
func Run(t *testing.T, target Target) {
	t.Helper()
	var shared Server
	if !target.Virtual {
		shared = target.Start(t)
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			name := fmt.Sprintf("test-%d", i)
			if target.Virtual {
				synctest.Test(t, func(t *testing.T) {
					test.run(&fixture{T: t, server: target.Start(t), name: name})
				})
				return
			}
			server := shared
			if test.alone {
				server = target.Start(t)
			}
			test.run(&fixture{T: t, server: server, name: name})
		})
	}
}

const (
	// patience bounds what a test waits for. It, and all times here, are long
	// beside what a busy machine takes for a few calls.
	patience = 30 * time.Second
	// steadyCheck is of a check that does not end while a test runs, shortCheck
	// of one whose end a test waits for.
	steadyCheck = time.Minute
	shortCheck  = 4 * time.Second
	// delay is the lock-delay of sessions in most tests.
	delay = time.Second
	// pollEvery is how often a test looks for what it waits for.
	pollEvery = 20 * time.Millisecond
)

// fixture is one test's cluster, with helpers that fail the test.
type fixture struct {
	*testing.T

	server Server
	name   string
}

func (f *fixture) connect() cluster.Authority { return f.server.Connect(f, f.name, steadyCheck) }

// ctx ends by itself, so that no call can hold up the tests.
func (f *fixture) ctx() context.Context {
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	f.Cleanup(cancel)
	return ctx
}

// node is a member with its session.
type node struct {
	cluster.Authority

	f       *fixture
	self    cluster.Member
	session cluster.Session
}

func newMember(name string) cluster.Member {
	return cluster.Member{
		Name: name, Incarnation: cluster.NewIncarnation(), Addr: "127.0.0.1:7411", HTTP: "127.0.0.1:7412", Protocol: 1,
	}
}

// join makes a member whose check lasts for the test.
func (f *fixture) join(name string) *node { return f.joinWith(name, steadyCheck, delay) }

func (f *fixture) joinWith(name string, checkTTL, lockDelay time.Duration) *node {
	f.Helper()
	n := &node{Authority: f.server.Connect(f, f.name, checkTTL), f: f, self: newMember(name)}
	session, err := n.Join(f.ctx(), n.self, lockDelay)
	if err != nil || session == "" {
		f.Fatalf("join of %s: %q, %v", name, session, err)
	}
	n.session = session
	return n
}

func (f *fixture) table(a cluster.Authority) cluster.Table {
	f.Helper()
	table, err := a.Table(f.ctx(), cluster.Watch{})
	if err != nil {
		f.Fatalf("table: %v", err)
	}
	if table.Index == 0 {
		f.Fatal("the table's index is zero")
	}
	return table
}

// eventually waits until what is asked for holds.
func (f *fixture) eventually(what string, holds func() bool) {
	f.Helper()
	ctx := f.ctx()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			f.Fatalf("it never happens that %s", what)
		}
	}
}

// write makes one LockWrite for each shard as the table has it now, with an
// epoch that is the shard's number and 1000.
func (n *node) writes(shards ...uint32) []cluster.LockWrite {
	n.f.Helper()
	table := n.f.table(n)
	locks := make([]cluster.LockWrite, len(shards))
	for i, shard := range shards {
		lock, _ := table.Lock(shard)
		locks[i] = cluster.LockWrite{
			Shard: shard, Index: lock.Index,
			Value: cluster.LockValue{Epoch: uint64(shard) + 1000, Owner: n.self.Incarnation},
		}
	}
	return locks
}

func (n *node) create(shards ...uint32) {
	n.f.Helper()
	results, err := n.Create(n.f.ctx(), n.writes(shards...))
	n.f.want("create", results, err, shards, cluster.Done)
}

func (n *node) acquire(want cluster.Verdict, shards ...uint32) []cluster.Result {
	n.f.Helper()
	results, err := n.Acquire(n.f.ctx(), n.session, n.writes(shards...))
	n.f.want("acquire", results, err, shards, want)
	return results
}

func (n *node) release(want cluster.Verdict, shards ...uint32) {
	n.f.Helper()
	results, err := n.Release(n.f.ctx(), n.session, n.writes(shards...))
	n.f.want("release", results, err, shards, want)
}

func (n *node) prove(want cluster.Verdict, shards ...uint32) {
	n.f.Helper()
	results, err := n.Prove(n.f.ctx(), n.session, shards)
	n.f.want("prove", results, err, shards, want)
}

// holds makes locks and takes them.
func (n *node) holds(shards ...uint32) {
	n.f.Helper()
	n.create(shards...)
	n.acquire(cluster.Done, shards...)
}

// want checks that all shards have the same verdict.
func (f *fixture) want(what string, results []cluster.Result, err error, shards []uint32, want cluster.Verdict) {
	f.Helper()
	if err != nil {
		f.Fatalf("%s: %v", what, err)
	}
	f.wantEach(what, results, shards, func(uint32) cluster.Verdict { return want })
}

// wantEach checks order and verdicts, and that a new index comes with what was
// written.
func (f *fixture) wantEach(what string, results []cluster.Result, shards []uint32, want func(uint32) cluster.Verdict) {
	f.Helper()
	if len(results) != len(shards) {
		f.Fatalf("%s: %d results for %d shards", what, len(results), len(shards))
	}
	for i, r := range results {
		if r.Shard != shards[i] || r.Verdict != want(shards[i]) {
			f.Errorf("%s: shard %d is %v (of shard %d), want %v", what, shards[i], r.Verdict, r.Shard, want(shards[i]))
		}
		if written := r.Verdict == cluster.Done && what != "prove"; (r.Index != 0) != written {
			f.Errorf("%s: shard %d is %v, with index %d", what, r.Shard, r.Verdict, r.Index)
		}
	}
	if f.Failed() {
		f.FailNow()
	}
}

func (f *fixture) wantErr(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: %v, want %v", what, err, want)
	}
}

// shardRange returns the shards from one to another, without that.
func shardRange(from, to uint32) []uint32 {
	var shards []uint32
	for s := from; s < to; s++ {
		shards = append(shards, s)
	}
	return shards
}

// together runs f for n callers at once and waits for them.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// passing are the names of the members that pass.
func passing(members cluster.Members) []string {
	var names []string
	for _, m := range members.List {
		if m.Passing {
			names = append(names, m.Name)
		}
	}
	return slices.Clip(names)
}
