package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// sink is where a watch's events go, on whatever transport. Send may block as
// long as the client does not read; meanwhile events replace each other.
type sink interface {
	Send(e *handles.Event) error
}

// sharedMessage is the message of an event in a form that the codecs know: it is
// encoded once for all who watch the key.
type sharedMessage struct {
	proto.Message

	event *handles.Event
}

func shared(e *handles.Event) *sharedMessage { return &sharedMessage{e.Message(), e} }

// encoded returns the message as it goes over the wire.
func (m *sharedMessage) encoded(encoding string, encode func(proto.Message) ([]byte, error)) ([]byte, error) {
	return m.event.Encoded(encoding, encode) //nolint:wrapcheck // of the codec
}

// watchTable bounds the watches of a server, and ends them with it.
type watchTable struct {
	limit, perConn int

	mu     sync.Mutex // guards what follows
	open   map[*openWatch]struct{}
	conns  map[string]int // watches of a connection, by its client's address
	closed bool
}

type openWatch struct {
	conn string
	end  context.CancelCauseFunc
}

var (
	errManyWatches = failure.New(failure.Overloaded, "this node has as many watches as it takes").After(time.Second)
	errConnWatches = failure.New(failure.Overloaded, "this connection has as many watches as one may have; open another one").After(time.Second)
)

func newWatchTable(limit, perConn int) *watchTable {
	return &watchTable{limit: limit, perConn: perConn, open: make(map[*openWatch]struct{}), conns: make(map[string]int)}
}

// enter counts a watch, which must leave later, or says why there can be none.
func (t *watchTable) enter(w *openWatch) *failure.Error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return errStopping
	case len(t.open) >= t.limit:
		return errManyWatches
	case t.conns[w.conn] >= t.perConn:
		return errConnWatches
	}
	t.open[w] = struct{}{}
	t.conns[w.conn]++
	return nil
}

func (t *watchTable) leave(w *openWatch) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, w)
	if t.conns[w.conn]--; t.conns[w.conn] == 0 {
		delete(t.conns, w.conn)
	}
}

// close ends all watches with STOPPING and refuses further ones.
func (t *watchTable) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for w := range t.open {
		w.end(errStopping)
	}
}

func (t *watchTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}

// watchCaller runs the watches of one method on one transport.
type watchCaller struct {
	*caller

	method *handles.WatchMethod
	// serve does the work of an admitted call.
	serve func(ctx context.Context, b Backend, c *watchCaller, in keyedMessage, to sink) error
}

func watching(on func(*handles.Method) *caller, m *handles.WatchMethod) *watchCaller {
	return &watchCaller{on(m.Method), m, serveEvents}
}

// sendError is a failure of the transport, which the client does not hear of.
type sendError struct{ error }

// watch sends what there is to tell of a key until the client leaves, the
// backend ends the watch or the server stops. conn is the address of the client's
// connection.
func (c *watchCaller) watch(ctx context.Context, conn string, in keyedMessage, to sink) error {
	if refused := c.meant(ctx); refused != nil {
		c.metrics.fail(refused.Reason)
		return c.face.fail(ctx, refused)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	open := &openWatch{conn: conn, end: cancel}
	if refused := c.watches.enter(open); refused != nil {
		c.metrics.fail(refused.Reason)
		return c.face.fail(ctx, refused)
	}
	defer c.watches.leave(open)
	err := c.guarded(ctx, workFunc(func(ctx context.Context, b Backend) error { return c.serve(ctx, b, c, in, to) }))
	return c.ended(ctx, err)
}

// serveEvents sends the events of a key.
func serveEvents(ctx context.Context, b Backend, c *watchCaller, in keyedMessage, to sink) error {
	told := false
	w := &handles.Watch{Method: c.method, Key: in.GetKey(), Idle: c.heartbeat, Hops: watchHops(ctx)}
	tell := func() {
		if !told && w.Origin.Node != "" {
			c.face.answered(ctx, w.Origin)
			told = true
		}
	}
	w.Each = func(e *handles.Event) error {
		tell()
		if err := to.Send(e); err != nil {
			return sendError{err}
		}
		return nil
	}
	err := b.Watch(ctx, w)
	tell()
	return err //nolint:wrapcheck // mapped by its caller
}

// ended counts the end of a watch and says it in the transport's form.
func (c *watchCaller) ended(ctx context.Context, err error) error {
	if lost, ok := errors.AsType[sendError](err); ok {
		c.metrics.ok.Inc() // the client has left
		return lost.error
	}
	e := c.failure(ctx, c.method.Procedure, err)
	if e.Reason == failure.Canceled {
		c.metrics.ok.Inc()
	} else {
		c.metrics.fail(e.Reason)
	}
	return c.face.fail(ctx, e)
}
