package bench

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/quern-io/quern/handles"
)

// share is a process's part in a run of several. All processes work on the
// same keys, but where each key is used once: then they take turns.
type share struct {
	index, of int // this process's number among how many; 0 of 0 is a run of one
	before    int // workers of the processes before this one
	all       int // workers of the run
}

// keys is how many of n keys are this process's, where each is used once.
func (s share) keys(n int) int { return (n - s.index + s.of - 1) / s.of }

// order is what a process that shares a run out says to one that helps. The
// first one has Load; then come one with Go and perhaps one with Stop, which
// ends the load early. The end of orders does so too.
type order struct {
	Load *load `json:"load,omitempty"`
	Go   bool  `json:"go,omitempty"`
	Stop bool  `json:"stop,omitempty"`
}

// load is one process's share, ready to run.
type load struct {
	Workload    string        `json:"workload"`
	Duration    time.Duration `json:"duration"`
	Concurrency int           `json:"concurrency"`
	Pipeline    int           `json:"pipeline"`
	Keys        int           `json:"keys"`
	Payload     int           `json:"payload,omitempty"`
	Dist        Dist          `json:"dist"`
	Rate        float64       `json:"rate"`
	Prefix      string        `json:"prefix"`
	Run         string        `json:"run"`
	Seed        uint64        `json:"seed,string"`
	Grace       time.Duration `json:"grace"`
	Index       int           `json:"index"`
	Of          int           `json:"of"`
	Before      int           `json:"before"`
	All         int           `json:"all"`
	// Values of the keys before the load, packed; empty where all were 0.
	Values json.RawMessage `json:"values,omitempty"`
	// Of map entries Values are versions, Sums the values' checksums.
	Sums packed `json:"sums,omitempty"`
}

// word is what a process that helps says: that it is ready, how far it is
// about once a second, and its part at the end.
type word struct {
	Ready bool    `json:"ready,omitempty"`
	Ops   int64   `json:"ops,omitempty"`
	Rate  float64 `json:"rate,omitempty"` // per second
	Part  *part   `json:"part,omitempty"`
}

// part is what became of a share.
type part struct {
	Totals   totals        `json:"totals"`
	Latency  packed        `json:"latency"` // the histogram's counts
	Series   []interval    `json:"series"`
	Adds     packed        `json:"adds"`     // acknowledged, by key
	Unknowns map[int]int64 `json:"unknowns"` // adds, by key
	Replies  []row         `json:"replies"`
	Broken   int64         `json:"broken"`
	Examples []string      `json:"examples"`
	Entries  *entryPart    `json:"entries,omitempty"`
}

// interval is a window.
type interval struct {
	Ops     int64  `json:"ops"`
	Errors  int64  `json:"errors"`
	Unknown int64  `json:"unknown"`
	Longest int64  `json:"longest"`
	Latency packed `json:"latency"`
}

// row is one worker's replies.
type row struct {
	Last int64  `json:"last"`
	Cut  bool   `json:"cut"`
	Data []byte `json:"data"`
}

// config is a load as a configuration.
func (l *load) config(targets []handles.Invoker) Config {
	return Config{
		Target: targets[0], Targets: targets[1:],
		Workload: l.Workload, Duration: l.Duration, Concurrency: l.Concurrency, Pipeline: l.Pipeline, Keys: l.Keys, Dist: l.Dist,
		Payload: l.Payload, Rate: l.Rate, Prefix: l.Prefix, Run: l.Run, Seed: l.Seed, Grace: l.Grace,
		share: share{index: l.Index, of: l.Of, before: l.Before, all: l.All},
	}
}

