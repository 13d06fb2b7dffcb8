package server

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/failure"
)

// The two refusals of a gate. They are single values, so that each transport
// can encode them once.
var (
	errStopping   = failure.New(failure.Stopping, "this node is ending; try another one")
	errOverloaded = failure.New(failure.Overloaded, "too many calls are under way on this node; slow down").
			After(100 * time.Millisecond)
)

// gate counts the calls under way on both listeners, refuses those above its
// limit and, once it is closed, all of them.
type gate struct {
	limit    int64
	inFlight atomic.Int64
	// waiting are the calls that may wait for others, such as for a lock. They
	// do not count in inFlight, so that they leave room for those others.
	waiting atomic.Int64
	closed  atomic.Bool
	// left has room for one signal: a call left after the gate was closed.
	left chan struct{}
}

// waitingLimit bounds the calls that may wait for others.
const waitingLimit = 131_072

// errManyWait refuses what would wait.
var errManyWait = failure.New(failure.Overloaded, "too many calls wait on this node; try again later").After(time.Second)

func newGate(limit int) *gate {
	return &gate{limit: int64(limit), left: make(chan struct{}, 1)}
}

// enter admits a call, which must leave later, or says why not. It never
// blocks. A call that was counted before the gate closed is waited for; one
// that was counted after it sees that it is closed, and goes.
func (g *gate) enter() *failure.Error {
	n := g.inFlight.Add(1)
	if n <= g.limit && !g.closed.Load() {
		return nil
	}
	g.leave()
	if g.closed.Load() {
		return errStopping
	}
	return errOverloaded
}

// enterAs is enter, or for what may wait, its counterpart.
func (g *gate) enterAs(waits bool) *failure.Error {
	if !waits {
		return g.enter()
	}
	n := g.waiting.Add(1)
	if n <= waitingLimit && !g.closed.Load() {
		return nil
	}
	g.waiting.Add(-1)
	if g.closed.Load() {
		return errStopping
	}
	return errManyWait
}

func (g *gate) leaveAs(waits bool) {
	if waits {
		g.waiting.Add(-1)
	} else {
		g.leave()
	}
}

// enterAhead admits n calls that are likely to come, or none of them. It leaves
// most of the gate to those that have come.
func (g *gate) enterAhead(n int64) bool {
	if g.inFlight.Load() >= g.limit/4 || g.closed.Load() {
		return false
	}
	if g.inFlight.Add(n) <= g.limit/2 && !g.closed.Load() {
		return true
	}
	g.leaveAll(n)
	return false
}

func (g *gate) leave() { g.leaveAll(1) }

// leaveAll is leave for several calls.
func (g *gate) leaveAll(n int64) {
	if g.inFlight.Add(-n) == 0 && g.closed.Load() {
		select {
		case g.left <- struct{}{}:
		default:
		}
	}
}

// drain waits until no call is under way. It returns how many still are when
// ctx ends. The gate must be closed; one caller at a time.
func (g *gate) drain(ctx context.Context) int64 {
	for {
		n := g.inFlight.Load()
		if n == 0 {
			return 0
		}
		select {
		case <-g.left:
		case <-ctx.Done():
			return n
		}
	}
}
