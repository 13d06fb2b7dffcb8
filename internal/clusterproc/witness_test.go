package clusterproc_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/clusterproc"
)

// add is an acknowledged add of a history, which takes one unit of time.
func add(key uint32, value, at int64, node uint8, epoch uint64) clusterproc.Op {
	return clusterproc.Op{Kind: clusterproc.Add, Key: key, Shard: key, Value: value, Due: at, Sent: at, End: at + 1, Node: node, Epoch: epoch}
}

func as(op clusterproc.Op, change func(*clusterproc.Op)) clusterproc.Op {
	change(&op)
	return op
}

func outcome(o clusterproc.Outcome) func(*clusterproc.Op) {
	return func(op *clusterproc.Op) { op.Outcome = o }
}

func kind(k clusterproc.Kind) func(*clusterproc.Op) {
	return func(op *clusterproc.Op) { op.Kind = k }
}

// TestWitness: whatever is wrong is noticed, and nothing else.
func TestWitness(t *testing.T) {
	t.Parallel()
	unknown := as(add(1, 0, 5, 1, 7), outcome(clusterproc.Unknown))
	refused := as(add(1, 0, 5, 1, 7), outcome(clusterproc.NotDone))
	long := func(op *clusterproc.Op) { op.End = 100 }
	tests := []struct {
		name     string
		ops      []clusterproc.Op
		after    int64
		volatile bool
		want     []string // the kinds of broken promises
	}{
		{name: "nothing"},
		{name: "adds", ops: []clusterproc.Op{add(1, 1, 0, 1, 7), add(1, 2, 10, 1, 7)}, after: 2},
		{name: "a takeover", ops: []clusterproc.Op{add(1, 1, 0, 1, 7), add(1, 2, 10, 2, 8)}, after: 2},
		{name: "unknown and done", ops: []clusterproc.Op{unknown, add(1, 2, 10, 1, 7)}, after: 2},
		{name: "unknown and not done", ops: []clusterproc.Op{unknown, add(1, 1, 10, 1, 7)}, after: 1},
		{name: "lost", ops: []clusterproc.Op{add(1, 1, 0, 1, 7), add(1, 2, 10, 1, 7)}, after: 1, want: []string{"lost"}},
		{name: "lost without a trace", ops: []clusterproc.Op{add(1, 1, 0, 1, 7)}, want: []string{"lost"}},
		{name: "lost, but the store forgets", ops: []clusterproc.Op{add(1, 1, 0, 1, 7)}, volatile: true},
		{name: "doubled", ops: []clusterproc.Op{add(1, 1, 0, 1, 7)}, after: 2, want: []string{"doubled"}},
		{name: "doubled where the store forgets", ops: []clusterproc.Op{add(1, 1, 0, 1, 7)}, after: 2, volatile: true, want: []string{"doubled"}},
		{name: "doubled and lost again", ops: []clusterproc.Op{add(1, 2, 0, 1, 7), add(1, 3, 10, 1, 7)}, after: 2, want: []string{"doubled"}},
		{name: "refused and done", ops: []clusterproc.Op{refused, add(1, 2, 10, 1, 7)}, after: 2, want: []string{"doubled"}},
		{name: "unknown and twice there", ops: []clusterproc.Op{unknown}, after: 2, want: []string{"doubled"}},
		{name: "one lost, one doubled", ops: []clusterproc.Op{add(1, 1, 0, 1, 7), add(1, 1, 10, 2, 8)}, after: 2, want: []string{"value"}},
		{name: "at once, the same value", ops: []clusterproc.Op{as(add(1, 1, 0, 1, 7), long), add(1, 1, 10, 1, 7)}, after: 2, want: []string{"value"}},
		{name: "at once, in any order", ops: []clusterproc.Op{as(add(1, 1, 0, 1, 7), long), add(1, 2, 10, 1, 7)}, after: 2},
		{name: "a new owner that begins with nothing", ops: []clusterproc.Op{add(1, 1, 0, 1, 7), add(1, 1, 10, 2, 8)}, after: 1, volatile: true},
		{name: "nothing within one epoch", ops: []clusterproc.Op{add(1, 1, 0, 1, 7), add(1, 1, 10, 1, 7)}, after: 1, volatile: true, want: []string{"value"}},
		{name: "a stale read", ops: []clusterproc.Op{add(1, 1, 0, 1, 7), as(add(1, 0, 10, 2, 8), kind(clusterproc.Get))}, after: 1, want: []string{"value"}},
		{name: "a read", ops: []clusterproc.Op{add(1, 1, 0, 1, 7), as(add(1, 1, 10, 1, 7), kind(clusterproc.Get))}, after: 1},
		{name: "two owners", ops: []clusterproc.Op{add(1, 1, 0, 1, 7), add(1, 2, 10, 2, 7)}, after: 2, want: []string{"two owners"}},
		{name: "an epoch goes down", ops: []clusterproc.Op{add(1, 1, 0, 1, 8), add(1, 2, 10, 2, 7)}, after: 2, want: []string{"epoch"}},
		{name: "a late reply of a lower epoch", ops: []clusterproc.Op{as(add(1, 1, 0, 1, 7), long), add(1, 2, 10, 2, 8)}, after: 2},
		{
			name: "two holders", after: 0, want: []string{"two holders"},
			ops: []clusterproc.Op{as(add(1, 5, 0, 1, 7), kind(clusterproc.Grant)), as(add(1, 6, 10, 1, 7), kind(clusterproc.Grant))},
		},
		{
			name: "one holder after the other",
			ops: []clusterproc.Op{
				as(add(1, 5, 0, 1, 7), kind(clusterproc.Grant)), as(add(1, 5, 5, 1, 7), kind(clusterproc.Release)),
				as(add(1, 6, 10, 1, 7), kind(clusterproc.Grant)),
			},
		},
		{
			name: "the same token", want: []string{"token"},
			ops: []clusterproc.Op{
				as(add(1, 5, 0, 1, 7), kind(clusterproc.Grant)), as(add(1, 5, 5, 1, 7), kind(clusterproc.Release)),
				as(add(1, 5, 10, 2, 8), kind(clusterproc.Grant)),
			},
		},
		{
			name: "a lease that ran out",
			ops:  []clusterproc.Op{as(add(1, 5, 0, 1, 7), kind(clusterproc.Grant)), as(add(1, 6, 2000, 1, 7), kind(clusterproc.Grant))},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := clusterproc.Witness{Durable: !tt.volatile, TTL: 1000}
			v := w.Judge(tt.ops, map[uint32]int64{1: tt.after})
			var got []string
			for _, kind := range []string{"two owners", "epoch", "value", "token", "two holders", "lost", "doubled"} {
				if v.Broken(kind) > 0 {
					got = append(got, kind)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("broken are %q, want %q: %q", got, tt.want, v.Wrong)
			}
		})
	}
}

