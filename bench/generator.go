package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/machine"
)

// After a refusal a worker of a closed loop waits as long as it was asked to,
// within these bounds, so that it does not fill a full target with attempts.
const (
	minPause = time.Millisecond
	maxPause = time.Second
)

// generator is one load: its workers and what they share.
type generator struct {
	cfg      *Config
	keys     keyNames
	ledger   *ledger
	entries  *entryLedger // of map entries; nil where the keys are counters
	payloads payloads
	locks    *lockLedger // nil where the keys are no locks
	broken   *violations
	series   *series
	workers  []*worker

	picker   *picker
	schedule *schedule    // nil in a closed loop
	fresh    atomic.Int64 // the next unused key
	started  time.Time
	stopped  atomic.Bool   // the caller ended the load early
	stop     chan struct{} // closed then
	elapsed  time.Duration // of the load, set at its end

	// What the load came to, set at its end.
	total   totals
	replies []*replies // of counter-hot
	died    []string   // helpers, and what is known of their end
	// checkedAll says whether all replies of counter-hot were looked at.
	checkedAll bool
}

func newGenerator(cfg *Config) *generator {
	g := &generator{
		cfg:    cfg,
		ledger: newLedger(cfg.ownWorkers(), cfg.Keys, cfg.workload.fresh),
		broken: new(violations),
		series: newSeries(cfg.Duration),
		stop:   make(chan struct{}),
		keys:   keyNames{prefix: cfg.Prefix, first: cfg.share.index, step: max(1, cfg.share.of)},
	}
	if !cfg.workload.fresh {
		g.keys = newKeyNames(cfg.Prefix, cfg.Keys)
		g.picker = newPicker(cfg.Keys, cfg.Dist)
	}
	if cfg.workload.entries != noEntries {
		g.entries, g.payloads = newEntryLedger(cfg.Keys), newPayloads(cfg.Run, cfg.Payload)
	}
	if cfg.workload.locks {
		g.locks = newLockLedger(cfg.Keys)
	}
	if cfg.Rate > 0 {
		g.schedule = newSchedule(cfg.Rate/float64(cfg.Pipeline), cfg.Duration, cfg.pace, g.stop)
	}
	return g
}

// hire makes the workers.
func (g *generator) hire() {
	cfg, one, first := g.cfg, ones(g.cfg.Pipeline), int64(0)
	if g.ledger.before != nil {
		first = g.ledger.before[0]
	}
	targets := append([]handles.Invoker{cfg.Target}, cfg.Targets...)
	for i := range cfg.Concurrency {
		w := &worker{
			id:       i,
			target:   targets[i%len(targets)],
			keys:     g.keys,
			ledger:   g.ledger,
			broken:   g.broken,
			random:   rand.NewPCG(cfg.Seed, uint64(cfg.share.before+i)), //nolint:gosec // at most maxConcurrency
			locks:    g.locks,
			recorder: newRecorder(g.series),
			replies:  &replies{limit: maxReplyBytes / max(cfg.share.all, cfg.Concurrency), last: first},
		}
		w.sender = handles.NewBatch(w.target)
		if cfg.workload.locks {
			w.ownerPrefix = g.ownerPrefix() + strconv.Itoa(i) + ":"
		}
		if cfg.workload.columns {
			w.columns = newColumns(cfg.Pipeline, one)
		}
		if cfg.workload.entries != noEntries {
			w.entries = g.newEntries(i)
		}
		g.workers = append(g.workers, w)
	}
}

// load lets this process apply the load and adds up what it came to.
func (g *generator) load(ctx context.Context) {
	g.hire()
	cpu := machine.CPUTime()
	stop := g.report(g.loadProgress(time.Now()))
	g.run(ctx)
	stop()
	g.total = g.sum()
	g.total.CPU, g.total.RSS = machine.CPUTime()-cpu, machine.ResidentBytes()
	for _, w := range g.workers {
		g.replies = append(g.replies, w.replies)
	}
}

// run sends the load and returns when the last operation has ended. The end
// of ctx ends it early.
func (g *generator) run(ctx context.Context) {
	ops, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.cfg.Duration+g.cfg.Grace)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		g.stopped.Store(true)
		close(g.stop)
		grace := time.AfterFunc(g.cfg.Grace, cancel)
		context.AfterFunc(ops, func() { grace.Stop() })
	})()
	var all sync.WaitGroup
	g.started = time.Now()
	for _, w := range g.workers {
		all.Go(func() {
			if g.schedule != nil {
				g.open(ops, w)
			} else {
				g.closed(ops, w)
			}
			w.roll(g.now())
		})
	}
	all.Wait()
	g.elapsed = time.Since(g.started)
	if g.schedule != nil && !g.stopped.Load() && !g.exhausted() {
		g.elapsed = max(g.elapsed, g.cfg.Duration)
	}
}

func (g *generator) now() int64 { return int64(time.Since(g.started)) }

// closed sends the next round as soon as the last one is answered, so that one
// reading of the clock ends one round and starts the next.
func (g *generator) closed(ctx context.Context, w *worker) {
	send, end := g.round(), int64(g.cfg.Duration)
	for start := g.now(); start < end && !g.stopped.Load(); {
		done, ok := send(ctx, w)
		if !ok {
			return
		}
		now := g.now()
		wait := w.record(now, now-start, done, w.failures)
		if wait == 0 {
			start = now
			continue
		}
		g.cfg.pace(min(wait, time.Duration(max(0, end-now))), g.stop)
		start = g.now()
	}
}

// open sends the rounds when they are due, or as soon after that as this worker
// gets to them.
func (g *generator) open(ctx context.Context, w *worker) {
	send := g.round()
	for {
		due, ok := g.schedule.take(g.now)
		if !ok {
			return
		}
		done, ok := send(ctx, w)
		if !ok {
			return
		}
		now := g.now()
		w.record(now, now-due, done, w.failures)
	}
}

// pick chooses the next operation's key; false where all are used up.
func (g *generator) pick(w *worker) (int, bool) {
	if g.picker != nil {
		return g.picker.pick(w.random), true
	}
	k := g.fresh.Add(1) - 1
	return int(k), k < int64(g.cfg.Keys)
}

// exhausted says whether a workload that uses keys once has used all.
func (g *generator) exhausted() bool {
	return g.cfg.workload.fresh && g.fresh.Load() >= int64(g.cfg.Keys)
}

// used is the number of keys that the load may have touched.
func (g *generator) used() int {
	if g.cfg.workload.fresh {
		return int(min(g.fresh.Load(), int64(g.cfg.Keys)))
	}
	return g.cfg.Keys
}

func retryAfter(err error) time.Duration {
	if f, ok := errors.AsType[*failure.Error](err); ok {
		return min(max(f.RetryAfter, minPause), maxPause)
	}
	return minPause
}

// made says whether this run gave key k its first value.
func (g *generator) made(k int) bool {
	if g.locks != nil {
		return false // nothing is left of a free lock
	}
	if g.entries != nil {
		return g.entries.accounts[k].made
	}
	if g.ledger.before == nil || g.cfg.workload.prefill && g.ledger.filled[k] {
		return true
	}
	return g.ledger.before[k] == 0
}
