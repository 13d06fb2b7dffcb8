package server

import (
	"slices"
	"sync"

	"github.com/quern-io/quern/handles"
)

// named is a session that streams have named, at a shard. The streams of one
// client mostly name the same sessions: they share what the shards remember of
// them, so that it stays in the processor's caches.
type named struct {
	memo    handles.Memo
	shard   uint32
	streams int // that have named it; guarded by names.mu
	id      string
}

// names are the sessions that streams have named. Its zero value is ready.
type names struct {
	mu  sync.Mutex
	all map[nameKey]*named
}

type nameKey struct {
	shard uint32
	id    string
}

// take returns the session for another stream, which has to release it.
func (n *names) take(shard uint32, id string) *named {
	key := nameKey{shard, id}
	n.mu.Lock()
	defer n.mu.Unlock()
	session := n.all[key]
	if session == nil {
		session = &named{id: id, shard: shard}
		if n.all == nil {
			n.all = make(map[nameKey]*named)
		}
		n.all[key] = session
	}
	session.streams++
	return session
}

// release gives a session back, nil for none. Its operations that are under way
// may use it further.
func (n *names) release(session *named) {
	if session == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if session.streams--; session.streams == 0 {
		delete(n.all, nameKey{session.shard, session.id})
	}
}

// forgetSides gives back the room for shards at which the stream has no session;
// who answers there is told again. It needs mu, and nothing may be under way.
func (s *stream) forgetSides() {
	for i, page := range s.sides.pages {
		if !slices.ContainsFunc(page, func(side shardSide) bool { return side.session != nil }) {
			s.sides.pages[i] = nil
		}
	}
}

// forgetSessions gives back what the stream has named. The reader calls it last.
func (s *stream) forgetSessions() {
	for _, page := range s.sides.pages {
		for i := range page {
			s.grains.names.release(page[i].session)
			page[i].session = nil
		}
	}
	for _, session := range s.speaks.refs {
		s.grains.names.release(session)
	}
	s.speaks.refs = nil
}