// shares cuts a run up. Workers and rate are spread evenly.
func (g *generator) shares(n int) ([]load, error) {
	c, loads, workersBefore := g.cfg, make([]load, n), 0
	before, sums := packed(g.ledger.before), packed(nil)
	if g.entries != nil {
		before, sums = g.entries.opened()
	}
	values, err := json.Marshal(before)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	for i := range loads {
		workers := c.Concurrency / n
		if i < c.Concurrency%n {
			workers++
		}
		s := share{index: i, of: n, before: workersBefore, all: c.Concurrency}
		workersBefore += workers
		loads[i] = load{
			Workload: c.Workload, Duration: c.Duration, Concurrency: workers, Pipeline: c.Pipeline, Keys: c.Keys, Dist: c.Dist,
			Payload: c.Payload, Sums: sums, Rate: c.Rate * float64(workers) / float64(c.Concurrency), Prefix: c.Prefix, Run: c.Run, Seed: c.Seed, Grace: c.Grace,
			Index: s.index, Of: s.of, Before: s.before, All: s.all, Values: values,
		}
		if c.workload.fresh {
			loads[i].Keys, loads[i].Values = s.keys(c.Keys), nil
		}
	}
	return loads, nil
}

// takeValues takes the values of the keys before the load.
func (g *generator) takeValues(l *load) error {
	if len(l.Values) == 0 {
		return nil
	}
	var values packed
	if err := json.Unmarshal(l.Values, &values); err != nil {
		return fmt.Errorf("bench: values of the keys: %w", err)
	}
	if len(values) != g.cfg.Keys {
		return fmt.Errorf("%w: %d values of %d keys", errPacked, len(values), g.cfg.Keys)
	}
	if g.entries != nil {
		return g.entries.takeOpened(values, l.Sums)
	}
	for k, v := range values {
		g.ledger.open(k, v)
	}
	return nil
}

// part is what this process's load came to.
func (g *generator) part() *part {
	p := &part{
		Totals: g.total, Latency: g.total.latency.Export().Counts, Adds: make(packed, g.used()),
		Unknowns: g.ledger.unknown, Broken: g.broken.count, Examples: g.broken.examples,
	}
	for k := range p.Adds {
		_, p.Adds[k], _ = g.ledger.key(k)
	}
	if g.entries != nil {
		p.Entries = g.entries.part()
	}
	for _, w := range g.series.points {
		p.Series = append(p.Series, interval{w.ops, w.errors, w.unknown, w.max, w.latency.Export().Counts})
	}
	if g.cfg.workload.oneKey {
		for _, r := range g.replies {
			one := row{Last: r.last, Cut: r.cut}
			for _, c := range r.chunks {
				one.Data = append(one.Data, c...)
			}
			p.Replies = append(p.Replies, one)
		}
	}
	return p
}

// merge adds what another process did to this one's accounts.
func (g *generator) merge(p *part, s share) error {
	var err error
	if p.Totals.latency, err = histogram(runDigits, p.Latency); err != nil {
		return err
	}
	g.total.add(&p.Totals)
	for i, w := range p.Series {
		h, err := histogram(intervalDigits, w.Latency)
		if err != nil {
			return err
		}
		g.series.add(int64(i), &window{w.Ops, w.Errors, w.Unknown, w.Longest, h})
	}
	key := func(k int) int { return k }
	if g.cfg.workload.fresh {
		key = func(k int) int { return s.index + k*s.of }
		g.fresh.Store(max(g.fresh.Load(), int64(key(int(p.Totals.Used)-1))+1))
	}
	for k, n := range p.Adds {
		g.ledger.add(key(k), n)
	}
	for k, n := range p.Unknowns {
		g.ledger.unknown[key(k)] += n
	}
	for _, r := range p.Replies {
		g.replies = append(g.replies, &replies{last: r.Last, cut: r.Cut, chunks: [][]byte{r.Data}})
	}
	g.broken.add(p.Broken, p.Examples)
	if g.entries != nil {
		return g.entries.merge(p.Entries)
	}
	return nil
}

// histogram is one that this process could have made.
func histogram(digits int, counts packed) (*hdrhistogram.Histogram, error) {
	s := newHistogram(digits).Export()
	if len(counts) != len(s.Counts) {
		return nil, fmt.Errorf("%w: a histogram of %d counts instead of %d", errPacked, len(counts), len(s.Counts))
	}
	s.Counts = counts
	return hdrhistogram.Import(s), nil
}
