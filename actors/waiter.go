package actors

import (
	"context"
	"sync/atomic"
)

// Waiter waits for several submitted operations on one goroutine. It may be
// left behind: what is answered later touches the Waiter alone.
type Waiter struct {
	sinks []sink
	// left counts the operations that were not answered, and one for Wait.
	left  atomic.Int32
	ended chan struct{}
	err   error // of those that Wait did not wait for
}

// sink is the completer of one operation. Whoever swaps in its state first,
// the completer or the Waiter that gives up, decides.
type sink struct {
	waiter *Waiter
	state  atomic.Uint32
	epoch  uint64
	err    error
}

// NewWaiter returns a Waiter for n operations, each of which must be submitted,
// or completed by its caller, before Wait.
func NewWaiter(n int) *Waiter {
	w := &Waiter{sinks: make([]sink, n), ended: make(chan struct{})}
	w.left.Store(int32(n) + 1) //nolint:gosec // as many as fit into memory
	for i := range w.sinks {
		w.sinks[i].waiter = w
	}
	return w
}

// For returns the completer of operation i.
func (w *Waiter) For(i int) Completer { return &w.sinks[i] }

// Completed implements [Completer].
func (s *sink) Completed(epoch uint64, err error) {
	s.epoch, s.err = epoch, err
	if s.state.CompareAndSwap(slotWaiting, slotAnswered) {
		s.waiter.arrive()
	}
}

func (w *Waiter) arrive() {
	if w.left.Add(-1) == 0 {
		close(w.ended)
	}
}

// Wait returns when all operations were answered, or ctx has ended. It reports
// whether some were left behind.
func (w *Waiter) Wait(ctx context.Context) (left bool) {
	w.arrive()
	select {
	case <-w.ended:
		return false
	default:
	}
	select {
	case <-w.ended:
		return false
	case <-ctx.Done():
		w.err = gaveUp(ctx)
		return true
	}
}

// Answer returns, after Wait, what became of operation i. One that was not
// answered has the error that Invoke gives to a caller who gives up; its
// messages are still in use.
func (w *Waiter) Answer(i int) (epoch uint64, err error) {
	s := &w.sinks[i]
	if s.state.CompareAndSwap(slotWaiting, slotAbandoned) {
		return 0, w.err
	}
	if s.state.Load() == slotAbandoned {
		return 0, w.err
	}
	return s.epoch, s.err
}
