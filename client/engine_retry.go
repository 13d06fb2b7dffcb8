package client

import (
	"math/rand/v2"
	"time"

	"github.com/quern-io/quern/failure"
)

// What follows an attempt that failed.

// failed decides what follows an attempt that was answered with an error.
func (e *engine) failed(c *call, err *failure.Error) {
	switch {
	case err.Reason == failure.SessionExpired && c.session != nil:
		e.expired(c, err)
		return
	case err.Outcome() == failure.Unknown && err.Reason != failure.Internal && c.repeatable():
		c.perhaps = true
	case !err.Retryable():
		e.answer(c, c.verdict(err))
		return
	}
	pause := e.pause(err, c.attempts)
	if time.Now().Add(pause).After(c.batch.patience) {
		e.answer(c, c.verdict(err))
		return
	}
	e.retry(c, pause, err)
}

// pause is how long to wait before another attempt. A node that is stopping asks
// for time that another one does not need.
func (e *engine) pause(err *failure.Error, attempts int) time.Duration {
	if err.Reason == failure.Stopping && e.elsewhere() {
		return jittered(attempts)
	}
	return max(err.RetryAfter, jittered(attempts))
}

// repeatable: another attempt cannot have a second effect.
func (c *call) repeatable() bool {
	return c.number != 0 || c.repeats() || !c.op.Method.Write
}

// verdict is what the caller is told. A refusal that the shard keeps is the
// first answer to the number; of any other one an earlier attempt, which may
// still arrive, knows nothing.
func (c *call) verdict(err *failure.Error) *failure.Error {
	if !c.perhaps || !c.op.Method.Write || err.Outcome() == failure.Unknown || kept(err.Reason) {
		return err
	}
	return failure.New(failure.OutcomeUnknown, "the operation perhaps happened; the last attempt failed: %s", err.Message)
}

// kept tells the refusals of a kind, which are remembered, from those of the
// machinery.
func kept(r failure.Reason) bool {
	switch r {
	case failure.Limit, failure.Overflow, failure.ConditionFailed, failure.NotHolder, failure.InvalidField, failure.InvalidKey,
		failure.IDReused, failure.FencedToken, failure.CrossShard:
		return true
	default:
		return false
	}
}

// expired handles a session that the shard does not know. Nothing was applied
// by this attempt: what was never sent before is sent under a new session.
func (e *engine) expired(c *call, err *failure.Error) {
	if s := c.session; s.id == c.sentAs && s.state == sessionOpen {
		s.forget()
	}
	c.number, c.sentAs = 0, ""
	if c.perhaps || time.Now().After(c.batch.patience) {
		e.answer(c, c.verdict(err))
		return
	}
	if c.attempts > 1 { // a session that is forgotten as soon as it is used
		e.retry(c, jittered(c.attempts), err)
		return
	}
	e.begin(c)
}

// retry tries a call again after a pause.
func (e *engine) retry(c *call, pause time.Duration, err error) {
	c.state, c.batch.reused = callDelayed, false
	if hook := e.options.Hooks.Retried; hook != nil {
		hook(c.op.Method.Procedure, err)
	}
	e.after(pause, c, func() {
		if c.state == callDelayed {
			e.begin(c)
		}
	})
}

// after runs f, under mu, after a pause, unless the engine is closed. c is the
// call that waits for it, if it is one.
func (e *engine) after(pause time.Duration, c *call, f func()) {
	var t *time.Timer
	t = time.AfterFunc(pause, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.timers, t)
		if !e.closed {
			f()
			e.kick()
		}
	})
	e.timers[t] = c
}

// jittered is a pause that grows with the attempts, give or take a half.
func jittered(attempts int) time.Duration {
	pause := min(firstPause<<min(attempts-1, 16), lastPause)
	return pause/2 + rand.N(pause) //nolint:gosec // no secret
}
