package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// face is what differs between the transports. Implementations are safe for
// concurrent use.
type face interface {
	// answered tells the client who answered. It is called at most once per
	// call, before the reply or the failure.
	answered(ctx context.Context, o handles.Origin)
	// fail returns the failure in the transport's form.
	fail(ctx context.Context, e *failure.Error) error
}

// core is what all calls share. It does not change after New.
type core struct {
	backend Backend
	log     *slog.Logger
	gate    *gate
	watches *watchTable
	// heartbeat is the time without an event after which a watcher is told
	// that nothing has changed.
	heartbeat time.Duration
}

// caller runs the calls of one method on one transport.
type caller struct {
	*core
	face    face
	method  *handles.Method
	metrics *methodMetrics
}

// unary is a call and the reply that it points to, in one allocation.
type unary[R any] struct {
	op    handles.Operation
	reply R
}

// keyed is what all requests on a key have.
type keyed interface{ GetKey() string }

// once is what requests of writes have.
type once interface{ GetIdempotencyKey() string }

// work is what a call wants from the backend. It is an interface and no
// function, since a closure would cost every call an allocation.
type work interface {
	run(ctx context.Context, b Backend) error
}

type workFunc func(ctx context.Context, b Backend) error

func (f workFunc) run(ctx context.Context, b Backend) error { return f(ctx, b) }

// run admits a call, does its work and maps what comes of it. The work sets
// the origin as far as it becomes known.
func (c *caller) run(ctx context.Context, origin *handles.Origin, w work) error {
	if refused := c.gate.enterAs(c.method.Waits); refused != nil {
		c.metrics.fail(refused.Reason)
		return c.face.fail(ctx, refused)
	}
	defer c.gate.leaveAs(c.method.Waits)
	begin := time.Now()
	err := c.guarded(ctx, w)
	c.metrics.seconds.Update(time.Since(begin).Seconds())
	if origin.Node != "" {
		c.face.answered(ctx, *origin)
	}
	if err == nil {
		c.metrics.ok.Inc()
		return nil
	}
	e := c.failure(ctx, c.method.Procedure, err)
	c.metrics.fail(e.Reason)
	return c.face.fail(ctx, e)
}

// guarded does the work unless the deadline has passed, and turns a panic into
// an error: a defect in one call must not end the process.
func (c *caller) guarded(ctx context.Context, w work) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{value: p, stack: debug.Stack()}
		}
	}()
	return w.run(ctx, c.backend)
}

// panicked is a panic in the backend.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// failure turns any error into the one type that clients see. What the
// backend should not have returned is logged here; the client learns only
// that there is something to be found in the log.
func (c *core) failure(ctx context.Context, procedure string, err error) *failure.Error {
	var (
		e *failure.Error
		p *panicked
	)
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return failure.Wrap(err, failure.DeadlineExceeded, "the deadline passed before the reply was there")
	case errors.Is(err, context.Canceled):
		return failure.Wrap(err, failure.Canceled, "the caller gave up before the reply was there")
	case errors.As(err, &p):
		c.log.ErrorContext(ctx, "panic in a call", slog.String("method", procedure),
			slog.Any("err", p.value), slog.String("stack", string(p.stack)))
	default:
		c.log.ErrorContext(ctx, "call failed for an internal reason", slog.String("method", procedure),
			slog.Any("err", err))
	}
	return failure.Wrap(err, failure.Internal, "internal error; the node's log says more")
}
