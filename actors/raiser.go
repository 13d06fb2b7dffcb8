package actors

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// raiser makes new epochs durable, for many shards at a time, and tries until
// the store answers.
type raiser struct {
	rt    *Runtime
	mu    sync.Mutex
	queue []raiseRequest
	wake  chan struct{}
	group sync.WaitGroup
}

// raiseRequest is one shard that waits for its epoch. Where From is zero, the
// epoch rises until it is above the store's; else it is a compare-and-set, and
// finding another epoch means that the shard is lost.
type raiseRequest struct {
	shard      *shard
	activation uint64
	raise      Raise
}

// The pause between two attempts doubles from the one to the other.
const (
	raisePause    = 10 * time.Millisecond
	raisePauseMax = time.Second
)

func (r *raiser) enqueue(requests ...raiseRequest) {
	r.mu.Lock()
	r.queue = append(r.queue, requests...)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *raiser) start(ctx context.Context) {
	r.wake = make(chan struct{}, 1)
	r.group.Go(func() { r.raiseAll(ctx) })
}

func (r *raiser) raiseAll(ctx context.Context) {
	wait := raisePause
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		requests := r.queue
		r.queue = nil
		r.mu.Unlock()
		again, err := r.raise(ctx, requests)
		if err == nil {
			wait = raisePause
		} else {
			r.rt.log.WarnContext(ctx, "epochs not raised; trying again", slog.Int("shards", len(again)), slog.Any("err", err))
			if !pause(ctx, wait) {
				return
			}
			wait = min(2*wait, raisePauseMax)
		}
		if len(again) > 0 {
			r.enqueue(again...)
		}
	}
}

// raise asks the store once and returns the requests that are to be tried
// again.
func (r *raiser) raise(ctx context.Context, requests []raiseRequest) ([]raiseRequest, error) {
	raises := make([]Raise, len(requests))
	for i, q := range requests {
		raises[i] = q.raise
	}
	results, err := r.rt.store.Raise(ctx, raises)
	if err != nil {
		return requests, err
	}
	var again []raiseRequest
	for i, result := range results {
		q := requests[i]
		if !result.OK && q.raise.From == 0 {
			q.raise.Epoch = result.Epoch + 1
			again = append(again, q)
			continue
		}
		q.shard.box.post(func() { q.shard.raised(q, result) })
	}
	return again, nil
}
