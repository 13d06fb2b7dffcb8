package server

import (
	"fmt"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern/failure"
)

// maxReasons bounds the reasons that are counted one by one.
const maxReasons = 64

// methodMetrics are the metrics of one method on one transport.
type methodMetrics struct {
	set               *metrics.Set
	transport, method string

	ok      *metrics.Counter
	failed  [maxReasons]atomic.Pointer[metrics.Counter]
	seconds *metrics.Histogram
}

func newMethodMetrics(set *metrics.Set, transport, method string) *methodMetrics {
	m := &methodMetrics{set: set, transport: transport, method: method}
	m.ok = m.counter("OK")
	m.seconds = set.GetOrCreateHistogram(fmt.Sprintf(
		"quern_server_request_seconds{transport=%q,method=%q}", transport, method))
	return m
}

func (m *methodMetrics) counter(reason string) *metrics.Counter {
	return m.set.GetOrCreateCounter(fmt.Sprintf(
		"quern_server_requests_total{transport=%q,method=%q,reason=%q}", m.transport, m.method, reason))
}

// fail counts a failure. The counter is looked up once.
func (m *methodMetrics) fail(reason failure.Reason) {
	slot := &m.failed[min(int(reason), maxReasons-1)]
	c := slot.Load()
	if c == nil {
		c = m.counter(reason.String())
		slot.Store(c)
	}
	c.Inc()
}
