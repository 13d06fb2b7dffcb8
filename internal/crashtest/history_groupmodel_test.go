package crashtest

import "github.com/quern-io/quern/handles"

// groupKeys is how many counters and how many map entries a group has. It has
// one lock.
const groupKeys = 2

// groupState is what a group of keys holds, which are of one shard and change
// together in transactions.
type groupState struct {
	counters [groupKeys]int64
	entries  [groupKeys]entryState
	lock     lockState
}

// kinds of keys in a group.
type groupKind string

const (
	ofCounter groupKind = "counter"
	ofEntry   groupKind = "map"
	ofLock    groupKind = "lock"
)

// groupStep is a transaction, or a single operation, which is one without
// conditions. Where it was refused it says by what, counted from 1, and 0
// otherwise.
type groupStep struct {
	unknown   bool
	condition int
	operation int

	conditions []groupCondition
	operations []groupOperation
}

type groupOperation struct {
	kind groupKind
	key  int
	step
	bounded bool  // an add that most bounds
	most    int64 // what the counter may be after it
}

type groupCondition struct {
	kind    groupKind
	key     int
	is      handles.Comparison // of a counter
	value   int64
	number  uint64 // an entry's version, or a lock's token
	present int    // of an entry: 1 it is there, -1 it is not, 0 number is asked for
}

// groupModel carries a step out as a whole or not at all.
func groupModel(g groupState, s groupStep) (groupState, bool) {
	for i, c := range s.conditions {
		switch holds := g.holds(c); {
		case s.condition == i+1:
			return g, !holds
		case !holds:
			return g, s.unknown
		}
	}
	after := g
	for i, o := range s.operations {
		o.unknown = s.unknown || s.operation > 0 // what it answered is not told
		switch refused := after.refuses(o); {
		case s.operation == i+1:
			return g, refused
		case refused:
			return g, s.unknown
		}
		var ok bool
		if after, ok = after.apply(o); !ok {
			return g, false
		}
	}
	return after, s.condition == 0 && s.operation == 0
}

// holds says whether a condition does. A version that nobody has seen is none
// that anybody can ask for.
func (g groupState) holds(c groupCondition) bool {
	switch {
	case c.kind == ofLock:
		return g.lock.holder != "" && g.lock.token == c.number
	case c.kind == ofEntry && c.present != 0:
		return (g.entries[c.key].version != 0) == (c.present > 0)
	case c.kind == ofEntry:
		return g.entries[c.key].version == c.number
	}
	v := g.counters[c.key]
	switch c.is {
	case handles.Equal:
		return v == c.value
	case handles.NotEqual:
		return v != c.value
	case handles.Less:
		return v < c.value
	case handles.LessOrEqual:
		return v <= c.value
	case handles.Greater:
		return v > c.value
	default:
		return v >= c.value
	}
}

func (g groupState) refuses(o groupOperation) bool {
	return o.bounded && o.delta != 0 && g.counters[o.key]+o.delta > o.most
}

func (g groupState) apply(o groupOperation) (groupState, bool) {
	ok := true
	switch {
	case o.name == "get" && o.unknown:
	case o.kind == ofCounter:
		g.counters[o.key], ok = counterModel(g.counters[o.key], o.step)
	case o.kind == ofEntry:
		g.entries[o.key], ok = entryModel(g.entries[o.key], o.step)
	default:
		g.lock, ok = triedLockModel(g.lock, o.step)
	}
	return g, ok
}

// triedLockModel is a lock that nobody waits for, each try by an owner of its
// own.
func triedLockModel(l lockState, s step) (lockState, bool) {
	switch s.name {
	case "try":
		switch {
		case l.holder != "":
			return l, s.unknown || !s.held
		case s.unknown:
			l.holder, l.token = s.owner, unseen
			return l, true
		}
		ok := s.held && s.token > l.top
		l.holder, l.token, l.top = s.owner, s.token, s.token
		return l, ok
	case "release": // by token, or by owner
		own := l.holder == s.owner && (s.token == 0 || s.token == l.token)
		if own && (s.unknown || s.held) {
			return l.free(), true
		}
		return l, s.unknown || own == s.held
	case "get":
		if s.owner == "" {
			return l, l.holder == ""
		}
		now, ok := l.granted(s.token)
		return now, ok && now.holder == s.owner
	default:
		return l, false
	}
}
