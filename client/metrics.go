package client

// Stats returns what the client has done so far; nothing of it where every
// operation is a call of its own.
func (c *Client) Stats() Stats {
	if c.engine == nil {
		return Stats{}
	}
	c.engine.mu.Lock()
	defer c.engine.mu.Unlock()
	return c.engine.stats
}

// clientMetrics are the metrics of a client; several clients on one set share
// them, and count together.
var clientMetrics = []struct {
	name  string
	value func(Stats) uint64
}{
	{"quern_client_operations_total", func(s Stats) uint64 { return s.Operations }},
	{"quern_client_operations_failed_total", func(s Stats) uint64 { return s.Failed }},
	{"quern_client_retries_total", func(s Stats) uint64 { return s.Retries }},
	{"quern_client_frames_total", func(s Stats) uint64 { return s.Frames }},
	{"quern_client_connects_total", func(s Stats) uint64 { return s.Connects }},
}

func (c *Client) register() {
	if c.options.Metrics == nil {
		return
	}
	for _, m := range clientMetrics {
		c.options.Metrics.NewGauge(m.name, func() float64 { return float64(m.value(c.Stats())) })
	}
}

func (c *Client) unregister() {
	if c.options.Metrics == nil || c.engine == nil {
		return
	}
	for _, m := range clientMetrics {
		c.options.Metrics.UnregisterMetric(m.name)
	}
}
