package clustertest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quern-io/quern/cluster"
)

const (
	// sessionGrace is how many TTLs Consul lets a session live without renewal.
	sessionGrace = 2
	// forget is when a member that does not pass is no longer listed.
	forget = time.Minute
	// firstIndex is the index of a server that was just made. Others use up
	// some before a cluster comes.
	firstIndex = 10
	// maxOps bounds the operations of a transaction.
	maxOps = 64
)

// Twin is a Consul in memory. Its methods may be called concurrently.
type Twin struct {
	// Latency is how long each request is under way before it is carried out.
	// It must not change once requests are made.
	Latency time.Duration

	mu    sync.Mutex
	state state
	// delays are lock-delays by key; they live in a leader's memory only.
	delays map[key]time.Time
	// life changes when the state was replaced; watches then answer at once.
	life    int
	down    bool
	stall   chan struct{} // closed by Resume; nil while requests pass
	late    []func()      // given up while stalled, carried out by Resume
	news    chan struct{} // closed and replaced with every change
	drawn   int           // sessions, for their names
	request int           // carried out or refused, for Requests
}

// state is what a snapshot holds.
type state struct {
	index    uint64
	entries  map[key]entry
	deleted  map[string]uint64 // index of the last deletion in a cluster
	sessions map[cluster.Session]session
	members  map[memberKey]member
	roster   map[string]uint64 // index of the last change of a cluster's members
}

type kind uint8

const (
	aRecord kind = iota
	aPlacement
	aLeader
	aLock
)

// key names an entry.
type key struct {
	cluster string
	kind    kind
	shard   uint32
}

// entry is one key's. value is comparable: a LockValue, a Record, a string.
type entry struct {
	value  any
	holder cluster.Session
	index  uint64
}

type session struct {
	member memberKey
	delay  time.Duration
	ends   time.Time
}

type memberKey struct {
	cluster     string
	incarnation cluster.Incarnation
}

type member struct {
	cluster.Member

	ttl time.Duration
	// due is when it stops passing or, when it has, is forgotten.
	due time.Time
}

// New returns a twin that is empty and serves.
func New() *Twin {
	return &Twin{state: emptyState(firstIndex), delays: map[key]time.Time{}, news: make(chan struct{})}
}

func emptyState(index uint64) state {
	return state{
		index: index, entries: map[key]entry{}, deleted: map[string]uint64{},
		sessions: map[cluster.Session]session{}, members: map[memberKey]member{}, roster: map[string]uint64{},
	}
}

func (s state) clone() state {
	s.entries, s.deleted = maps.Clone(s.entries), maps.Clone(s.deleted)
	s.sessions, s.members, s.roster = maps.Clone(s.sessions), maps.Clone(s.members), maps.Clone(s.roster)
	return s
}

// changed wakes all watches. The caller holds mu.
func (t *Twin) changed() {
	close(t.news)
	t.news = make(chan struct{})
}

// put writes an entry as Consul does: what stays the same keeps its index. The
// caller holds mu.
func (t *Twin) put(k key, value any, holder cluster.Session) uint64 {
	old, found := t.state.entries[k]
	if found && old.value == value && old.holder == holder {
		return old.index
	}
	t.state.index++
	t.state.entries[k] = entry{value: value, holder: holder, index: t.state.index}
	t.changed()
	return t.state.index
}

// remove deletes an entry. The caller holds mu.
func (t *Twin) remove(k key) {
	if _, found := t.state.entries[k]; !found {
		return
	}
	t.state.index++
	delete(t.state.entries, k)
	t.state.deleted[k.cluster] = t.state.index
	t.changed()
}

// setMember writes a member and counts it as a change of its cluster's. The
// caller holds mu.
func (t *Twin) setMember(k memberKey, m member) {
	t.state.members[k] = m
	t.memberChanged(k.cluster)
}

func (t *Twin) memberChanged(name string) {
	t.state.index++
	t.state.roster[name] = t.state.index
	t.changed()
}

// removeMember takes a member out; its sessions end. The caller holds mu.
func (t *Twin) removeMember(k memberKey, at time.Time) {
	if _, found := t.state.members[k]; !found {
		return
	}
	delete(t.state.members, k)
	t.endSessionsOf(k, at)
	t.memberChanged(k.cluster)
}

