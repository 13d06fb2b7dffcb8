package bench

import (
	"context"
	"testing"
	"time"
)

// BenchmarkGenerator measures the generator's own cost per operation: one
// worker, a target that answers at once.
func BenchmarkGenerator(b *testing.B) {
	for _, name := range Workloads() {
		for _, dist := range []Dist{Uniform, Zipf} {
			w := workloads[name]
			if dist == Zipf && (w.oneKey || w.fresh) {
				continue
			}
			b.Run(name+"/"+string(dist), func(b *testing.B) { benchmarkGenerator(b, name, dist) })
		}
	}
}

func benchmarkGenerator(b *testing.B, name string, dist Dist) {
	b.Helper()
	cfg := Config{Target: &null{fixed: name == "spawn"}, Workload: name, Concurrency: 1, Dist: dist, Duration: time.Hour, Keys: 10_000}
	switch w := workloads[name]; {
	case w.oneKey:
		cfg.Keys = 1
	case w.fresh:
		cfg.Keys = maxKeys
	}
	if err := cfg.complete(); err != nil {
		b.Fatal(err)
	}
	g := newGenerator(&cfg)
	if cfg.workload.prefill {
		g.ledger.before = make([]int64, cfg.Keys)
	}
	b.ReportAllocs()
	b.ResetTimer()
	g.started = time.Now()
	w, left := g.workers[0], b.N
	do := cfg.workload.do
	cfg.workload = &workload{fresh: cfg.workload.fresh, do: func(w *worker, ctx context.Context, k int) error {
		if left--; left <= 0 {
			g.stopped.Store(true)
		}
		return do(w, ctx, k)
	}}
	g.closed(b.Context(), w)
}
