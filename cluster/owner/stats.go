package owner

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// calls are the calls to the authority, as metrics name them.
var calls = []string{
	"establish", "join", "keep_alive", "announce", "leave", "members", "sessions", "table", "lead", "place",
	"create", "acquire", "release", "prove",
}

// stats are the owner's figures. Counters are never nil.
type stats struct {
	leases, until                                atomic.Int64
	proofOK, proofFailed, takeovers, raised      *metrics.Counter
	releasedClean, releasedOtherwise, placements *metrics.Counter
	asks, errors                                 map[string]*metrics.Counter
	names                                        []string
}

func (s *stats) register(set *metrics.Set, clock func() time.Duration) error {
	if set != nil {
		for _, name := range set.ListMetricNames() {
			if strings.HasPrefix(name, "quern_lease_") {
				return errors.New("owner: Config.Metrics belongs to another owner; give each its own set")
			}
		}
	}
	counter := func(name string) *metrics.Counter {
		if set == nil {
			return &metrics.Counter{}
		}
		s.names = append(s.names, name)
		return set.NewCounter(name)
	}
	s.proofOK = counter(`quern_lease_proofs_total{result="ok"}`)
	s.proofFailed = counter(`quern_lease_proofs_total{result="failed"}`)
	s.takeovers = counter(`quern_lease_takeovers_total`)
	s.raised = counter(`quern_lease_epochs_raised_total`)
	s.releasedClean = counter(`quern_lease_releases_total{clean="true"}`)
	s.releasedOtherwise = counter(`quern_lease_releases_total{clean="false"}`)
	s.placements = counter(`quern_placement_writes_total`)
	s.asks, s.errors = make(map[string]*metrics.Counter), make(map[string]*metrics.Counter)
	for _, call := range calls {
		s.asks[call] = counter(fmt.Sprintf("quern_authority_calls_total{call=%q}", call))
		s.errors[call] = counter(fmt.Sprintf("quern_authority_errors_total{call=%q}", call))
	}
	if set == nil {
		return nil
	}
	gauge := func(name string, value func() float64) {
		s.names = append(s.names, name)
		set.NewGauge(name, value)
	}
	gauge("quern_lease_shards", func() float64 { return float64(s.leases.Load()) })
	gauge("quern_lease_trust_seconds", func() float64 {
		if s.leases.Load() == 0 {
			return 0
		}
		return max(0, (time.Duration(s.until.Load()) - clock()).Seconds())
	})
	return nil
}

func (s *stats) unregister(set *metrics.Set) {
	if set == nil {
		return
	}
	for _, name := range s.names {
		set.UnregisterMetric(name)
	}
}

func (s *stats) asked(call string, err error) {
	s.asks[call].Inc()
	if err != nil {
		s.errors[call].Inc()
	}
}

func (s *stats) released(clean bool) {
	if clean {
		s.releasedClean.Inc()
		return
	}
	s.releasedOtherwise.Inc()
}
