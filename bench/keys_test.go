package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestKeyNames(t *testing.T) {
	k := newKeyNames("p:", 101)
	for _, i := range []int{0, 9, 10, 99, 100} {
		if want := fmt.Sprint("p:", i); k.name(i) != want || (keyNames{prefix: "p:", step: 1}).name(i) != want {
			t.Errorf("key %d is %q", i, k.name(i))
		}
	}
}

func TestPickerFollowsItsDistribution(t *testing.T) {
	const draws = 2_000_000
	for _, keys := range []int{1, 2, 3, 100, 1000} {
		for _, dist := range []Dist{Uniform, Zipf} {
			p, random, counts := newPicker(keys, dist), rand.NewPCG(1, 2), make([]float64, keys)
			for range draws {
				counts[p.pick(random)]++
			}
			sum := 0.0
			for i := range keys {
				sum += math.Pow(float64(i+1), -zipfExponent)
			}
			for i, n := range counts {
				want := draws / float64(keys)
				if dist == Zipf {
					want = draws * math.Pow(float64(i+1), -zipfExponent) / sum
				}
				if math.Abs(n-want) > 6*math.Sqrt(want) { // six sigma
					t.Errorf("%s of %d: key %d came %v times, want %.0f", dist, keys, i, n, want)
				}
			}
		}
	}
}

func TestRepliesKeepTheirValues(t *testing.T) {
	r := &replies{limit: maxReplyBytes, last: -5}
	random, v := rand.New(rand.NewPCG(1, 1)), int64(-5)
	var want []int64
	for range 200_000 {
		v += 1 + random.Int64N(1<<random.IntN(30))
		want = append(want, v)
		r.add(v)
	}
	i := 0
	r.each(-5, func(v int64) {
		if v != want[i] {
			t.Fatalf("value %d is %d, want %d", i, v, want[i])
		}
		i++
	})
	if i != len(want) || r.cut || len(r.chunks) < 2 {
		t.Errorf("%d values in %d chunks, cut %v", i, len(r.chunks), r.cut)
	}
}

// A round's replies come in no order.
func TestRepliesOfARoundAreKeptInOrder(t *testing.T) {
	w := &worker{replies: &replies{limit: 100}, values: []int64{9, 7, 8}}
	w.keep()
	w.values = append(w.values, 12, 11)
	w.keep()
	var got []int64
	w.replies.each(0, func(v int64) { got = append(got, v) })
	if !slices.Equal(got, []int64{7, 8, 9, 11, 12}) || w.replies.used != 5 || len(w.values) != 0 {
		t.Errorf("%v in %d bytes", got, w.replies.used)
	}
}

func TestRepliesAreBounded(t *testing.T) {
	r := &replies{limit: 100}
	for v := range int64(1000) {
		r.add(v + 1)
	}
	if !r.cut || r.used > 100 {
		t.Errorf("used %d, cut %v", r.used, r.cut)
	}
	if findRepeats(0, []*replies{r}, new(violations)) {
		t.Error("a row that was cut counts as checked")
	}
}

func TestSharedLedgerSeesOthersReplies(t *testing.T) {
	l := newLedger(2, ownEntries, false)
	l.open(7, 5)
	l.acked(0, 7, 6)
	l.acked(1, 7, 9)
	l.acked(0, 7, 8)
	l.uncertain(7)
	if l.own != nil || l.floor(0, 7) != 9 {
		t.Errorf("floor %d", l.floor(0, 7))
	}
	if before, acked, unknown := l.key(7); before != 5 || acked != 3 || unknown != 1 {
		t.Errorf("before %d acked %d unknown %d", before, acked, unknown)
	}
}

func TestTally(t *testing.T) {
	for _, tt := range []struct {
		before, acked, unknown, after int64
		want                          tally
	}{
		{10, 5, 0, 15, tally{5, 5, 0, 0}},
		{10, 5, 2, 16, tally{5, 6, 0, 0}},
		{10, 5, 2, 17, tally{5, 7, 0, 0}},
		{10, 5, 2, 18, tally{5, 8, 0, 1}},
		{10, 5, 2, 14, tally{5, 4, 1, 0}},
		{0, 5, 0, math.MinInt64, tally{5, math.MinInt64, math.MaxInt64, 0}},
		{math.MinInt64, 1, 0, math.MaxInt64, tally{1, math.MaxInt64, 0, math.MaxInt64 - 1}},
	} {
		var got tally
		if got.compare(tt.before, tt.acked, tt.unknown, tt.after); got != tt.want {
			t.Errorf("%+v: %+v", tt, got)
		}
	}
}
