package client

import (
	"context"
	"unicode/utf8"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// Invoke implements handles.Invoker. Besides what the operation itself can fail
// with it returns what the package's documentation lists.
func (c *Client) Invoke(ctx context.Context, op *handles.Operation) error {
	if err := check(op); err != nil {
		return err
	}
	if c.engine == nil {
		return c.unary(ctx, op)
	}
	if op.Method.Many {
		return c.many(ctx, op)
	}
	if err := ctx.Err(); err != nil {
		return contextEnded(err)
	}
	ops := [1]*handles.Operation{op}
	c.engine.run(ctx, ops[:])
	return op.Err
}

// InvokeAll implements handles.Batcher.
func (c *Client) InvokeAll(ctx context.Context, ops []*handles.Operation) {
	if c.engine == nil || !c.sendable(ctx, ops) {
		each := func(ctx context.Context, op *handles.Operation) error { return c.Invoke(ctx, op) }
		handles.InvokeAll(ctx, invoker(each), ops)
		return
	}
	if len(ops) > 0 {
		c.engine.run(ctx, ops)
	}
}

// invoker makes each operation a call of its own.
type invoker func(context.Context, *handles.Operation) error

// Invoke implements handles.Invoker.
func (f invoker) Invoke(ctx context.Context, op *handles.Operation) error { return f(ctx, op) }

// sendable reports whether all operations can go to the stream as they are.
func (*Client) sendable(ctx context.Context, ops []*handles.Operation) bool {
	for _, op := range ops {
		if op.Method.Many || check(op) != nil {
			return false
		}
	}
	return ctx.Err() == nil
}

// check refuses what cannot be sent.
func check(op *handles.Operation) error {
	if !utf8.ValidString(op.Key) {
		return failure.New(failure.InvalidKey, "the key is not valid UTF-8")
	}
	if !utf8.ValidString(op.IdempotencyKey) {
		return failure.New(failure.InvalidField, "the idempotency key is not valid UTF-8")
	}
	return nil
}
