package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// timerOnly is a pace for bubbles, in which only durable waits let time pass.
func timerOnly(d time.Duration, stop <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-stop:
	}
}

// bubbled runs cfg in a bubble against f, each operation taking took.
func bubbled(t *testing.T, f *fake, took time.Duration, cfg Config) (r *Result) {
	t.Helper()
	return bubbledTo(t, f, took, cfg)
}

func bubbledTo(t *testing.T, f handles.Batcher, took time.Duration, cfg Config) (r *Result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Target, cfg.pace = slow{f, took}, timerOnly
		if cfg.Processes > 1 && cfg.Start == nil {
			cfg.Start = (&crew{target: cfg.Target}).start
		}
		var err error
		if r, err = Run(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	})
	return r
}

// slow delays every operation, and a batch as if it were one.
type slow struct {
	to   handles.Batcher
	took time.Duration
}

func (s slow) Invoke(ctx context.Context, op *handles.Operation) error {
	timerOnly(s.took, ctx.Done())
	return s.to.Invoke(ctx, op)
}

func (s slow) InvokeAll(ctx context.Context, ops []*handles.Operation) {
	timerOnly(s.took, ctx.Done())
	s.to.InvokeAll(ctx, ops)
}

// modes are the ways to send the same load.
var modes = []struct {
	name                string
	pipeline, processes int
}{{"single", 1, 1}, {"pipelined", 10, 1}, {"processes", 1, 2}, {"pipelined processes", 10, 3}}

func TestEveryWorkloadIsCleanOnAHonestTarget(t *testing.T) {
	for _, name := range Workloads() {
		if workloads[name].locks {
			continue // their target is a node; see TestLockWorkloads
		}
		for _, rate := range []int64{0, 500} {
			for _, m := range modes {
				t.Run(fmt.Sprint(name, rate, m.name), func(t *testing.T) {
					t.Parallel()
					f := newFake()
					r := bubbled(t, f, 8*time.Millisecond, Config{
						Workload: name, Duration: 2 * time.Second, Concurrency: 4, Rate: float64(rate), Seed: 1,
						Pipeline: m.pipeline, Processes: m.processes, Keys: workloads[name].keys / 2,
					})
					if !r.OK() || r.Errors+r.Unknown+r.Backlog != 0 || len(r.Notes) != 0 || r.Pipeline != m.pipeline || r.Processes != m.processes {
						t.Errorf("not clean: %+v", r)
					}
					want := int64(1000 * m.pipeline)
					if rate != 0 {
						want = 2 * rate
					}
					if math.Abs(float64(r.Ops-want)) > float64(30*(m.processes-1)) { // each begins a round before it is over
						t.Errorf("ops = %d, want %d", r.Ops, want)
					}
					writes := map[string]int64{"counter-get": 0, "map-get": 0, "counter-mixed": r.Ops / 10}
					want, part := writes[name]
					if !part {
						want = r.Ops
					}
					if math.Abs(float64(r.Acked-want)) > float64(want)/5 || r.Applied != r.Acked {
						t.Errorf("acked %d applied %d, want %d", r.Acked, r.Applied, want)
					}
					if r.Histogram.TotalCount() != r.Ops || len(r.Series) < 2 || r.Series[0].Ops+r.Series[1].Ops < r.Ops*9/10 {
						t.Errorf("%d latencies of %d operations, series %+v", r.Histogram.TotalCount(), r.Ops, r.Series)
					}
					if math.Abs(r.DurationS-2) > 0.01 { // a round
						t.Errorf("duration_s = %v, want 2", r.DurationS)
					}
					for key := range f.values {
						if !strings.HasPrefix(key, "bench:"+r.Run+":") || !f.expired[key] && f.values[key] != 0 {
							t.Fatalf("key %s: expired %v", key, f.expired[key])
						}
					}
					for key, e := range f.entries {
						if !strings.HasPrefix(key, "bench:"+r.Run+":") || !f.expired[key] || len(e.Value) != DefaultPayload {
							t.Fatalf("entry %s: %d bytes, expired %v", key, len(e.Value), f.expired[key])
						}
					}
				})
			}
		}
	}
}

