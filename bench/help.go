package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/quern-io/quern/handles"
)

var errNoLoad = errors.New("bench: no load in the first order")

// Help carries a share of another process's run. It takes its orders from in,
// which that process's [Helper] writes, and tells it on out what came of them.
// It returns when in ends. The end of ctx ends the load early.
func Help(ctx context.Context, targets []handles.Invoker, in io.Reader, out io.Writer) error {
	return help(ctx, targets, in, out, func(*Config) {})
}

// help is Help; tune is for tests.
func help(ctx context.Context, targets []handles.Invoker, in io.Reader, out io.Writer, tune func(*Config)) error {
	orders, say := json.NewDecoder(in), json.NewEncoder(out)
	var first order
	if err := orders.Decode(&first); err != nil {
		return fmt.Errorf("bench: no load: %w", err)
	}
	if first.Load == nil {
		return errNoLoad
	}
	cfg := first.Load.config(targets)
	tune(&cfg)
	if err := cfg.complete(); err != nil {
		return err
	}
	g := newGenerator(&cfg)
	if err := g.takeValues(first.Load); err != nil {
		return err
	}
	if err := say.Encode(word{Ready: true}); err != nil {
		return fmt.Errorf("bench: ready: %w", err)
	}
	var next order
	if err := orders.Decode(&next); err != nil || !next.Go {
		return nil // the run was given up before its load
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var listening sync.WaitGroup
	listening.Go(func() {
		for orders.Decode(&next) == nil && !next.Stop { //nolint:revive // other orders mean nothing now
		}
		cancel()
		_, _ = io.Copy(io.Discard, in) // its end is the end of the run
	})
	var mu sync.Mutex // guards say while the load runs
	cfg.Progress = func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		_ = say.Encode(word{Ops: g.series.ops(), Rate: p.OpsPerSec}) // a part that cannot be said will tell
	}
	g.load(ctx)
	mu.Lock()
	err := say.Encode(word{Part: g.part()})
	mu.Unlock()
	listening.Wait()
	if err != nil {
		return fmt.Errorf("bench: part: %w", err)
	}
	return nil
}