func (t *Twin) endSessionsOf(k memberKey, at time.Time) {
	for _, id := range slices.Sorted(maps.Keys(t.state.sessions)) {
		if t.state.sessions[id].member == k {
			t.endSession(id, at)
		}
	}
}

// endSession frees what the session holds, which then is left alone for the
// session's delay, counted from at. The caller holds mu.
func (t *Twin) endSession(id cluster.Session, at time.Time) {
	ended, found := t.state.sessions[id]
	if !found {
		return
	}
	delete(t.state.sessions, id)
	t.state.index++
	for k, e := range t.state.entries {
		if e.holder == id {
			t.state.entries[k] = entry{value: e.value, index: t.state.index}
			t.delays[k] = at.Add(ended.delay)
		}
	}
	t.changed()
}

// advance lets happen what is due: checks and sessions that end, members that
// are forgotten, each at its own time. The caller holds mu.
func (t *Twin) advance(now time.Time) {
	for !t.down {
		at, happen := t.next()
		if happen == nil || at.After(now) {
			return
		}
		happen(at)
	}
}

// next finds what is due first; happen is nil where nothing ever is.
func (t *Twin) next() (at time.Time, happen func(time.Time)) {
	earlier := func(due time.Time) bool { return happen == nil || due.Before(at) }
	for k, m := range t.state.members {
		if earlier(m.due) {
			at, happen = m.due, func(at time.Time) { t.overdue(k, at) }
		}
	}
	for id, s := range t.state.sessions {
		if earlier(s.ends) {
			at, happen = s.ends, func(at time.Time) { t.endSession(id, at) }
		}
	}
	return at, happen
}

func (t *Twin) overdue(k memberKey, at time.Time) {
	m := t.state.members[k]
	if !m.Passing {
		t.removeMember(k, at)
		return
	}
	m.Passing, m.due = false, at.Add(forget)
	t.setMember(k, m)
	t.endSessionsOf(k, at)
}

// tableIndex is what Consul tells as the index of all keys of a cluster; where
// there are none, and none was deleted, it is that of all clusters.
func (t *Twin) tableIndex(name string) uint64 {
	index := t.state.deleted[name]
	for k, e := range t.state.entries {
		if k.cluster == name {
			index = max(index, e.index)
		}
	}
	if index > 0 {
		return index
	}
	for _, deleted := range t.state.deleted {
		index = max(index, deleted)
	}
	for _, e := range t.state.entries {
		index = max(index, e.index)
	}
	return max(index, 1)
}

func (t *Twin) table(name string) cluster.Table {
	var table cluster.Table
	for k, e := range t.state.entries {
		if k.cluster != name {
			continue
		}
		switch k.kind {
		case aRecord:
			record := recordOf(e)
			table.Record = &record
		case aPlacement:
			table.Placement = cluster.Placement{Value: []byte(valueOf[string](e)), Index: e.index}
		case aLeader:
			table.Leader = e.holder
		case aLock:
			table.Locks = append(table.Locks, cluster.ShardLock{
				Shard: k.shard, Holder: e.holder, Value: valueOf[cluster.LockValue](e), Index: e.index,
			})
		}
	}
	slices.SortFunc(table.Locks, func(x, y cluster.ShardLock) int { return cmp.Compare(x.Shard, y.Shard) })
	return table
}

func recordOf(e entry) cluster.Record {
	record := valueOf[cluster.Record](e)
	record.Index = e.index
	return record
}

// valueOf reads a value whose type follows from the entry's kind.
func valueOf[T any](e entry) T {
	v, _ := e.value.(T)
	return v
}

func (t *Twin) roster(name string) []cluster.Member {
	var list []cluster.Member
	for k, m := range t.state.members {
		if k.cluster == name {
			list = append(list, m.Member)
		}
	}
	slices.SortFunc(list, func(x, y cluster.Member) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), slices.Compare(x.Incarnation[:], y.Incarnation[:]))
	})
	return list
}

func (t *Twin) drawSession() cluster.Session {
	t.drawn++
	return cluster.Session(fmt.Sprintf("session-%d", t.drawn))
}
