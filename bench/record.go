package bench

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/quern-io/quern/failure"
)

// Histograms count nanoseconds up to ten minutes; longer ones count as that.
// The run's has three significant digits, an interval's has two.
const (
	maxLatency     = int64(10 * time.Minute)
	runDigits      = 3
	intervalDigits = 2
)

func newHistogram(digits int) *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency, digits)
}

// maxPoints bounds the series: longer runs have longer intervals.
const maxPoints = 600

// Point is one interval of the load. Operations belong to the interval in
// which they ended.
type Point struct {
	// Start is the interval's beginning, counted from the load's.
	Start time.Duration
	// Ops were done, Errors refused, Unknown neither.
	Ops, Errors, Unknown int64
	// P50, P99 and Max are latencies in nanoseconds.
	P50, P99, Max int64
}

// series gathers the intervals of all workers. mu guards points.
type series struct {
	interval time.Duration
	mu       sync.Mutex
	points   []*window
}

// window is one interval of one worker, and in series their sum.
type window struct {
	ops, errors, unknown, max int64
	latency                   *hdrhistogram.Histogram
}

func newWindow() *window { return &window{latency: newHistogram(intervalDigits)} }

func newSeries(d time.Duration) *series {
	interval := time.Second
	if d > maxPoints*interval {
		interval = (d / maxPoints).Round(time.Second) + time.Second
	}
	return &series{interval: interval}
}

// add merges w into interval i.
func (s *series) add(i int64, w *window) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for int64(len(s.points)) <= i {
		s.points = append(s.points, newWindow())
	}
	p := s.points[i]
	p.ops += w.ops
	p.errors += w.errors
	p.unknown += w.unknown
	p.max = max(p.max, w.max)
	p.latency.Merge(w.latency) // the same geometry: nothing is dropped
}

// rate is the operations per second of interval i; 0 where it has none yet.
func (s *series) rate(i int) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i < 0 || i >= len(s.points) {
		return 0
	}
	return float64(s.points[i].ops) / s.interval.Seconds()
}

// ops is the number of operations that were done in all intervals so far.
func (s *series) ops() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := int64(0)
	for _, p := range s.points {
		n += p.ops
	}
	return n
}

func (s *series) summary() []Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Point, len(s.points))
	for i, p := range s.points {
		out[i] = Point{
			Start:   time.Duration(i) * s.interval,
			Ops:     p.ops,
			Errors:  p.errors,
			Unknown: p.unknown,
			P50:     min(p.latency.ValueAtQuantile(50), p.max),
			P99:     min(p.latency.ValueAtQuantile(99), p.max),
			Max:     p.max,
		}
	}
	return out
}

// recorder is one worker's account of what its operations took. It belongs to
// that worker until the load is over.
type recorder struct {
	series  *series
	latency *hdrhistogram.Histogram
	now     *window
	index   int64 // of the interval that now counts
	end     int64 // of that interval, in nanoseconds from the start
	ops     int64
	errors  int64
	unknown int64
	max     int64
	reasons map[string]int64
}

func newRecorder(s *series) *recorder {
	return &recorder{
		series:  s,
		latency: newHistogram(runDigits),
		now:     newWindow(),
		end:     int64(s.interval),
		reasons: make(map[string]int64),
	}
}

// record notes a round that ended at now and took latency nanoseconds. It
// returns how long the worker should wait after what failed, 0 where nothing
// did.
func (r *recorder) record(now, latency, done int64, failed []failures) (wait time.Duration) {
	if now >= r.end {
		r.roll(now)
	}
	timed := done
	r.ops += done
	r.now.ops += done
	for _, f := range failed {
		r.reasons[reasonOf(f.err)] += f.n
		wait = max(wait, retryAfter(f.err))
		if failure.OutcomeOf(f.err) == failure.NotDone {
			r.errors += f.n
			r.now.errors += f.n
			continue
		}
		r.unknown += f.n
		r.now.unknown += f.n
		timed += f.n
	}
	if timed > 0 {
		r.timed(latency, timed)
	}
	return wait
}

func (r *recorder) timed(latency, n int64) {
	latency = min(max(latency, 0), maxLatency)
	if latency > r.max {
		r.max = latency
	}
	if latency > r.now.max {
		r.now.max = latency
	}
	_ = r.latency.RecordValues(latency, n) // within the bounds of both
	_ = r.now.latency.RecordValues(latency, n)
}

// roll hands the interval over and begins the one that now falls in.
func (r *recorder) roll(now int64) {
	r.series.add(r.index, r.now)
	r.now.latency.Reset()
	*r.now = window{latency: r.now.latency}
	r.index = now / int64(r.series.interval)
	r.end = (r.index + 1) * int64(r.series.interval)
}

// reasonOf names an error in the table of errors.
func reasonOf(err error) string {
	var f *failure.Error
	switch {
	case errors.As(err, &f):
		return f.Reason.String()
	case errors.Is(err, context.DeadlineExceeded):
		return failure.DeadlineExceeded.String()
	case errors.Is(err, context.Canceled):
		return failure.Canceled.String()
	default:
		return "OTHER"
	}
}
