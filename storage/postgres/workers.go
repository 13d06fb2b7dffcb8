package postgres

import (
	"context"
	"sync"
)

// workers counts the calls that are under way, and takes none after wait.
type workers struct {
	mu     sync.Mutex
	n      int
	ending bool
	idle   chan struct{} // closed when ending and n is 0
}

func (w *workers) init() { w.idle = make(chan struct{}) }

func (w *workers) add() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ending {
		return false
	}
	w.n++
	return true
}

func (w *workers) done() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n--
	if w.ending && w.n == 0 {
		close(w.idle)
	}
}

// wait returns when no call is under way any more, or when ctx ends. It is
// called once.
func (w *workers) wait(ctx context.Context) error {
	w.mu.Lock()
	w.ending = true
	if w.n == 0 {
		close(w.idle)
	}
	w.mu.Unlock()
	select {
	case <-w.idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
