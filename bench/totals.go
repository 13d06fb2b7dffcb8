package bench

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// totals is what a load came to in one process, or in several together.
type totals struct {
	// Ops were done, Errors refused; of Unknown ones the outcome is not known.
	Ops     int64            `json:"ops"`
	Errors  int64            `json:"errors"`
	Unknown int64            `json:"unknown"`
	Longest int64            `json:"longest"` // latency in nanoseconds
	Reasons map[string]int64 `json:"reasons"`
	Backlog int64            `json:"backlog"`
	// Elapsed is what the load took, in the process that took longest.
	Elapsed time.Duration `json:"elapsed"`
	// Stopped says that the load was ended early from outside.
	Stopped     bool          `json:"stopped"`
	CPU         time.Duration `json:"cpu"`
	RSS         uint64        `json:"rss"`
	Connections int           `json:"connections"`
	// Used is the number of keys that were used, where each is used once.
	Used int64 `json:"used"`

	latency *hdrhistogram.Histogram
}

func newTotals() totals {
	return totals{Reasons: make(map[string]int64), latency: newHistogram(runDigits)}
}

// add adds another process's.
func (t *totals) add(o *totals) {
	t.Ops += o.Ops
	t.Errors += o.Errors
	t.Unknown += o.Unknown
	t.Longest = max(t.Longest, o.Longest)
	for reason, n := range o.Reasons {
		t.Reasons[reason] += n
	}
	t.Backlog += o.Backlog
	t.Elapsed = max(t.Elapsed, o.Elapsed)
	t.Stopped = t.Stopped || o.Stopped
	t.CPU += o.CPU
	t.RSS += o.RSS
	t.Connections += o.Connections
	t.Used += o.Used
	t.latency.Merge(o.latency) // the same geometry: nothing is dropped
}

// sum adds up what the workers of this process did.
func (g *generator) sum() totals {
	t := newTotals()
	for _, w := range g.workers {
		t.add(&totals{
			Ops: w.ops, Errors: w.errors, Unknown: w.unknown, Longest: w.max, Reasons: w.reasons, latency: w.latency,
		})
	}
	t.Elapsed, t.Stopped = g.elapsed, g.stopped.Load()
	t.Connections, t.Used = 1+len(g.cfg.Targets), int64(g.used())
	if g.schedule != nil && !g.exhausted() {
		t.Backlog = g.schedule.backlog(g.elapsed) * int64(g.cfg.Pipeline)
	}
	return t
}
