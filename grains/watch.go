package grains

import (
	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// What watchers are told of each kind.
var (
	_ actors.Watchable = (*counter)(nil)
	_ actors.Watchable = (*entry)(nil)
	_ actors.Watchable = (*lock)(nil)
)

// Event implements actors.Watchable.
func (c *counter) Event(at handles.Place, now int64) handles.WatchMessage {
	e := &quernv1.CounterEvent{Value: c.value, Found: *c != counter{}}
	if c.expires != 0 {
		e.Ttl = duration(max(0, c.expires-now))
	}
	return &quernv1.CounterServiceWatchResponse{Epoch: at.Epoch, Sequence: at.Sequence, Event: e}
}

// Event implements actors.Watchable. The event shares the value, which is never
// changed.
func (e *entry) Event(at handles.Place, now int64) handles.WatchMessage {
	seen := &quernv1.MapEvent{Value: e.value, Version: e.version, Found: e.version != 0}
	if e.expires != 0 {
		seen.Ttl = duration(max(0, e.expires-now))
	}
	return &quernv1.MapServiceWatchResponse{Epoch: at.Epoch, Sequence: at.Sequence, Event: seen}
}

// watchedHolders bounds the list in an event, which is made with each commit.
const watchedHolders = 100

// Event implements actors.Watchable.
func (l *lock) Event(at handles.Place, now int64) handles.WatchMessage {
	seen := &quernv1.LockEvent{Held: l.holders.n > 0, Permits: l.permits, Holds: l.holders.n, Waiters: l.queue.n}
	for e := l.holders.first; e != nil && len(seen.GetHolders()) < watchedHolders; e = e.next {
		left := e.due - now
		if e.state == granted || l.reloaded {
			left = e.ttl // it runs from the confirmation, or from the first turn
		}
		seen.Holders = append(seen.Holders, &quernv1.LockHolder{
			Owner: e.owner, Token: e.token, Shared: e.shared, Ttl: duration(max(0, left)), Unconfirmed: e.state == granted,
		})
	}
	return &quernv1.LockServiceWatchResponse{Epoch: at.Epoch, Sequence: at.Sequence, Event: seen}
}