func TestCheckFindsWhatATargetDoes(t *testing.T) {
	twice := func(f *fake) func(int, *handles.Operation) error {
		return func(n int, op *handles.Operation) error {
			if n%100 == 0 && op.Method.Write {
				f.change(op.Key, 1)
			}
			return nil
		}
	}
	tests := []struct {
		name     string
		workload string
		keys     int
		sabotage func(f *fake)
		ok       bool
		check    func(r *Result) bool
	}{
		{"loses acknowledged adds", "counter-add", 10, func(f *fake) {
			f.after = func(n int, op *handles.Operation) error {
				if op.Method == handles.CounterAdd && n%100 == 0 {
					f.change(op.Key, -1)
				}
				return nil
			}
		}, false, func(r *Result) bool { return r.Lost == r.Acked/100 && r.Doubled == 0 }},
		{
			"applies adds twice", "counter-add", 10, func(f *fake) { f.before = twice(f) }, false,
			func(r *Result) bool { return r.Doubled == r.Acked/100 && r.Lost == 0 },
		},
		{
			"applies spawns twice", "spawn", 0, func(f *fake) { f.before = twice(f) }, false,
			func(r *Result) bool { return r.Doubled == r.Acked/100 && r.Violations == r.Doubled },
		},
		{"loses replies of adds that it made", "counter-add", 10, func(f *fake) {
			f.after = func(n int, op *handles.Operation) error {
				if op.Method == handles.CounterAdd && n%10 == 0 {
					return errLost
				}
				return nil
			}
		}, true, func(r *Result) bool {
			return r.Unknown > 0 && r.Applied == r.Acked+r.Unknown && r.ErrorsByReason["OTHER"]+r.ErrorsByReason["OUTCOME_UNKNOWN"] == r.Unknown
		}},
		{"loses adds before it makes them", "counter-add", 10, func(f *fake) {
			f.before = func(n int, op *handles.Operation) error {
				if op.Method == handles.CounterAdd && n%10 == 0 {
					return failure.New(failure.OutcomeUnknown, "the connection broke")
				}
				return nil
			}
		}, true, func(r *Result) bool { return r.Unknown > 0 && r.Applied == r.Acked }},
		{"is overloaded", "counter-add", 10, func(f *fake) {
			f.before = func(n int, op *handles.Operation) error {
				if op.Method == handles.CounterAdd && n%10 == 0 {
					return failure.New(failure.Overloaded, "full").After(5 * time.Millisecond)
				}
				return nil
			}
		}, true, func(r *Result) bool {
			return r.Errors > 0 && r.Unknown == 0 && r.Applied == r.Acked && r.ErrorsByReason["OVERLOADED"] == r.Errors
		}},
		{"says not done of adds that it made", "counter-add", 10, func(f *fake) {
			f.after = func(n int, op *handles.Operation) error {
				if op.Method == handles.CounterAdd && n == 7 {
					return failure.New(failure.Overloaded, "full")
				}
				return nil
			}
		}, false, func(r *Result) bool { return r.Doubled == 1 }},
		{"mixes up replies", "counter-add", 1, func(f *fake) {
			f.after = func(n int, op *handles.Operation) error {
				if m := reply[*quernv1.CounterServiceAddResponse](op); m != nil && n == 50 {
					m.Value = 1
				}
				return nil
			}
		}, false, func(r *Result) bool { return r.Violations == 1 && r.Lost+r.Doubled == 0 }},
		{"answers a value twice", "counter-hot", 0, func(f *fake) {
			f.after = func(n int, op *handles.Operation) error {
				if m := reply[*quernv1.CounterServiceAddResponse](op); m != nil && n == 50 {
					m.Value-- // another worker's, so that it still rises for this one
				}
				return nil
			}
		}, false, func(r *Result) bool { return r.Violations == 1 && strings.Contains(r.Examples[0], "both answered 49") }},
		{"reads stale values", "counter-mixed", 1, func(f *fake) {
			f.after = func(n int, op *handles.Operation) error {
				if m := reply[*quernv1.CounterServiceGetResponse](op); m != nil && n > 20 {
					m.Value = min(m.Value, 3)
				}
				return nil
			}
		}, false, func(r *Result) bool { return r.Violations > 0 }},
		{"reads another key's value", "counter-get", 10, func(f *fake) {
			var reads atomic.Int64
			f.after = func(_ int, op *handles.Operation) error {
				if m := reply[*quernv1.CounterServiceGetResponse](op); m != nil && reads.Add(1) == 100 {
					m.Value += 1000
				}
				return nil
			}
		}, false, func(r *Result) bool { return r.Violations == 1 }},
		{"is changed by a stranger", "counter-add", 10, func(f *fake) {
			f.before = func(n int, op *handles.Operation) error {
				if op.Method == handles.CounterAdd && n == 100 {
					f.change(op.Key, 5)
				}
				return nil
			}
		}, false, func(r *Result) bool { return r.Doubled == 5 && r.Lost == 0 }},
		{"is set to the end of the range by a stranger", "counter-add", 2, func(f *fake) {
			f.after = func(n int, op *handles.Operation) error {
				if op.Method == handles.CounterAdd && n == 1000 {
					f.mu.Lock()
					f.values[op.Key] = math.MinInt64
					f.mu.Unlock()
				}
				return nil
			}
		}, false, func(r *Result) bool { return r.Lost > math.MaxInt64/2 }},
	}
	for _, tt := range tests {
		for _, m := range modes {
			for _, workload := range []string{tt.workload, "counter-columns"} {
				if workload != tt.workload && (tt.workload != "counter-add" || tt.keys < 10) {
					continue
				}
				t.Run(fmt.Sprint(tt.name, " ", m.name, " ", workload), func(t *testing.T) {
					t.Parallel()
					f := newFake()
					tt.sabotage(f)
					r := bubbled(t, f, time.Millisecond, Config{
						Workload: workload, Keys: tt.keys, Duration: time.Second, Concurrency: 3, Seed: 1,
						Pipeline: m.pipeline, Processes: m.processes,
					})
					if r.OK() != tt.ok || !tt.check(r) {
						r.Series = nil
						t.Errorf("ok = %v, want %v: %+v", r.OK(), tt.ok, r)
					}
				})
			}
		}
	}
}

