package embedded

import "github.com/VictoriaMetrics/metrics"

// storeMetrics are the store's metrics.
type storeMetrics struct {
	commits, records, bytes, refused, recoveries *metrics.Counter
	sync, checkpoint                             *metrics.Histogram
	open, tail                                   *metrics.Gauge
}

func newStoreMetrics(set *metrics.Set) *storeMetrics {
	return &storeMetrics{
		commits:    set.GetOrCreateCounter("quern_store_commits_total"),
		records:    set.GetOrCreateCounter("quern_store_records_total"),
		bytes:      set.GetOrCreateCounter("quern_store_journal_bytes_total"),
		refused:    set.GetOrCreateCounter("quern_store_refused_total"),
		recoveries: set.GetOrCreateCounter("quern_store_recoveries_total"),
		sync:       set.GetOrCreateHistogram("quern_store_append_seconds"),
		checkpoint: set.GetOrCreateHistogram("quern_store_checkpoint_seconds"),
		open:       set.GetOrCreateGauge("quern_store_open", nil),
		tail:       set.GetOrCreateGauge("quern_store_tail_bytes", nil),
	}
}