// TestWitnessRemembers what it saw in an earlier window.
func TestWitnessRemembers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		op    clusterproc.Op
		after int64
		want  string
	}{
		{"well", add(1, 2, 10, 1, 7), 2, ""},
		{"two owners", add(1, 2, 10, 2, 7), 2, "two owners"},
		{"an epoch goes down", add(1, 2, 10, 2, 6), 2, "epoch"},
		{"an old value", add(1, 1, 10, 2, 8), 2, "value"},
		{"lost", add(1, 2, 10, 1, 7), 1, "lost"},
		{"doubled", add(1, 2, 10, 1, 7), 3, "doubled"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := clusterproc.Witness{Durable: true}
			if v := w.Judge([]clusterproc.Op{add(1, 1, 0, 1, 7)}, map[uint32]int64{1: 1}); len(v.Wrong) > 0 {
				t.Fatal(v.Wrong)
			}
			v := w.Judge([]clusterproc.Op{tt.op}, map[uint32]int64{1: tt.after})
			if tt.want == "" && len(v.Wrong) > 0 || tt.want != "" && v.Broken(tt.want) == 0 {
				t.Errorf("%q, want %q", v.Wrong, tt.want)
			}
		})
	}
}

// TestUnknownAddsMayComeLate, once.
func TestUnknownAddsMayComeLate(t *testing.T) {
	t.Parallel()
	w := clusterproc.Witness{Durable: true}
	unknown := as(add(1, 0, 0, 1, 7), outcome(clusterproc.Unknown))
	for i, window := range []struct {
		ops     []clusterproc.Op
		after   int64
		doubled int64
	}{
		{[]clusterproc.Op{unknown, unknown}, 1, 0},
		{[]clusterproc.Op{add(1, 2, 10, 1, 7)}, 2, 0},
		{[]clusterproc.Op{add(1, 4, 20, 1, 7)}, 4, 0},
		{[]clusterproc.Op{add(1, 6, 30, 1, 7)}, 6, 1},
	} {
		if v := w.Judge(window.ops, map[uint32]int64{1: window.after}); v.Doubled != window.doubled || (len(v.Wrong) > 0) != (window.doubled > 0) {
			t.Errorf("window %d: %d doubled, %q", i, v.Doubled, v.Wrong)
		}
	}
}

