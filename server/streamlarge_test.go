package server_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// TestLargeRepliesAreBounded: operations of one frame whose replies are large
// are not begun for a client that reads none of them, beyond what the buffers
// of both ends and of the system take.
func TestLargeRepliesAreBounded(t *testing.T) { overBoth(t, largeRepliesAreBounded) }

func largeRepliesAreBounded(t *testing.T, converse converser) {
	t.Helper()
	const (
		writeTimeout = time.Second
		asked        = 2000
		most         = 320 // of 64 KiB: 20 MiB
	)
	answer := answerLarge(make([]byte, 64<<10))
	var begun, last, before atomic.Int64 // before: what was begun before the first pause
	started := time.Now()
	s := start(t, &fake{answer: func(ctx context.Context, op *handles.Operation) error {
		now := int64(time.Since(started))
		if then := last.Swap(now); then != 0 && time.Duration(now-then) > writeTimeout/2 {
			before.CompareAndSwap(0, begun.Load())
		}
		begun.Add(1)
		return answer(ctx, op)
	}}, func(c *server.Config) { c.WriteTimeout = writeTimeout })
	k := converse(t, s)
	k.say(readsOf(t, asked))
	for k.trySay(&quernv1.GrainServiceStreamRequest{}) == nil && time.Since(started) < testTimeout { //nolint:revive // until it is cut off
	}
	if n := begun.Load(); before.Load() == 0 {
		before.Store(n)
	}
	if n := before.Load(); n == 0 || n > most {
		t.Errorf("%d operations were begun for a client that reads nothing", n)
	}
}