func TestValuesFromBeforeTheRunCount(t *testing.T) {
	f := newFake()
	f.values["mine0"], f.values["mine1"] = 1_000_000, -7
	r := bubbled(t, f, time.Millisecond, Config{Workload: "counter-add", Prefix: "mine", Keys: 3, Duration: time.Second, Concurrency: 2})
	if !r.OK() || r.Acked != r.Applied || r.Acked != 2000 {
		t.Errorf("%+v", r)
	}
	if f.expired["mine0"] || f.expired["mine1"] || !f.expired["mine2"] {
		t.Errorf("expired %v: only keys that the run made should expire", f.expired)
	}
}

func TestReadsKeepValuesFromBeforeTheRun(t *testing.T) {
	f := newFake()
	f.values["mine0"] = 42
	r := bubbled(t, f, time.Millisecond, Config{Workload: "counter-get", Prefix: "mine", Keys: 3, Duration: time.Second, Concurrency: 2})
	if !r.OK() || f.values["mine0"] != 42 || f.values["mine2"] != 3 {
		t.Errorf("values %v, %+v", f.values, r)
	}
	if f.expired["mine0"] || !f.expired["mine1"] {
		t.Errorf("expired %v", f.expired)
	}
}

func TestSpawnWantsNewKeys(t *testing.T) {
	f := newFake()
	f.values["mine0"] = 1
	_, err := Run(t.Context(), Config{Target: f, Workload: "spawn", Prefix: "mine", Duration: time.Second})
	if !errors.Is(err, ErrKeysUsed) {
		t.Errorf("err = %v, want ErrKeysUsed", err)
	}
}

func TestSpawnEndsWithItsKeys(t *testing.T) {
	r := bubbled(t, newFake(), time.Millisecond, Config{Workload: "spawn", Keys: 100, Concurrency: 4, Duration: time.Minute})
	if !r.OK() || r.Ops != 100 || r.Keys != 100 || r.DurationS > 0.05 {
		t.Errorf("%+v", r)
	}
}

// A target that stalls is charged for every operation that was due meanwhile.
func TestOpenLoopCountsFromTheDueTime(t *testing.T) {
	f := newFake()
	f.before = func(n int, op *handles.Operation) error {
		if op.Method == handles.CounterAdd && n == 101 {
			timerOnly(time.Second, nil)
		}
		return nil
	}
	r := bubbled(t, f, 0, Config{Workload: "counter-add", Rate: 100, Concurrency: 1, Duration: 4 * time.Second, Keys: 10})
	if r.Ops != 400 || r.Backlog != 0 || !r.OK() {
		t.Fatalf("ops %d backlog %d", r.Ops, r.Backlog)
	}
	// Due at 1.00 s and held up for 1 s, then those behind it for 0.99 s and so on.
	if r.LatencyUS.Max != 1e6 {
		t.Errorf("max = %v us, want 1 s", r.LatencyUS.Max)
	}
	over := 0.0
	for _, b := range r.Histogram.Distribution() {
		if b.From > int64(495*time.Millisecond) {
			over += float64(b.Count)
		}
	}
	if over < 49 || over > 52 {
		t.Errorf("%v operations took half a second or more, want 50", over)
	}
	if got := r.Series[2].Max; got < int64(900*time.Millisecond) {
		t.Errorf("the series does not show the stall: %v", time.Duration(got))
	}
}

func TestOverloadedOpenLoopReportsItsBacklog(t *testing.T) {
	for _, pipeline := range []int{1, 10} {
		r := bubbled(t, newFake(), time.Duration(pipeline)*10*time.Millisecond, Config{
			Workload: "counter-add", Rate: 1000, Concurrency: 2, Duration: 2 * time.Second, Keys: 10, Pipeline: pipeline,
		})
		if r.Ops != 400 || r.Backlog != 1600 || !r.OK() {
			t.Errorf("ops %d backlog %d, want 400 and 1600", r.Ops, r.Backlog)
		}
		if r.LatencyUS.Max < 1.5e6 {
			t.Errorf("max = %v us: the wait for a worker is missing", r.LatencyUS.Max)
		}
	}
}

func TestStuckOperationsEndAsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		r, err := Run(t.Context(), Config{
			Target: stuck{f, 50}, pace: timerOnly, Workload: "counter-add", Keys: 10,
			Concurrency: 2, Duration: time.Second, Grace: 3 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Unknown != 2 || r.ErrorsByReason["DEADLINE_EXCEEDED"] != 2 || !r.OK() || r.DurationS != 4 {
			t.Errorf("%+v", r)
		}
	})
}

// stuck never answers adds from the n-th on.
type stuck struct {
	*fake
	n int
}

func (s stuck) Invoke(ctx context.Context, op *handles.Operation) error {
	if op.Method == handles.CounterAdd {
		timerOnly(time.Millisecond, nil)
		s.mu.Lock()
		reached := s.adds >= s.n
		s.mu.Unlock()
		if reached {
			<-ctx.Done()
			return ctx.Err()
		}
	}
	return s.fake.Invoke(ctx, op)
}

func TestInterruptEndsTheLoadAndStillChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 1500500*time.Microsecond)
		defer cancel()
		var phases []string
		f := newFake()
		r, err := Run(ctx, Config{
			Target: slow{f, time.Millisecond}, pace: timerOnly, Workload: "counter-add", Keys: 10, Concurrency: 2, Duration: time.Hour,
			Progress: func(p Progress) { phases = append(phases, p.Phase) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if !r.Interrupted || !r.OK() || r.Unknown != 0 || r.Applied != r.Acked || r.Acked < 2900 || !f.expired[r.Prefix+"0"] {
			t.Errorf("%+v", r)
		}
		if got := strings.Join(phases, " "); got != "prepare load load check expire" {
			t.Errorf("phases %s", got)
		}
	})
}

func TestATargetThatEndsLeavesKeysUnread(t *testing.T) {
	f := newFake()
	f.before = func(n int, _ *handles.Operation) error {
		if n >= 500 {
			return failure.New(failure.Stopping, "the node ends")
		}
		return nil
	}
	r := bubbled(t, f, time.Millisecond, Config{Workload: "counter-add", Keys: 10, Concurrency: 1, Duration: time.Second})
	if r.OK() || r.Unread != 10 || r.Errors == 0 || len(r.Notes) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestAnUnreachableTargetIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.before = func(int, *handles.Operation) error { return errLost }
		_, err := Run(t.Context(), Config{Target: f, Workload: "counter-add"})
		if !errors.Is(err, errLost) {
			t.Errorf("err = %v", err)
		}
	})
}

func TestConfigIsRefusedByName(t *testing.T) {
	for want, cfg := range map[string]Config{
		`no workload "x"`:         {Workload: "x"},
		"duration -1s":            {Workload: "spawn", Duration: -time.Second},
		"concurrency -1":          {Workload: "spawn", Concurrency: -1},
		"keys 10000001":           {Workload: "spawn", Keys: 10_000_001},
		"keys 2, but counter-hot": {Workload: "counter-hot", Keys: 2},
		`dist "x"`:                {Workload: "counter-add", Dist: "x"},
		"dist zipf, but spawn":    {Workload: "spawn", Dist: Zipf},
		"rate NaN":                {Workload: "spawn", Rate: math.NaN()},
		"rate -1":                 {Workload: "spawn", Rate: -1},
		"pipeline -1":             {Workload: "spawn", Pipeline: -1},
		"pipeline 10001":          {Workload: "spawn", Pipeline: 10_001},
		"101 workers with 10000":  {Workload: "counter-columns", Pipeline: 10_000, Concurrency: 101},
		"keys 999, but counter":   {Workload: "counter-columns", Keys: 999},
		"processes -1":            {Workload: "spawn", Processes: -1},
		"processes 65":            {Workload: "spawn", Processes: 65},
		"3 processes for 2":       {Workload: "spawn", Processes: 3, Concurrency: 2},
		"no way to start them":    {Workload: "spawn", Processes: 2},
		"2 connections for 1":     {Workload: "spawn", Targets: []handles.Invoker{newFake()}, Concurrency: 1},
		"one operation at a time": {Workload: "spawn", Targets: []handles.Invoker{single{newFake()}}, Pipeline: 2},
		"the prefix has 481":      {Workload: "spawn", Prefix: strings.Repeat("x", 481)},
	} {
		cfg.Target = newFake()
		_, err := Run(t.Context(), cfg)
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
}

// single takes one operation at a time.
type single struct{ handles.Invoker }
