package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// Helper is a process that takes a share of a run: it calls [Help]. Config.Start
// begins one.
type Helper struct {
	// In leads to what Help reads, Out comes from what it writes.
	In  io.WriteCloser
	Out io.Reader
	// Kill ends the process at once, and with it Out.
	Kill func()
	// Wait returns when the process has ended, with an error that says why
	// where it failed. It is called once, after the last use of Out.
	Wait func() error
}

// How long helpers are waited for.
const (
	// readyTimeout is from the first order to the word that all is ready.
	readyTimeout = 2 * time.Minute
	// helpSlack is what the end of a load may take beyond its grace.
	helpSlack = 30 * time.Second
	// leaveTimeout is from the end of orders to that of the process.
	leaveTimeout = 5 * time.Second
)

// helping is a helper at work.
type helping struct {
	Helper
	share share
	load  *load
	words *json.Decoder

	saying sync.Mutex // held while an order is written
	mu     sync.Mutex
	ops    int64   // so far; guarded by mu
	rate   float64 // per second; guarded by mu
	part   *part   // nil where it died
	err    error   // why
}

func (h *helping) String() string {
	return fmt.Sprintf("process %d of %d", h.share.index+1, h.share.of)
}

// order tells the helper something. One that does not listen any more is found
// out when it is listened to.
func (h *helping) order(o order) {
	h.saying.Lock()
	defer h.saying.Unlock()
	_ = json.NewEncoder(h.In).Encode(o)
}

// delegate lets the helpers apply the load. It fails where one of them could
// not begin. One that dies later is noted.
func (g *generator) delegate(ctx context.Context) error {
	crew, err := g.enlist(ctx)
	if err != nil {
		return err
	}
	g.started = time.Now()
	limit := time.AfterFunc(g.cfg.Duration+g.cfg.Grace+helpSlack, func() { kill(crew) })
	defer limit.Stop()
	stop := g.report(func() Progress { return g.crewProgress(crew) })
	var listening, watching sync.WaitGroup
	for _, h := range crew {
		h.order(order{Go: true})
		listening.Go(h.listen)
	}
	over := make(chan struct{})
	watching.Go(func() {
		select {
		case <-over:
		case <-ctx.Done():
			g.stopped.Store(true)
			limit.Reset(g.cfg.Grace + helpSlack)
			for _, h := range crew {
				h.order(order{Stop: true})
			}
		}
	})
	listening.Wait()
	close(over)
	watching.Wait()
	stop()
	dismiss(crew)
	g.gather(crew)
	return nil
}

// enlist starts the helpers, gives each its share and waits until all are
// ready. On failure it has ended them.
func (g *generator) enlist(ctx context.Context) ([]*helping, error) {
	crew, err := g.begin()
	if err != nil {
		kill(crew)
		dismiss(crew)
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	release := context.AfterFunc(limited, func() { kill(crew) })
	var getting sync.WaitGroup
	for _, h := range crew {
		getting.Go(h.prepare)
	}
	getting.Wait()
	release()
	late := slices.IndexFunc(crew, func(h *helping) bool { return h.err != nil })
	switch {
	case late < 0 && ctx.Err() == nil:
		return crew, nil
	case ctx.Err() != nil:
		err = fmt.Errorf("bench: %w", context.Cause(ctx))
		dismiss(crew)
	default:
		dismiss(crew)
		err = fmt.Errorf("bench: %v could not begin: %w", crew[late], crew[late].err)
	}
	return nil, err
}

// begin starts the helpers; those that it has begun also where it fails.
func (g *generator) begin() ([]*helping, error) {
	loads, err := g.shares(g.cfg.Processes)
	if err != nil {
		return nil, err
	}
	var crew []*helping
	for i := range loads {
		l := &loads[i]
		one, err := g.cfg.Start()
		if err != nil {
			return crew, fmt.Errorf("bench: process %d of %d: %w", i+1, len(loads), err)
		}
		crew = append(crew, &helping{
			Helper: one, load: l, words: json.NewDecoder(one.Out),
			share: share{index: l.Index, of: l.Of, before: l.Before, all: l.All},
		})
	}
	return crew, nil
}

// prepare gives the helper its share and waits until it is ready.
func (h *helping) prepare() {
	h.order(order{Load: h.load})
	var w word
	if h.err = h.words.Decode(&w); h.err == nil && !w.Ready {
		h.err = errPacked
	}
}

// listen follows the helper to its part, or to its end.
func (h *helping) listen() {
	for {
		var w word
		if h.err = h.words.Decode(&w); h.err != nil {
			return
		}
		if w.Part != nil {
			h.part = w.Part
			return
		}
		h.mu.Lock()
		h.ops, h.rate = w.Ops, w.Rate
		h.mu.Unlock()
	}
}

func kill(crew []*helping) {
	for _, h := range crew {
		h.Kill()
	}
}

// dismiss ends all helpers. What their end says of a failure stands for it.
func dismiss(crew []*helping) {
	var ending sync.WaitGroup
	for _, h := range crew {
		ending.Go(func() {
			_ = h.In.Close() // it is told, or gone
			late := time.AfterFunc(leaveTimeout, h.Kill)
			defer late.Stop()
			if err := h.Wait(); err != nil && h.err != nil {
				h.err = err
			}
		})
	}
	ending.Wait()
}

// gather adds up what the helpers did.
func (g *generator) gather(crew []*helping) {
	g.total = newTotals()
	for _, h := range crew {
		if h.part != nil {
			h.err = g.merge(h.part, h.share)
		}
		if h.err != nil {
			g.mourn(h)
		}
	}
	if g.total.Elapsed == 0 {
		g.total.Elapsed = time.Since(g.started)
	}
	g.total.Stopped = g.total.Stopped || g.stopped.Load()
}

// mourn accounts for a helper that died: what it did to which key nobody knows.
func (g *generator) mourn(h *helping) {
	g.died = append(g.died, fmt.Sprintf("%v died (%v): its operations, at least %d, count as unknown", h, h.err, h.ops))
	g.total.Unknown += h.ops
	g.total.Reasons[reasonDied] += h.ops
	g.ledger.unbounded = true
	if g.entries != nil {
		g.entries.anything = true
	}
	if g.cfg.workload.oneKey {
		g.replies = append(g.replies, &replies{last: g.ledger.before[0], cut: true})
	}
}

// reasonDied is the reason of operations whose process died.
const reasonDied = "PROCESS_DIED"

// crewProgress adds up how far the helpers are.
func (g *generator) crewProgress(crew []*helping) Progress {
	p := Progress{Phase: "load", Done: min(1, time.Since(g.started).Seconds()/g.cfg.Duration.Seconds())}
	for _, h := range crew {
		h.mu.Lock()
		p.OpsPerSec += h.rate
		h.mu.Unlock()
	}
	return p
}
