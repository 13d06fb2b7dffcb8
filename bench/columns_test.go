package bench

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func TestKeysOfACallDiffer(t *testing.T) {
	t.Parallel()
	for _, keys := range []int{1, 2, 3, 10, 100, 10_000} {
		for _, n := range []int{1, 2, 9, 50, 99, 100, 10_000} {
			for _, dist := range []Dist{Uniform, Zipf} {
				if n > keys {
					continue
				}
				set, random, p, out := newKeySet(n), rand.NewPCG(1, 1), newPicker(keys, dist), make([]int, n)
				for range 20 {
					set.draw(p, random, out)
					seen := map[int]bool{}
					for _, k := range out {
						if seen[k] || k < 0 || k >= keys {
							t.Fatalf("%d of %d, %s: key %d", n, keys, dist, k)
						}
						seen[k] = true
					}
				}
			}
		}
	}
}

// Drawn without repeats, the first keys of a skewed choice still lead.
func TestKeysOfACallFollowTheDistribution(t *testing.T) {
	t.Parallel()
	for _, dist := range []Dist{Uniform, Zipf} {
		set, random, p, out := newKeySet(100), rand.NewPCG(1, 1), newPicker(10_000, dist), make([]int, 100)
		counts := make([]int, 10)
		for range 1000 {
			set.draw(p, random, out)
			for _, k := range out {
				counts[k/1000]++
			}
		}
		for i, n := range counts {
			if dist == Uniform && (n < 9_000 || n > 11_000) || dist == Zipf && i > 0 && n*5 > counts[0] {
				t.Errorf("%s: %v", dist, counts)
			}
		}
	}
}

// A bulk add whose own outcome is not known leaves each of its keys unknown.
func TestBulkAddsThatFailAsAWhole(t *testing.T) {
	for _, made := range []bool{false, true} {
		f := newFake()
		calls := 0
		to := whole{f, func(op *handles.Operation) error {
			if calls++; calls%10 != 0 {
				return f.Invoke(t.Context(), op)
			}
			if made {
				_ = f.Invoke(t.Context(), op)
			}
			return failure.New(failure.OutcomeUnknown, "the connection broke")
		}}
		r := bubbledTo(t, to, time.Millisecond, Config{Workload: "counter-columns", Keys: 50, Pipeline: 7, Concurrency: 1, Duration: time.Second})
		want := r.Acked
		if made {
			want += r.Unknown
		}
		if !r.OK() || r.Unknown < 500 || r.Unknown%7 != 0 || r.Applied != want || r.ErrorsByReason["OUTCOME_UNKNOWN"] != r.Unknown {
			t.Errorf("made %v: %+v", made, r)
		}
	}
}

func TestBulkAddsThatLieAreFound(t *testing.T) {
	for name, lie := range map[string]func(m *quernv1.CounterServiceAddManyResponse){
		"a failure of no key":    func(m *quernv1.CounterServiceAddManyResponse) { fails(m, 7) },
		"a failure twice":        func(m *quernv1.CounterServiceAddManyResponse) { fails(m, 1, 1) },
		"a failure that was not": func(m *quernv1.CounterServiceAddManyResponse) { fails(m, 3) },
		"a value of another key": func(m *quernv1.CounterServiceAddManyResponse) { m.Values[3] = 0 },
		"a value too many":       func(m *quernv1.CounterServiceAddManyResponse) { m.Values = append(m.Values, 1); m.Values[0] = 0 },
	} {
		f := newFake()
		calls := 0
		to := whole{f, func(op *handles.Operation) error {
			err := f.Invoke(t.Context(), op)
			if m := reply[*quernv1.CounterServiceAddManyResponse](op); m != nil {
				if calls++; calls == 20 {
					lie(m)
				}
			}
			return err
		}}
		r := bubbledTo(t, to, time.Millisecond, Config{Workload: "counter-columns", Keys: 50, Pipeline: 7, Concurrency: 1, Duration: time.Second})
		if name == "a value too many" {
			if r.Unknown != 7 {
				t.Errorf("%s: %+v", name, r)
			}
			continue
		}
		if r.OK() || r.Violations+r.Doubled != 1 && name != "a failure twice" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func fails(m *quernv1.CounterServiceAddManyResponse, indexes ...uint32) {
	for _, i := range indexes {
		m.Failures = append(m.Failures, &quernv1.AddManyFailure{Index: i, Reason: "OVERLOADED"})
	}
}

// whole stands in for bulk adds.
type whole struct {
	*fake
	many func(op *handles.Operation) error
}

func (w whole) Invoke(ctx context.Context, op *handles.Operation) error {
	if op.Method.Many {
		return w.many(op)
	}
	return w.fake.Invoke(ctx, op)
}
