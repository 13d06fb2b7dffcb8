package clusterproc

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Witness judges what clients saw of a cluster, one window of time after the
// other. No operation may be under way between two windows. It belongs to one
// goroutine.
type Witness struct {
	// Durable says that what was acknowledged outlives its owner. Elsewhere a
	// takeover may begin with nothing, which is not counted as lost.
	Durable bool
	// TTL is the lease that locks are asked for with.
	TTL time.Duration

	values map[uint32]int64        // of counters, as last read
	open   map[uint32]int64        // unknown adds that were not there by then
	owners map[ownership]uint8     // who has answered
	epochs map[uint32]uint64       // the highest of a shard that anybody saw
	tokens map[uint32]int64        // the highest of a lock that anybody saw
	floors map[valueOf]int64       // the highest value that anybody saw
	given  map[givenValue]struct{} // by adds
}

type (
	ownership struct {
		shard uint32
		epoch uint64
	}
	// valueOf is a counter; where states are not durable, under one epoch.
	valueOf struct {
		key   uint32
		epoch uint64
	}
	givenValue struct {
		valueOf
		value int64
	}
)

// Verdict is what a witness has to say of one window.
type Verdict struct {
	// Ops is how many counter and lock operations were begun; Acked, Refused
	// and Unknown is what became of them.
	Ops, Acked, Refused, Unknown int
	// Lost is how many acknowledged adds are missing. Doubled is how many adds
	// are there beyond those that may be.
	Lost, Doubled int64
	// Wrong are the broken promises in words, the first few of each kind.
	Wrong []string
	wrong map[string]int
}

// most bounds how many broken promises of one kind are told.
const most = 5

func (v *Verdict) add(kind, format string, args ...any) {
	if v.wrong == nil {
		v.wrong = make(map[string]int)
	}
	if v.wrong[kind]++; v.wrong[kind] <= most {
		v.Wrong = append(v.Wrong, kind+": "+fmt.Sprintf(format, args...))
	}
}

// Broken counts the broken promises of a kind: "two owners", "epoch", "value",
// "token", "two holders", "lost" or "doubled".
func (v *Verdict) Broken(kind string) int { return v.wrong[kind] }

// Judge takes the operations of a window, in any order, and the counters' values
// after it.
func (w *Witness) Judge(ops []Op, after map[uint32]int64) Verdict {
	if w.owners == nil {
		w.owners, w.epochs, w.tokens = make(map[ownership]uint8), make(map[uint32]uint64), make(map[uint32]int64)
		w.floors, w.given, w.open = make(map[valueOf]int64), make(map[givenValue]struct{}), make(map[uint32]int64)
	}
	v := Verdict{Ops: len(ops)}
	for i := range ops {
		switch ops[i].Outcome {
		case Done:
			v.Acked++
		case NotDone:
			v.Refused++
		case Unknown:
			v.Unknown++
		}
	}
	w.oneOwner(ops, &v)
	w.inTime(ops, &v)
	w.bounded(ops, &v)
	w.holders(ops, &v)
	w.counted(ops, after, &v)
	return v
}

// oneOwner: one epoch is answered by one node only.
func (w *Witness) oneOwner(ops []Op, v *Verdict) {
	for i := range ops {
		op := &ops[i]
		if op.Outcome != Done || op.Node == 0 || op.Epoch == 0 {
			continue
		}
		o := ownership{op.Shard, op.Epoch}
		if first, ok := w.owners[o]; !ok {
			w.owners[o] = op.Node
		} else if first != op.Node {
			v.add("two owners", "shard %d under epoch %d was answered by n%d and by n%d", op.Shard, op.Epoch, first, op.Node)
		}
	}
}

// inTime walks through time: what was begun after a reply was received may not
// be answered under a lower epoch, nor from before it.
func (w *Witness) inTime(ops []Op, v *Verdict) {
	var begun, ended []*Op
	for i := range ops {
		if ops[i].Outcome == Done {
			begun, ended = append(begun, &ops[i]), append(ended, &ops[i])
		}
	}
	slices.SortFunc(begun, func(a, b *Op) int { return cmp.Compare(a.Sent, b.Sent) })
	slices.SortFunc(ended, func(a, b *Op) int { return cmp.Compare(a.End, b.End) })
	next := 0
	for _, op := range begun {
		for ; ended[next].End < op.Sent; next++ {
			w.received(ended[next])
		}
		w.follows(op, v)
	}
	for _, op := range ended[next:] {
		w.received(op)
	}
}

// received notes what a reply has shown.
func (w *Witness) received(op *Op) {
	w.epochs[op.Shard] = max(w.epochs[op.Shard], op.Epoch)
	switch op.Kind {
	case Add, Get:
		at := w.valueOf(op)
		w.floors[at] = max(w.floors[at], op.Value)
	case Grant:
		w.tokens[op.Key] = max(w.tokens[op.Key], op.Value)
	case Release:
	}
}

// follows judges a reply by those that had been received when its operation
// began.
func (w *Witness) follows(op *Op, v *Verdict) {
	if seen := w.epochs[op.Shard]; op.Epoch != 0 && op.Epoch < seen {
		v.add("epoch", "shard %d was answered under %d at n%d after a reply under %d", op.Shard, op.Epoch, op.Node, seen)
	}
	switch op.Kind {
	case Add, Get:
		at := w.valueOf(op)
		seen, known := w.floors[at]
		if known && (op.Value < seen || op.Kind == Add && op.Value == seen) {
			v.add("value", "key %d gave %d at n%d under %d after %d was seen", op.Key, op.Value, op.Node, op.Epoch, seen)
		}
		if op.Kind == Add {
			g := givenValue{at, op.Value}
			if _, twice := w.given[g]; twice {
				v.add("value", "two adds to key %d gave %d", op.Key, op.Value)
			}
			w.given[g] = struct{}{}
		}
	case Grant:
		if seen := w.tokens[op.Key]; op.Value <= seen {
			v.add("token", "lock %d gave %d after %d was seen", op.Key, op.Value, seen)
		}
	case Release:
	}
}