func TestLongestPause(t *testing.T) {
	t.Parallel()
	all := func(*clusterproc.Op) bool { return true }
	at := func(due, end int64, o clusterproc.Outcome) clusterproc.Op {
		return clusterproc.Op{Key: 1, Due: due, Sent: due, End: end, Outcome: o}
	}
	other := func(due, end int64) clusterproc.Op { return clusterproc.Op{Key: 2, Due: due, Sent: due, End: end} }
	tests := []struct {
		name string
		ops  []clusterproc.Op
		from int64
		want time.Duration
	}{
		{"none", nil, 0, 0},
		{"one", []clusterproc.Op{at(10, 15, clusterproc.Done)}, 0, 5},
		{"another key does not count", []clusterproc.Op{at(10, 40, clusterproc.Done), other(20, 21)}, 0, 30},
		{"any answer ends it", []clusterproc.Op{at(10, 100, clusterproc.Done), at(20, 25, clusterproc.Done)}, 0, 15},
		{"a failure does not end it", []clusterproc.Op{at(10, 12, clusterproc.NotDone), at(20, 25, clusterproc.Done)}, 0, 15},
		{"an unknown one neither", []clusterproc.Op{at(10, 12, clusterproc.Unknown), at(20, 25, clusterproc.Done)}, 0, 15},
		{"nothing was due between", []clusterproc.Op{at(10, 11, clusterproc.Done), at(90, 95, clusterproc.Done)}, 0, 5},
		{"never again", []clusterproc.Op{at(10, 11, clusterproc.Done), at(20, 90, clusterproc.NotDone)}, 0, 70},
		{"from a later time", []clusterproc.Op{at(10, 100, clusterproc.Done)}, 60, 40},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := clusterproc.LongestPause(tt.ops, tt.from, all); got.Length != tt.want {
				t.Errorf("%+v, want %d", got, tt.want)
			}
		})
	}
}

func TestOpsAreReadAsWritten(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := clusterproc.NewOpWriter(&b)
	want := []clusterproc.Op{add(1, 2, 3, 4, 5), as(add(1<<31, -1, 1<<62, 255, 1<<63), outcome(clusterproc.Unknown))}
	for i := range want {
		if err := w.Write(&want[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	got, err := clusterproc.ReadOps(bytes.NewReader(b.Bytes()))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := clusterproc.ReadOps(bytes.NewReader(b.Bytes()[:b.Len()-1])); err == nil {
		t.Error("half an operation was read")
	}
}
