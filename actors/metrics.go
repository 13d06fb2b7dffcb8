package actors

import (
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// commitCounts are the committer's own figures.
type commitCounts struct {
	records, failed atomic.Uint64
	seconds, shards *metrics.Histogram // nil without metrics
}

func (c *commitCounts) observe(took time.Duration, shards int) {
	if c.seconds != nil {
		c.seconds.Update(took.Seconds())
		c.shards.Update(float64(shards))
	}
}

// metricPrefix marks what this package registers.
const metricPrefix = "quern_shard_"

// register makes the runtime's figures visible. Sums over the shards are taken
// when they are asked for, so that a turn pays for its shard's counter only.
func (r *Runtime) register(set *metrics.Set) error {
	if set == nil {
		return nil
	}
	for _, name := range set.ListMetricNames() {
		if strings.HasPrefix(name, metricPrefix) {
			return errors.New("actors: Config.Metrics belongs to another runtime; give each its own set")
		}
	}
	sum := func(name string, of func(*shardCounts) uint64) {
		set.NewGauge(metricPrefix+name, func() float64 {
			total := uint64(0)
			for _, s := range r.shards {
				total += of(&s.counts)
			}
			return float64(total)
		})
	}
	sum("turns_total", func(c *shardCounts) uint64 { return c.turns.Load() })
	sum("overloaded_total", func(c *shardCounts) uint64 { return c.overloaded.Load() })
	sum("handler_panics_total", func(c *shardCounts) uint64 { return c.panics.Load() })
	sum("evicted_grains_total", func(c *shardCounts) uint64 { return c.evicted.Load() })
	sum("restarts_total", func(c *shardCounts) uint64 { return c.restarts.Load() })
	sum("replays_total", func(c *shardCounts) uint64 { return c.replays.Load() })
	sum("fenced_commits_total", func(c *shardCounts) uint64 { return c.fenced.Load() })
	sum("withheld_replies_total", func(c *shardCounts) uint64 { return c.withheld.Load() })
	sum("drains_total", func(c *shardCounts) uint64 { return c.drains.Load() })
	sum("resident_sessions", func(c *shardCounts) uint64 { return uint64(max(0, c.sessions.Load())) })
	sum("watchers", func(c *shardCounts) uint64 { return uint64(max(0, c.watchers.Load())) })
	sum("watch_events_total", func(c *shardCounts) uint64 { return c.events.Load() })
	sum("resident_grains", func(c *shardCounts) uint64 { return uint64(max(0, c.resident.Load())) })
	set.NewGauge(metricPrefix+"parked_calls", func() float64 { return float64(r.parked.Load()) })
	set.NewGauge(metricPrefix+"commit_records_total", func() float64 { return float64(r.committer.counts.records.Load()) })
	set.NewGauge(metricPrefix+"commits_not_done_total", func() float64 { return float64(r.committer.counts.failed.Load()) })
	r.committer.counts.seconds = set.NewHistogram(metricPrefix + "commit_seconds")
	r.committer.counts.shards = set.NewHistogram(metricPrefix + "commit_shards")
	return nil
}

func (r *Runtime) unregister(set *metrics.Set) {
	if set == nil {
		return
	}
	for _, name := range set.ListMetricNames() {
		if strings.HasPrefix(name, metricPrefix) {
			set.UnregisterMetric(name)
		}
	}
}
