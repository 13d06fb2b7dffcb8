package handles

import (
	"bytes"
	"context"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// The methods that watch.
var (
	CounterWatch = &WatchMethod{
		Method:  counterMethod("Watch", false),
		Request: func(key string) proto.Message { return &quernv1.CounterServiceWatchRequest{Key: key} },
		Message: func() WatchMessage { return new(quernv1.CounterServiceWatchResponse) },
	}
	MapWatch = &WatchMethod{
		Method:  mapMethod("Watch", false),
		Request: func(key string) proto.Message { return &quernv1.MapServiceWatchRequest{Key: key} },
		Message: func() WatchMessage { return new(quernv1.MapServiceWatchResponse) },
	}
	LockWatch = &WatchMethod{
		Method:  lockMethod("Watch", false),
		Request: func(key string) proto.Message { return &quernv1.LockServiceWatchRequest{Key: key} },
		Message: func() WatchMessage { return new(quernv1.LockServiceWatchResponse) },
	}
)

// LockHolding is the method that holds a lock for as long as its call lasts. It is
// a node's own: over the network a [Lease] of the client does the same.
var LockHolding = &WatchMethod{
	Method:  lockMethod("Hold", true),
	Request: func(key string) proto.Message { return &quernv1.LockServiceHoldRequest{Key: key} },
	Message: func() WatchMessage { return new(quernv1.LockServiceHoldResponse) },
}

// CounterEvent is a counter as a watch saw it.
type CounterEvent struct {
	Place
	// Value is 0 where the counter is absent.
	Value int64
	// Found is false where it was never written, was reset or has expired.
	Found bool
	// TTL is what was left until the counter expires; 0 where it does not.
	TTL time.Duration
}

// Watch returns the counter's value and then its changes, until ctx ends or the
// loop is left. Of changes that come faster than they are read only the last is
// seen; what is seen is durable. Over a restart or a move of the counter the
// watch goes on by itself, with the value that is then present. It ends with an
// error: CANCELED or DEADLINE_EXCEEDED with ctx, STOPPING where the node in
// this process ends, OVERLOADED where there are too many watchers.
func (c Counter) Watch(ctx context.Context) iter.Seq2[CounterEvent, error] {
	return watch(ctx, c.to, CounterWatch, c.key, func(m *quernv1.CounterServiceWatchResponse) CounterEvent {
		e := m.GetEvent()
		return CounterEvent{placeOf(m), e.GetValue(), e.GetFound(), e.GetTtl().AsDuration()}
	})
}

// MapEvent is a map entry as a watch saw it.
type MapEvent struct {
	Place
	MapValue
}

// Watch returns what the entry holds and then its changes; see [Counter.Watch].
// An entry that was deleted or has expired is a change, to one that is not
// found.
func (m MapEntry) Watch(ctx context.Context) iter.Seq2[MapEvent, error] {
	return watch(ctx, m.to, MapWatch, m.key, func(m *quernv1.MapServiceWatchResponse) MapEvent {
		e := m.GetEvent()
		// On a node the bytes are the entry's own.
		return MapEvent{placeOf(m), MapValue{bytes.Clone(e.GetValue()), e.GetVersion(), e.GetTtl().AsDuration()}}
	})
}

// LockEvent is a lock as a watch saw it.
type LockEvent struct {
	Place
	Held bool
	// Permits is 0 where nobody holds the lock or waits for it.
	Permits uint32
	// Holds is how many hold it, Waiters how many wait.
	Holds, Waiters int
	// Holders are the first 100 who hold it.
	Holders []LockHold
}

// LockHold is one hold of a lock.
type LockHold struct {
	Owner  string
	Token  uint64
	Shared bool
	// TTL is what was left of the lease, which a renewal makes longer without
	// an event.
	TTL time.Duration
}

// Watch returns who holds the lock and then how that changes; see
// [Counter.Watch]. Renewals are no changes.
func (l Lock) Watch(ctx context.Context) iter.Seq2[LockEvent, error] {
	return watch(ctx, l.to, LockWatch, l.key, func(m *quernv1.LockServiceWatchResponse) LockEvent {
		e := m.GetEvent()
		seen := LockEvent{
			Place: placeOf(m), Held: e.GetHeld(), Permits: e.GetPermits(),
			Holds: int(e.GetHolds()), Waiters: int(e.GetWaiters()),
		}
		for _, h := range e.GetHolders() {
			seen.Holders = append(seen.Holders, LockHold{h.GetOwner(), h.GetToken(), h.GetShared(), h.GetTtl().AsDuration()})
		}
		return seen
	})
}
