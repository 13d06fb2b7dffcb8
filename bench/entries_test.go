package bench

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// put500 runs after at the 500th put.
func put500(f *fake, after func(op *handles.Operation) error) {
	f.after = func(n int, op *handles.Operation) error {
		if n != 500 || op.Method != handles.MapPut {
			return nil
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		return after(op)
	}
}

func TestEntryCheckFindsWhatATargetDoes(t *testing.T) {
	t.Parallel()
	old := handles.MapValue{}
	for _, tt := range []struct {
		name     string
		workload string
		sabotage func(f *fake)
		check    func(r *Result) bool
	}{
		{"loses an acknowledged put", "map-put", func(f *fake) {
			key := ""
			f.after = func(n int, op *handles.Operation) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				switch {
				case op.Method != handles.MapPut:
				case key == "" && n >= 500:
					key, old = op.Key, f.entries[op.Key]
				case op.Key == key: // and all later ones to this key
					f.entries[key] = old
				}
				return nil
			}
		}, func(r *Result) bool { return r.Lost == 1 && r.Doubled == 0 && r.Violations == 0 }},
		{"makes an old put again", "map-put", func(f *fake) {
			f.before = func(n int, op *handles.Operation) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				if n == 50 {
					old = f.entries[op.Key]
				}
				if op.Method == handles.MapGet && n > 50 && old.Version != 0 { // the check
					f.set(op.Key, old.Value)
					old.Version = 0
				}
				return nil
			}
		}, func(r *Result) bool { return r.Doubled == 1 && r.Lost == 0 && r.Violations == 0 }},
		{"lets a stranger put", "map-put", func(f *fake) {
			f.before = func(n int, op *handles.Operation) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				if op.Method == handles.MapGet && n > 50 && old.Version == 0 {
					old.Version = f.set(op.Key, []byte("stranger"))
				}
				return nil
			}
		}, func(r *Result) bool { return r.Doubled == 1 && r.Lost == 0 }},
		{"changes a value", "map-put", func(f *fake) {
			f.before = func(n int, op *handles.Operation) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				if e := f.entries[op.Key]; op.Method == handles.MapGet && n > 50 && e.Found() {
					e.Value[len(e.Value)-1]++
				}
				return nil
			}
		}, func(r *Result) bool { return r.Lost > 0 && r.Lost == r.Doubled }},
		{"answers a version again", "map-put", func(f *fake) {
			put500(f, func(op *handles.Operation) error {
				reply[*quernv1.MapServicePutResponse](op).Version = 1
				return nil
			})
		}, func(r *Result) bool { return r.Violations == 1 && r.Lost+r.Doubled <= 1 }},
		{"says not done of a put that it made", "map-put", func(f *fake) {
			f.after = func(n int, op *handles.Operation) error {
				if op.Method == handles.MapPut && n > 1000 {
					return failure.New(failure.Overloaded, "full")
				}
				return nil
			}
		}, func(r *Result) bool { return r.Doubled > 0 && r.Lost == 0 }},
		{"answers another's value", "map-get", func(f *fake) {
			f.after = func(_ int, op *handles.Operation) error {
				f.mu.Lock()
				defer f.mu.Unlock()
				if m := reply[*quernv1.MapServiceGetResponse](op); m != nil && m.GetFound() {
					if f.adds++; f.adds == 50 {
						m.Value = []byte("another")
					}
				}
				return nil
			}
		}, func(r *Result) bool { return r.Violations == 1 }},
	} {
		for _, m := range modes {
			old = handles.MapValue{}
			f := newFake()
			tt.sabotage(f)
			r := bubbled(t, f, time.Millisecond, Config{
				Workload: tt.workload, Keys: 10, Concurrency: 4, Duration: 1200 * time.Millisecond / time.Duration(m.pipeline), Pipeline: m.pipeline, Processes: m.processes, Seed: 1,
			})
			if r.OK() || !tt.check(r) {
				t.Errorf("%s, %s: %+v", tt.name, m.name, r)
			}
		}
	}
}

// A put of unknown outcome may be there or not, as long as the last one that
// was acknowledged is not older.
func TestPutsOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		for _, made := range []bool{false, true} {
			f := newFake()
			lost := func(n int, op *handles.Operation) error {
				if op.Method == handles.MapPut && n%3 != 0 && op.Request.(*quernv1.MapServicePutRequest).GetTtl() == nil { //nolint:errcheck,forcetypeassert // as the method says
					return failure.New(failure.OutcomeUnknown, "the connection broke")
				}
				return nil
			}
			if f.before = lost; made {
				f.before, f.after = nil, lost
			}
			r := bubbled(t, f, time.Millisecond, Config{
				Workload: "map-put", Keys: 20, Concurrency: 4, Duration: time.Second, Pipeline: m.pipeline, Processes: m.processes,
			})
			if !r.OK() || r.Unknown < r.Acked || r.Acked == 0 || (r.Applied > r.Acked) != made || r.Applied-r.Acked > 20 {
				t.Errorf("%s, made %v: %+v", m.name, made, r)
			}
		}
	}
}

// What was there before the run stays known, and does not expire by map-get.
func TestEntriesFromBeforeTheRun(t *testing.T) {
	t.Parallel()
	for _, m := range modes {
		for _, name := range []string{"map-get", "map-put"} {
			f := newFake()
			f.version = 1 << 63
			f.set("mine0", []byte("short"))
			f.set("mine1", nil)
			r := bubbled(t, f, time.Millisecond, Config{
				Workload: name, Prefix: "mine", Keys: 4, Concurrency: 4, Pipeline: m.pipeline, Processes: m.processes,
				Duration: time.Second, Payload: 16,
			})
			if !r.OK() || r.Ops < 3000 || f.expired["mine0"] || !f.expired["mine3"] || r.Payload != 16 || len(r.Notes) != 0 {
				t.Errorf("%s, %s: expired %v, %+v", name, m.name, f.expired, r)
			}
			if e := f.entries["mine0"]; name == "map-get" && string(e.Value) != "short" {
				t.Errorf("%s: %q", name, e.Value)
			}
		}
	}
}

func TestPayloads(t *testing.T) {
	t.Parallel()
	for _, size := range []int{MinPayload, 17, 100, MaxPayload} {
		p, other := newPayloads("run", size), newPayloads("another", size)
		value := p.make()
		stamp(7<<stampWorker | 9).put(value)
		if got := p.read(value); got != 7<<stampWorker|9 || len(value) != size {
			t.Errorf("%d: stamp %x, %d bytes", size, got, len(value))
		}
		if other.read(value) != 0 || p.read(value[1:]) != 0 || p.read(append(value, 0)) != 0 || p.read(nil) != 0 {
			t.Errorf("%d: a stranger's value was taken for this run's", size)
		}
		if value[size-1]++; size > MinPayload && p.read(value) != 0 {
			t.Errorf("%d: a changed value was not noticed", size)
		}
	}
	for _, c := range []Config{
		{Workload: "map-put", Payload: MinPayload - 1},
		{Workload: "map-get", Payload: MaxPayload + 1},
		{Workload: "map-put", Payload: MaxPayload, Concurrency: 64, Pipeline: 10_000},
		{Workload: "counter-add", Payload: 100},
	} {
		c.Target = newFake()
		if err := c.complete(); !errors.Is(err, ErrConfig) {
			t.Errorf("%s", fmt.Sprint(c.Workload, c.Payload, err))
		}
	}
}
