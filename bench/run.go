package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/quern-io/quern/internal/machine"
)

// Run applies a load to cfg.Target and checks it. It returns an error where
// there is nothing to report: one that wraps [ErrConfig] or [ErrKeysUsed], or
// the target's when the keys could not be read beforehand. Whatever happens
// after that is in the result; look at [Result.OK].
//
// The end of ctx ends the load early; what is under way then, and the check,
// still run to their end.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	g := newGenerator(&cfg)
	if err := g.prepare(ctx); err != nil {
		return nil, err
	}
	before, started, cpu := cfg.targetUsage(ctx), time.Now(), machine.CPUTime()
	if cfg.Processes == 1 {
		g.load(ctx)
	} else {
		if err := g.delegate(ctx); err != nil {
			return nil, err
		}
		g.total.CPU += machine.CPUTime() - cpu
		g.total.RSS += machine.ResidentBytes()
	}
	ctx = context.WithoutCancel(ctx)
	after := cfg.targetUsage(ctx)
	r := g.result(started)
	r.target(before, after)

	t, unread, err := g.verify(ctx)
	r.Acked, r.Applied, r.Lost, r.Doubled, r.Unread = t.acked, t.applied, t.lost, t.doubled, unread
	r.Violations, r.Examples = g.broken.count, append(r.Examples, g.broken.examples...)
	if err != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("%d keys could not be read back: %v", unread, err))
	} else if err := g.expire(ctx); err != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("not every key will expire: %v", err))
	}
	if cfg.workload.oneKey && !g.checkedAll {
		r.Notes = append(r.Notes, "too many replies to look for repeats among all of them")
	}
	return r, nil
}

// loadProgress tells the rate of the last interval but one: the workers may
// still be handing in the last one.
func (g *generator) loadProgress(started time.Time) func() Progress {
	return func() Progress {
		elapsed := time.Since(started)
		return Progress{
			Phase:     "load",
			Done:      min(1, elapsed.Seconds()/g.cfg.Duration.Seconds()),
			OpsPerSec: g.series.rate(int(elapsed/g.series.interval) - 2),
		}
	}
}
