package bench

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run found. Its JSON form is part of the outward contract.
type Result struct {
	Target   string `json:"target"`
	Workload string `json:"workload"`
	Store    string `json:"store"`
	// DurationS is how long the load took, in seconds.
	DurationS   float64 `json:"duration_s"`
	Concurrency int     `json:"concurrency"`
	// Pipeline is the number of operations that a worker sends together;
	// in counter-columns the keys of a call.
	Pipeline int `json:"pipeline"`
	// Connections to the target are those of all Processes together.
	Connections int `json:"connections"`
	Processes   int `json:"processes"`
	// Died is the number of processes that died. What they did is not known.
	Died int `json:"processes_died"`
	// Keys is the number of keys that the load worked on.
	Keys int `json:"keys"`
	// Payload is the size of the values in bytes, 0 where there are none.
	Payload int `json:"payload"`
	// Ops were done, Errors refused (nothing happened); of Unknown ones the
	// outcome is not known.
	Ops       int64   `json:"ops"`
	Errors    int64   `json:"errors"`
	Unknown   int64   `json:"unknown"`
	OpsPerSec float64 `json:"ops_per_sec"`
	// LatencyUS is in microseconds, over Ops and Unknown.
	LatencyUS Latency `json:"latency_us"`
	// Acked adds were acknowledged, Applied is by how much the keys changed.
	// In map-put they are puts; the last one of a key stands for all.
	Acked   int64 `json:"acked"`
	Applied int64 `json:"applied"`
	Lost    int64 `json:"lost"`
	Doubled int64 `json:"doubled"`
	// CPUSeconds is what the processes that ran the bench used during the
	// load, RSSBytes their memory at the load's end. Where the target is
	// embedded that includes the node, otherwise it is the generator alone.
	CPUSeconds float64 `json:"cpu_s"`
	RSSBytes   int64   `json:"rss_bytes"`
	// TargetCPUSeconds and TargetRSSBytes are the same of the node that
	// answered; 0 where it is embedded or does not tell.
	TargetCPUSeconds float64 `json:"target_cpu_s"`
	TargetRSSBytes   int64   `json:"target_rss_bytes"`

	Run    string `json:"run"`
	Prefix string `json:"prefix"`
	Dist   Dist   `json:"dist"`
	Seed   uint64 `json:"seed,string"`
	// Rate is the operations due per second; 0 is a closed loop. Backlog is
	// how many were due and never sent.
	Rate    float64 `json:"rate"`
	Backlog int64   `json:"backlog"`
	// ErrorsByReason counts Errors and Unknown by reason.
	ErrorsByReason map[string]int64 `json:"errors_by_reason"`
	// Violations are replies that cannot be right, Examples the first ten.
	Violations int64    `json:"violations"`
	Examples   []string `json:"violation_examples"`
	// Unread is the number of keys that could not be read back.
	Unread int `json:"unread"`
	// Interrupted says that the load was ended early from outside.
	Interrupted bool `json:"interrupted"`
	// Notes are sentences for people about what else was noticed.
	Notes []string `json:"notes"`

	// Started is when the load began.
	Started time.Time `json:"started"`
	// Series has one point per second, or up to 600 longer ones.
	Series []Point `json:"-"`
	// Histogram has the latencies in nanoseconds.
	Histogram *hdrhistogram.Histogram `json:"-"`
}

// Latency is in microseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// OK says whether everything that was acknowledged happened, happened once,
// and was answered rightly, as far as every process lived to tell.
func (r *Result) OK() bool {
	return r.Lost == 0 && r.Doubled == 0 && r.Violations == 0 && r.Unread == 0 && r.Died == 0
}

// result sums up the load; the check is added to it later.
func (g *generator) result(started time.Time) *Result {
	c, t := g.cfg, &g.total
	r := &Result{
		Target: c.TargetName, Workload: c.Workload, Store: c.Store,
		DurationS: t.Elapsed.Seconds(), Concurrency: c.Concurrency, Pipeline: c.Pipeline, Keys: g.used(), Payload: c.Payload,
		Connections: t.Connections, Processes: c.Processes, Died: len(g.died),
		Ops: t.Ops, Errors: t.Errors, Unknown: t.Unknown, ErrorsByReason: t.Reasons, Backlog: t.Backlog,
		CPUSeconds: t.CPU.Seconds(), RSSBytes: int64(t.RSS), //nolint:gosec // bytes of memory
		Run: c.Run, Prefix: c.Prefix, Dist: c.Dist, Seed: c.Seed, Rate: c.Rate,
		Examples:    []string{},
		Notes:       append([]string{}, g.died...),
		Interrupted: t.Stopped,
		Started:     started.UTC(),
		Series:      g.series.summary(),
		Histogram:   t.latency,
	}
	if c.workload.fresh {
		r.Keys = int(t.Used)
	}
	r.OpsPerSec = float64(r.Ops) / max(r.DurationS, 1e-9)
	r.LatencyUS = latencies(r.Histogram, t.Longest)
	return r
}

func latencies(h *hdrhistogram.Histogram, longest int64) Latency {
	at := func(q float64) float64 { return float64(min(h.ValueAtQuantile(q), longest)) / 1e3 }
	return Latency{P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(longest) / 1e3}
}
