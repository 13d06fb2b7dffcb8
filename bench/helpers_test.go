package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// crew starts helpers in this process. fate, where set, is called with each
// one's number, from 0 on, and its target may be another.
type crew struct {
	target handles.Invoker
	fate   func(n int, h *Helper)

	mu sync.Mutex
	n  int
}

var errKilled = errors.New("signal: killed")

func (c *crew) start() (Helper, error) {
	in, orders := io.Pipe()
	words, out := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	var killed sync.Once
	var death error
	h := Helper{
		In:  orders,
		Out: words,
		Kill: func() {
			killed.Do(func() {
				death = errKilled
				cancel()
				_ = in.CloseWithError(errKilled)
				_ = out.CloseWithError(io.EOF)
			})
		},
		Wait: func() error {
			err := <-gone
			killed.Do(func() {})
			cancel()
			return errors.Join(death, err)
		},
	}
	go func() {
		err := help(ctx, []handles.Invoker{c.target}, in, out, func(c *Config) { c.pace = timerOnly })
		_ = out.Close()
		gone <- err
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fate != nil {
		c.fate(c.n, &h)
	}
	c.n++
	return h, nil
}

func TestAHelperThatDiesIsAnErrorOfTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		to := slow{f, time.Millisecond}
		c := &crew{target: to, fate: func(n int, h *Helper) {
			if n == 1 {
				time.AfterFunc(3500*time.Millisecond, h.Kill)
			}
		}}
		r, err := Run(t.Context(), Config{
			Target: to, pace: timerOnly, Workload: "counter-add", Keys: 10, Concurrency: 4, Processes: 2, Start: c.start, Duration: 5 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.OK() || r.Died != 1 || r.Lost+r.Doubled+r.Violations != 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "process 2 of 2 died (signal: killed") {
			t.Errorf("%+v", r)
		}
		if r.Unknown < 3900 || r.ErrorsByReason[reasonDied] != r.Unknown || r.Acked != 10_000 || r.Applied <= r.Acked {
			t.Errorf("unknown %d, acked %d, applied %d", r.Unknown, r.Acked, r.Applied)
		}
	})
}

// What the others acknowledged counts also where one died.
func TestWhatAHelperLosesIsFoundBesideADeadOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.after = func(_ int, op *handles.Operation) error {
			if op.Method == handles.CounterAdd {
				f.change(op.Key, -1)
			}
			return nil
		}
		to := slow{f, time.Millisecond}
		c := &crew{target: to, fate: func(n int, h *Helper) {
			if n == 0 {
				time.AfterFunc(100*time.Millisecond, h.Kill)
			}
		}}
		r, err := Run(t.Context(), Config{
			Target: to, pace: timerOnly, Workload: "counter-add", Keys: 10, Concurrency: 4, Processes: 2, Start: c.start, Duration: time.Second,
		})
		if err != nil || r.Lost != 2000 || r.Acked != 2000 || r.Died != 1 {
			t.Errorf("%v %+v", err, r)
		}
	})
}

// cut is a reader that ends after n bytes.
type cut struct {
	io.Reader
	n int
}

func (c *cut) Read(p []byte) (int, error) {
	if c.n == 0 {
		return 0, io.EOF
	}
	n, err := c.Reader.Read(p[:min(len(p), c.n)])
	c.n -= n
	return n, err
}

func TestAHelperThatCannotBeginEndsTheRun(t *testing.T) {
	f := newFake()
	for name, start := range map[string]func() (Helper, error){
		"no such file":                           func() (Helper, error) { return Helper{}, errors.New("no such file") },
		"process 1 of 2 could not begin: signal": (&crew{target: f, fate: func(_ int, h *Helper) { h.Kill() }}).start,
	} {
		_, err := Run(t.Context(), Config{Target: f, Workload: "counter-add", Keys: 1, Processes: 2, Start: start, Duration: time.Second})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %s", err, name)
		}
	}
}

func TestAHelperThatHangsIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		to := slow{f, time.Millisecond}
		hang, release := io.Pipe()
		begun := time.Now()
		c := &crew{target: to, fate: func(n int, h *Helper) {
			if n == 0 {
				kill := h.Kill
				h.Out = io.MultiReader(&cut{h.Out, 15}, hang)
				h.Kill = func() { kill(); _ = release.Close() }
			}
		}}
		r, err := Run(t.Context(), Config{
			Target: to, pace: timerOnly, Workload: "counter-add", Keys: 10, Concurrency: 4, Processes: 2, Start: c.start, Duration: time.Second,
		})
		if took := time.Since(begun); err != nil || r.Died != 1 || r.OK() || took > time.Second+DefaultGrace+2*helpSlack {
			t.Errorf("%v %+v", err, r)
		}
	})
}

func TestInterruptEndsTheLoadOfAllHelpers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500500*time.Microsecond)
		defer cancel()
		f := newFake()
		to := slow{f, time.Millisecond}
		var phases []string
		r, err := Run(ctx, Config{
			Target: to, pace: timerOnly, Workload: "counter-add", Keys: 10, Concurrency: 4, Processes: 2, Start: (&crew{target: to}).start,
			Duration: time.Hour, Progress: func(p Progress) { phases = append(phases, fmt.Sprint(p.Phase, " ", p.OpsPerSec)) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if !r.Interrupted || !r.OK() || r.Unknown != 0 || r.Applied != r.Acked || r.Acked < 9_900 || !f.expired[r.Prefix+"0"] || r.DurationS > 3 {
			t.Errorf("%+v", r)
		}
		if got := strings.Join(phases, ", "); !strings.HasPrefix(got, "prepare 0, load 0, load ") || !strings.HasSuffix(got, "check 0, expire 0") {
			t.Errorf("phases %s", got)
		}
	})
}

// Two processes answer the same value: neither of them alone can see it.
func TestAValueThatTwoProcessesWereAnsweredIsFound(t *testing.T) {
	f := newFake()
	f.after = func(n int, op *handles.Operation) error {
		if m := reply[*quernv1.CounterServiceAddResponse](op); m != nil && n == 50 {
			m.Value-- // the other one's
		}
		return nil
	}
	r := bubbled(t, f, time.Millisecond, Config{Workload: "counter-hot", Concurrency: 2, Processes: 2, Duration: time.Second})
	if r.OK() || r.Violations != 1 || !strings.Contains(r.Examples[0], "both answered 49") || r.Lost+r.Doubled != 0 {
		t.Errorf("%+v", r)
	}
}

func TestProcessesShareNewKeysOut(t *testing.T) {
	f := newFake()
	r := bubbled(t, f, time.Millisecond, Config{Workload: "spawn", Keys: 101, Concurrency: 5, Processes: 3, Pipeline: 4, Duration: time.Minute})
	if !r.OK() || r.Ops != 101 || r.Keys != 101 || len(f.values) != 101 || r.Acked != 101 || r.Applied != 101 {
		t.Errorf("%d keys: %+v", len(f.values), r)
	}
}

// Processes that are not equally fast use unequal numbers of keys.
func TestKeysThatProcessesUsedAreCounted(t *testing.T) {
	f := newFake()
	r := bubbled(t, f, time.Millisecond, Config{Workload: "spawn", Keys: 1000, Concurrency: 5, Processes: 3, Duration: 20 * time.Millisecond})
	if !r.OK() || r.Keys != len(f.values) || r.Ops != int64(r.Keys) || r.Keys < 90 || r.Keys > 110 {
		t.Errorf("%d keys: %+v", len(f.values), r)
	}
}

func TestValuesFromBeforeTheRunReachTheHelpers(t *testing.T) {
	f := newFake()
	f.values["mine0"], f.values["mine1"] = 1_000_000, -7
	for _, name := range []string{"counter-add", "counter-get", "counter-columns"} {
		before := len(f.expired)
		r := bubbled(t, f, time.Millisecond, Config{
			Workload: name, Prefix: "mine", Keys: 3, Concurrency: 2, Pipeline: 2, Processes: 2, Duration: time.Second,
		})
		if !r.OK() || r.Ops != 4000 || f.expired["mine0"] {
			t.Errorf("%s: %d before, expired %v, %+v", name, before, f.expired, r)
		}
	}
}
