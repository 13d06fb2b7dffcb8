package bench

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkGenerator measures the generator's own cost per operation: one
// worker, a target that answers at once.
func BenchmarkGenerator(b *testing.B) {
	for _, name := range Workloads() {
		for _, dist := range []Dist{Uniform, Zipf} {
			for _, pipeline := range []int{1, 100, 1000} {
				w := workloads[name]
				if dist == Zipf && (w.oneKey || w.fresh) || w.columns && pipeline == 1 {
					continue
				}
				b.Run(fmt.Sprintf("%s/%s/%d", name, dist, pipeline), func(b *testing.B) { benchmarkGenerator(b, name, dist, pipeline) })
			}
		}
	}
}

func benchmarkGenerator(b *testing.B, name string, dist Dist, pipeline int) {
	b.Helper()
	cfg := Config{
		Target: &null{fixed: name == "spawn"}, Workload: name, Concurrency: 1, Dist: dist, Duration: time.Hour, Keys: 10_000, Pipeline: pipeline,
	}
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
	g.hire()
	g.started = time.Now()
	w, send := g.workers[0], g.round()
	send(b.Context(), w) // so that what is used again is there
	b.ReportAllocs()
	b.ResetTimer()
	for sent, start := 0, g.now(); sent < b.N; sent += pipeline {
		done, _ := send(b.Context(), w)
		now := g.now()
		w.record(now, now-start, done, w.failures)
		start = now
	}
}
