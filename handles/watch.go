package handles

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/quern-io/quern/failure"
)

// WatchHeartbeat is how often a node tells a watcher over the network that
// nothing has changed.
const WatchHeartbeat = 10 * time.Second

// Watcher is an Invoker on which keys can be watched.
type Watcher interface {
	// Watch tells w.Each of a key and then of its changes, until ctx ends or
	// Each returns an error. It begins anew by itself where a watch ends for
	// a while. It returns the error of Each as it is, else a *failure.Error.
	Watch(ctx context.Context, w *Watch) error
}

// WatchMethod is a method that answers with events.
type WatchMethod struct {
	*Method
	// Request returns the request that watches a key.
	Request func(key string) proto.Message
	// Message returns an empty answer.
	Message func() WatchMessage
}

// Watch is one watch of one key.
type Watch struct {
	Method *WatchMethod
	Key    string
	// Idle, where not 0, is the time without an event after which Each gets a
	// heartbeat.
	Idle time.Duration
	// Each takes the events, one after the other, in rising order of their
	// places. While it runs, changes replace each other: the next event is
	// the last one.
	Each func(*Event) error
	// Origin is filled in as far as known before Each is called.
	Origin Origin
	// Hops is how many nodes have passed the watch on.
	Hops uint32
}

// WatchMessage is an answer to a watch: an event or a heartbeat.
type WatchMessage interface {
	proto.Message
	// GetEpoch and GetSequence are the place of the event, the epoch first.
	GetEpoch() uint64
	GetSequence() uint64
}

// Event is what the watchers of a key are told at one time. It is shared by all
// of them, immutable, and safe for concurrent use.
type Event struct {
	message   WatchMessage
	heartbeat func() *Event

	mu      sync.Mutex
	encoded map[string][]byte // by encoding; guarded by mu
}

// NewEvent returns an event of a message, which must not be changed any more.
func NewEvent(message WatchMessage) *Event {
	e := &Event{message: message}
	e.heartbeat = sync.OnceValue(func() *Event { return NewEvent(heartbeatOf(message)) })
	return e
}

// Message returns the message, which is to be read only.
func (e *Event) Message() WatchMessage { return e.message }

// Heartbeat returns an event of the same place that tells nothing.
func (e *Event) Heartbeat() *Event { return e.heartbeat() }

// heartbeatOf returns a message with nothing but the place of another one.
func heartbeatOf(message WatchMessage) WatchMessage {
	from := message.ProtoReflect()
	beat := from.New()
	for _, name := range [...]protoreflect.Name{"epoch", "sequence"} {
		if field := from.Descriptor().Fields().ByName(name); field != nil {
			beat.Set(field, from.Get(field))
		}
	}
	empty, ok := beat.Interface().(WatchMessage)
	if !ok {
		return message // never: it is of the message's type
	}
	return empty
}

// Encoded returns the message in an encoding, which encode does for the first
// one who asks. The bytes are to be read only.
func (e *Event) Encoded(encoding string, encode func(proto.Message) ([]byte, error)) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if b, ok := e.encoded[encoding]; ok {
		return b, nil
	}
	b, err := encode(e.message)
	if err != nil {
		return nil, err
	}
	if e.encoded == nil {
		e.encoded = make(map[string][]byte, 1)
	}
	e.encoded[encoding] = b
	return b, nil
}

// After reports whether e comes after another event of its key; every event
// comes after none.
func (e *Event) After(other *Event) bool {
	if other == nil {
		return true
	}
	a, b := e.message, other.message
	if a.GetEpoch() != b.GetEpoch() {
		return a.GetEpoch() > b.GetEpoch()
	}
	return a.GetSequence() > b.GetSequence()
}

// The pause before a watch is begun anew doubles from the one to the other.
const (
	leastWatchPause = 10 * time.Millisecond
	mostWatchPause  = time.Second
)

// Rewatch runs watches by once, one after the other, until ctx ends or one has
// ended for good: by Each, by a refusal of the first one, or by what final is
// true for. Each gets what comes after all that it got, and no heartbeats.
func Rewatch(ctx context.Context, w *Watch, once func(context.Context, *Watch) error, final func(error) bool) error {
	var last *Event
	var said error // by Each
	pause := leastWatchPause
	inner := *w
	inner.Each = func(e *Event) error {
		pause = leastWatchPause
		if !e.After(last) {
			return nil
		}
		last, w.Origin = e, inner.Origin
		said = w.Each(e)
		return said
	}
	for {
		err := once(ctx, &inner)
		w.Origin = inner.Origin
		if said != nil {
			return said
		}
		if ctx.Err() != nil || final(err) || !watchAgain(err, last != nil) {
			return err
		}
		if !rested(ctx, pause, err) {
			return WatchEnded(ctx)
		}
		pause = min(2*pause, mostWatchPause)
	}
}

// watchAgain reports whether another watch can go better than one that ended
// with err. A watch that never had an event is told why there is none, unless
// another moment or node is all that it needs.
func watchAgain(err error, begun bool) bool {
	e, ok := errors.AsType[*failure.Error](err)
	if !ok {
		return false
	}
	switch e.Reason {
	case failure.NotOwner, failure.Moving, failure.Stopping, failure.Unreachable:
		return true
	case failure.OutcomeUnknown:
		return begun
	default:
		return begun && e.Retryable()
	}
}

// rested waits for about the pause, so that not all come back at the same time,
// or for what err asks; false where ctx ended.
func rested(ctx context.Context, pause time.Duration, err error) bool {
	if e, ok := errors.AsType[*failure.Error](err); ok {
		pause = max(pause, min(e.RetryAfter, mostWatchPause))
	}
	timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // chance is enough
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// WatchEnded says that a watch ended with its context: by what the context was
// cancelled with, where that is a *failure.Error.
func WatchEnded(ctx context.Context) error {
	cause := context.Cause(ctx)
	if e, ok := errors.AsType[*failure.Error](cause); ok {
		return e
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		return failure.Wrap(cause, failure.DeadlineExceeded, "the watch ended with its deadline")
	}
	return failure.Wrap(cause, failure.Canceled, "the watch was ended by its caller")
}

// errLeft ends a watch whose reader wants no more.
var errLeft = errors.New("handles: the reader has left")

// watch returns the events of a key as an iterator. After an error it ends.
func watch[M WatchMessage, E any](ctx context.Context, to Invoker, method *WatchMethod, key string, event func(M) E) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		var none E
		watcher, ok := to.(Watcher)
		if !ok {
			yield(none, failure.New(failure.UnknownMethod, "%T cannot watch", to))
			return
		}
		err := watcher.Watch(ctx, &Watch{Method: method, Key: key, Each: func(e *Event) error {
			if m, ok := e.Message().(M); ok && !yield(event(m), nil) {
				return errLeft
			}
			return nil
		}})
		if !errors.Is(err, errLeft) {
			yield(none, err)
		}
	}
}

// Place orders the events of a key, by the epoch first. It rises over restarts
// and moves, too.
type Place struct{ Epoch, Sequence uint64 }

func placeOf(m WatchMessage) Place { return Place{m.GetEpoch(), m.GetSequence()} }
