package routing_test

import (
	"errors"
	"testing"
	"time"

	"github.com/quern-io/quern/failure"
)

// TestGivenUpAfterAMove: a wait that this node has refused inside the call, while
// it gave the shard away, is given up where it waits by then.
func TestGivenUpAfterAMove(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	key := keyOf(0, 0)
	w.mu.Lock()
	w.lock(key).held = true
	w.mu.Unlock()
	a.local.moving.Store(true)
	ended := make(chan error, 1)
	cancel := a.SubmitWait(acquireOf(key), time.Time{}, completer(func(_ uint64, err error) { ended <- err }))
	w.give("b", 0)
	until(t, func() bool { return w.waiters(key) == 1 })
	cancel(true)
	if err := <-ended; !errors.Is(err, failure.Canceled) {
		t.Errorf("given up: %v", err)
	}
	until(t, func() bool { return w.waiters(key) == 0 })
}
