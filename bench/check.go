package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// How long one key is tried again: before the load a target that does not
// answer is soon given up, after it a restart is waited out.
const (
	patienceBefore = 3 * time.Second
	patienceAfter  = 30 * time.Second
	readTimeout    = 10 * time.Second
	firstBackoff   = 10 * time.Millisecond
	lastBackoff    = time.Second
)

// ErrKeysUsed is returned where a workload that needs new keys was given a
// prefix whose keys have values.
var ErrKeysUsed = errors.New("bench: keys under this prefix have values")

// sweep calls f for keys 0 to n-1, many at a time, until one fails. It calls
// progress about once a second from one goroutine.
func (g *generator) sweep(ctx context.Context, n int, phase string, f func(ctx context.Context, k int) error) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.CheckTimeout)
	defer cancel()
	var next, done atomic.Int64
	var all sync.WaitGroup
	var once sync.Once
	var first error
	defer g.report(func() Progress {
		return Progress{Phase: phase, Done: float64(done.Load()) / float64(max(n, 1))}
	})()
	for range min(g.cfg.Concurrency, n) {
		all.Go(func() {
			for k := next.Add(1) - 1; k < int64(n) && ctx.Err() == nil; k = next.Add(1) - 1 {
				if err := f(ctx, int(k)); err != nil {
					once.Do(func() { first = err })
					cancel()
					return
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	if first == nil && done.Load() < int64(n) {
		first = context.Cause(ctx)
	}
	return first
}

// report calls Config.Progress now and once a second until the returned
// function is called, which waits for its goroutine.
func (g *generator) report(state func() Progress) (stop func()) {
	if g.cfg.Progress == nil {
		return func() {}
	}
	quit := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		ticks := time.NewTicker(time.Second)
		defer ticks.Stop()
		for {
			g.cfg.Progress(state())
			select {
			case <-ticks.C:
			case <-quit:
				return
			}
		}
	})
	return func() {
		close(quit)
		done.Wait()
	}
}

// prepare reads every key, and gives one to those that need a value.
func (g *generator) prepare(ctx context.Context) error {
	switch {
	case g.entries != nil:
		return g.prepareEntries(ctx)
	case g.locks != nil:
		return g.prepareLocks(ctx)
	}
	if g.cfg.workload.fresh {
		v, err := g.read(ctx, 0, patienceBefore)
		if err == nil && v != 0 {
			err = fmt.Errorf("%w: %s is %d", ErrKeysUsed, g.keys.name(0), v)
		}
		return err
	}
	if g.cfg.workload.prefill {
		g.ledger.filled = make([]bool, g.cfg.Keys)
	}
	return g.sweep(ctx, g.cfg.Keys, "prepare", func(ctx context.Context, k int) error {
		v, err := g.read(ctx, k, patienceBefore)
		if err != nil {
			return err
		}
		g.ledger.open(k, v)
		if g.cfg.workload.prefill && v == 0 {
			return g.fill(ctx, k)
		}
		return nil
	})
}

// fill gives key k a value that tells it from others.
func (g *generator) fill(ctx context.Context, k int) error {
	value := int64(k) + 1
	err := again(ctx, patienceBefore, func(ctx context.Context) error {
		_, err := handles.NewCounter(g.cfg.Target, g.keys.name(k)).Set(ctx, value)
		return err
	})
	if err != nil {
		return fmt.Errorf("bench: setting %s: %w", g.keys.name(k), err)
	}
	g.ledger.open(k, value)
	g.ledger.filled[k] = true
	return nil
}

// verify reads every key back, compares, and lets those expire that were empty
// before the run.
func (g *generator) verify(ctx context.Context) (t tally, unread int, err error) {
	switch {
	case g.entries != nil:
		return g.verifyEntries(ctx)
	case g.locks != nil:
		return g.verifyLocks(ctx)
	}
	n := g.used()
	after, read := make([]int64, n), make([]bool, n)
	err = g.sweep(ctx, n, "check", func(ctx context.Context, k int) error {
		v, err := g.read(ctx, k, patienceAfter)
		if err != nil {
			return err
		}
		after[k], read[k] = v, true
		return nil
	})
	for k := range n {
		before, acked, unknown := g.ledger.key(k)
		if !read[k] {
			t.acked += acked
			unread++
			continue
		}
		t.compare(before, acked, unknown, after[k])
	}
	if g.cfg.workload.oneKey && err == nil {
		g.checkedAll = findRepeats(g.ledger.before[0], g.replies, g.broken)
	}
	return t, unread, err
}

// expire lets the keys that this run made go after an hour.
func (g *generator) expire(ctx context.Context) error {
	return g.sweep(ctx, g.used(), "expire", func(ctx context.Context, k int) error {
		if !g.made(k) {
			return nil
		}
		if g.entries != nil {
			return g.expireEntry(ctx, k)
		}
		return again(ctx, patienceBefore, func(ctx context.Context) error {
			_, err := handles.NewCounter(g.cfg.Target, g.keys.name(k)).Expire(ctx, keyLifetime)
			return err
		})
	})
}

// read returns a key's value; it tries again while that makes sense.
func (g *generator) read(ctx context.Context, k int, patience time.Duration) (value int64, err error) {
	err = again(ctx, patience, func(ctx context.Context) error {
		var err error
		value, err = handles.NewCounter(g.cfg.Target, g.keys.name(k)).Get(ctx)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("bench: reading %s: %w", g.keys.name(k), err)
	}
	return value, nil
}

// again runs f until it succeeds, is refused for good, or patience is over.
func again(ctx context.Context, patience time.Duration, f func(context.Context) error) error {
	end, backoff := time.Now().Add(patience), firstBackoff
	for {
		err := attempt(ctx, f)
		var refused *failure.Error
		switch {
		case err == nil, ctx.Err() != nil, time.Now().Add(backoff).After(end):
			return err
		case errors.As(err, &refused) && refused.Outcome() == failure.NotDone && !refused.Retryable():
			return err
		}
		t := time.NewTimer(backoff)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

func attempt(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return f(ctx)
}
