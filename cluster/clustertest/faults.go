package clustertest

import (
	"time"

	"github.com/quern-io/quern/cluster"
)

// Stall makes all requests hang from now on, also those under way that wait
// for news. A request ends with its context, and a write that was given up is
// carried out by Resume all the same, as a request that was long under way.
func (t *Twin) Stall() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stall == nil {
		t.stall = make(chan struct{})
		t.changed()
	}
}

// Resume ends Stall.
func (t *Twin) Resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stall == nil {
		return
	}
	close(t.stall)
	t.stall = nil
	t.advance(time.Now())
	for _, carryOut := range t.late {
		carryOut()
	}
	t.late = nil
}

// Stop ends the server and its agent: requests fail, nothing ends or is
// forgotten meanwhile. What is kept, is kept.
func (t *Twin) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(time.Now())
	t.down = true
	t.changed()
}

// Start ends Stop. Lock-delays are forgotten, sessions have a whole TTL again,
// and members whose check ran out meanwhile do not pass, with what follows.
func (t *Twin) Start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.down {
		return
	}
	now := time.Now()
	t.down = false
	clear(t.delays)
	t.restartTimers(now)
	for k, m := range t.state.members {
		if m.due.Before(now) {
			m.due = now
			t.state.members[k] = m
		}
	}
	t.advance(now)
}

// restartTimers gives each session a whole TTL, as a new leader does.
func (t *Twin) restartTimers(now time.Time) {
	for id, s := range t.state.sessions {
		s.ends = now.Add(sessionGrace * cluster.SessionTTL)
		t.state.sessions[id] = s
	}
}

// Snapshot is what Twin.Restore takes.
type Snapshot struct{ state state }

// Snapshot copies the state.
func (t *Twin) Snapshot() Snapshot {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(time.Now())
	return Snapshot{t.state.clone()}
}

// Restore replaces the state. Entries have their old indexes again, sessions
// that had ended hold what they held, lock-delays are forgotten. The index of
// the next write is above all that there ever was. Members are the agent's, so
// those of now stay.
func (t *Twin) Restore(s Snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.advance(now)
	last, members, roster := t.state.index, t.state.members, t.state.roster
	t.state = s.state.clone()
	t.state.index, t.state.members, t.state.roster = last+1, members, roster
	t.replaced(now)
}

// Empty replaces server and agent by new ones: no entry, no session, no member,
// and indexes from the start.
func (t *Twin) Empty() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = emptyState(firstIndex)
	t.replaced(time.Now())
}

func (t *Twin) replaced(now time.Time) {
	t.life++
	clear(t.delays)
	t.restartTimers(now)
	t.changed()
}

// DeleteLock deletes a lock by hand, whoever holds it. No lock-delay follows.
func (t *Twin) DeleteLock(name string, shard uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(time.Now())
	t.remove(key{cluster: name, kind: aLock, shard: shard})
}

// EndSession ends a session by hand.
func (t *Twin) EndSession(s cluster.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.advance(now)
	t.endSession(s, now)
}

// Requests is how many requests were made so far: each transaction of a call,
// and each watch, is one.
func (t *Twin) Requests() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.request
}
