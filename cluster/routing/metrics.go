package routing

import "github.com/VictoriaMetrics/metrics"

// counts are the router's metrics.
type counts struct {
	set                             *metrics.Set // nil: of nobody
	passed, repeated, held, refused *metrics.Counter
	names                           []string
}

func newCounts(set *metrics.Set, r *Router) *counts {
	c := &counts{set: set}
	for name, of := range map[string]**metrics.Counter{
		"quern_routing_passed_total": &c.passed, "quern_routing_repeated_total": &c.repeated,
		"quern_routing_held_total": &c.held, "quern_routing_refused_total": &c.refused,
	} {
		if *of = new(metrics.Counter); set != nil {
			*of = set.GetOrCreateCounter(name)
		}
	}
	if set != nil {
		c.gauge("quern_routing_held", func() float64 { return float64(r.hold.count()) })
		c.gauge("quern_routing_peers", func() float64 { return float64(r.connected()) })
	}
	return c
}

func (c *counts) gauge(name string, value func() float64) {
	c.set.UnregisterMetric(name) // left over from an earlier router on this set
	c.set.NewGauge(name, value)
	c.names = append(c.names, name)
}

func (c *counts) unregister() {
	for _, name := range c.names {
		c.set.UnregisterMetric(name)
	}
	c.names = nil
}

// connected counts the streams that are up.
func (r *Router) connected() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.peers {
		if p.link.Load() != nil {
			n++
		}
	}
	return n
}