func (w *Witness) valueOf(op *Op) valueOf {
	if w.Durable {
		return valueOf{key: op.Key}
	}
	return valueOf{op.Key, op.Epoch}
}

// bounded: no reply may show more than what was there and all adds that had
// begun by then and were not refused.
func (w *Witness) bounded(ops []Op, v *Verdict) {
	began := make(map[uint32][]int64)
	for i := range ops {
		if op := &ops[i]; op.Kind == Add && op.Outcome != NotDone {
			began[op.Key] = append(began[op.Key], op.Sent)
		}
	}
	for _, times := range began {
		slices.Sort(times)
	}
	for i := range ops {
		op := &ops[i]
		if op.Outcome != Done || op.Kind != Add && op.Kind != Get {
			continue
		}
		n, _ := slices.BinarySearch(began[op.Key], op.End)
		if upper := w.values[op.Key] + w.open[op.Key] + int64(n); op.Value > upper {
			v.add("doubled", "key %d gave %d at n%d when %d could be there", op.Key, op.Value, op.Node, upper)
		}
	}
}

// holders: at no time two clients may think that they hold one lock.
func (w *Witness) holders(ops []Op, v *Verdict) {
	if !w.Durable {
		return // tokens tell then
	}
	released := make(map[valueOf]int64)
	for i := range ops {
		if op := &ops[i]; op.Kind == Release {
			released[valueOf{op.Key, uint64(op.Value)}] = op.Sent
		}
	}
	type hold struct{ from, until, token int64 }
	holds := make(map[uint32][]hold)
	for i := range ops {
		op := &ops[i]
		if op.Kind != Grant || op.Outcome != Done {
			continue
		}
		h := hold{op.End, op.Sent + int64(w.TTL), op.Value}
		if at, ok := released[valueOf{op.Key, uint64(op.Value)}]; ok {
			h.until = min(h.until, at)
		}
		holds[op.Key] = append(holds[op.Key], h)
	}
	for key, of := range holds {
		slices.SortFunc(of, func(a, b hold) int { return cmp.Compare(a.from, b.from) })
		for i := 1; i < len(of); i++ {
			if of[i].from < of[i-1].until {
				v.add("two holders", "lock %d by the tokens %d and %d", key, of[i-1].token, of[i].token)
			}
		}
	}
}

// counted: what was acknowledged is there, and nothing else but what is unknown,
// which may come late.
func (w *Witness) counted(ops []Op, after map[uint32]int64, v *Verdict) {
	acked, unknown := make(map[uint32]int64), make(map[uint32]int64)
	for i := range ops {
		switch op := &ops[i]; {
		case op.Kind != Add:
		case op.Outcome == Done:
			acked[op.Key]++
		case op.Outcome == Unknown:
			unknown[op.Key]++
		}
	}
	for key, value := range after {
		low := w.values[key] + acked[key]
		if w.Durable && value < low {
			v.Lost += low - value
			v.add("lost", "key %d is %d, was %d, and %d adds were acknowledged", key, value, w.values[key], acked[key])
		}
		open := w.open[key] + unknown[key]
		if value > low+open {
			v.Doubled += value - low - open
			v.add("doubled", "key %d is %d, was %d, %d adds were acknowledged and %d are unknown", key, value, w.values[key], acked[key], open)
		}
		if w.Durable {
			// Elsewhere it cannot be told whether they are there.
			open = max(0, open-max(0, value-low))
		}
		w.open[key] = open
	}
	w.values = after
}

// Pause is a time in which a key had no answer.
type Pause struct {
	Key    uint32
	From   int64
	Length time.Duration
}

// LongestPause returns the longest time, among these operations, from when one
// on a key was due until any on that key was answered. What was due before from
// counts from then.
func LongestPause(ops []Op, from int64, of func(*Op) bool) Pause {
	type times struct{ due, answered []int64 }
	keys := make(map[uint32]*times)
	last := int64(0)
	for i := range ops {
		op := &ops[i]
		if op.Kind != Add && op.Kind != Get || !of(op) {
			continue
		}
		last = max(last, op.End)
		t := keys[op.Key]
		if t == nil {
			t = new(times)
			keys[op.Key] = t
		}
		t.due = append(t.due, op.Due)
		if op.Outcome == Done {
			t.answered = append(t.answered, op.End)
		}
	}
	var longest Pause
	for key, t := range keys {
		slices.Sort(t.due)
		slices.Sort(t.answered)
		next := 0
		for _, answer := range append(t.answered, last) {
			if next < len(t.due) && t.due[next] < answer {
				began := max(t.due[next], from)
				if p := (Pause{key, began, time.Duration(answer - began)}); p.Length > longest.Length {
					longest = p
				}
			}
			for next < len(t.due) && t.due[next] <= answer {
				next++
			}
		}
	}
	return longest
}

// FirstAnswer returns when a node has first answered an operation that was begun
// at some time or later; 0 where it has not.
func FirstAnswer(ops []Op, node uint8, since int64) int64 {
	first := int64(0)
	for i := range ops {
		op := &ops[i]
		if op.Outcome == Done && op.Node == node && op.Sent >= since && (first == 0 || op.End < first) {
			first = op.End
		}
	}
	return first
}
