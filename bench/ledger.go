package bench

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
)

// ownEntries is up to how many entries (workers times keys) every worker keeps
// its own account of every key: 16 MiB. Above it the workers share one, which
// costs atomic operations that seldom meet because there are many keys.
const ownEntries = 1 << 20

// ledger is what the run knows of each key: its value before the load, the
// adds that were acknowledged or remained unknown, and the highest value that
// was answered.
type ledger struct {
	before []int64       // nil where all were 0
	filled []bool        // which keys got that value from this run; nil where none did
	own    [][]entry     // by worker, then key; written by that worker only
	shared []sharedEntry // by key
	states []byte        // by key, for workloads that use a key once
	// unbounded says that any number of adds to any key perhaps happened.
	unbounded bool

	mu      sync.Mutex
	unknown map[int]int64 // by key; guarded by mu
}

type entry struct{ adds, top int64 }

type sharedEntry struct{ adds, top atomic.Int64 }

// States of a key that is used once.
const (
	keyUntouched = iota
	keyAdded
)

func newLedger(workers, keys int, once bool) *ledger {
	l := &ledger{unknown: make(map[int]int64)}
	switch {
	case once:
		l.states = make([]byte, keys)
		return l
	case workers*keys <= ownEntries:
		l.own = make([][]entry, workers)
		for i := range l.own {
			l.own[i] = make([]entry, keys)
		}
	default:
		l.shared = make([]sharedEntry, keys)
	}
	l.before = make([]int64, keys)
	return l
}

// open notes the value of a key before the load.
func (l *ledger) open(k int, value int64) {
	l.before[k] = value
	for _, entries := range l.own {
		entries[k].top = value
	}
	if l.shared != nil {
		l.shared[k].top.Store(value)
	}
}

// floor is a value that an add which begins now must exceed, and that a read
// which begins now must reach.
func (l *ledger) floor(worker, k int) int64 {
	switch {
	case l.own != nil:
		return l.own[worker][k].top
	case l.shared != nil:
		return l.shared[k].top.Load()
	default:
		return 0 // new
	}
}

// acked notes an acknowledged add of 1 and its reply.
func (l *ledger) acked(worker, k int, value int64) {
	switch {
	case l.states != nil:
		l.states[k] = keyAdded
		return
	case l.own != nil:
		l.own[worker][k].adds++
	default:
		l.shared[k].adds.Add(1)
	}
	l.seen(worker, k, value)
}

// seen raises the highest value known.
func (l *ledger) seen(worker, k int, value int64) {
	if l.own != nil {
		e := &l.own[worker][k]
		e.top = max(e.top, value)
		return
	}
	top := &l.shared[k].top
	for t := top.Load(); value > t && !top.CompareAndSwap(t, value); {
		t = top.Load()
	}
}

// add notes n acknowledged adds of another process. It may be called when the
// load is over.
func (l *ledger) add(k int, n int64) {
	switch {
	case l.states != nil:
		l.states[k] += byte(n) //nolint:gosec // 0 or 1
	case l.own != nil:
		l.own[0][k].adds += n
	default:
		l.shared[k].adds.Add(n)
	}
}

// uncertain notes an add of unknown outcome.
func (l *ledger) uncertain(k int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unknown[k]++
}

// key sums up one key. It may be called when the load is over.
func (l *ledger) key(k int) (before, acked, unknown int64) {
	if unknown = l.unknown[k]; l.unbounded {
		unknown = math.MaxInt64
	}
	if l.states != nil {
		return 0, int64(l.states[k]), unknown
	}
	for _, entries := range l.own {
		acked += entries[k].adds
	}
	if l.shared != nil {
		acked = l.shared[k].adds.Load()
	}
	return l.before[k], acked, unknown
}

// tally is the outcome of the comparison over keys. Its sums stop at the ends
// of 64 bits, which only a stranger's writes can reach.
type tally struct{ acked, applied, lost, doubled int64 }

// compare adds one key whose value is now after.
func (t *tally) compare(before, acked, unknown, after int64) {
	change := addSaturated(after, negate(before))
	t.acked += acked
	t.applied = addSaturated(t.applied, change)
	t.lost = addSaturated(t.lost, max(0, addSaturated(acked, negate(change))))
	t.doubled = addSaturated(t.doubled, max(0, addSaturated(change, negate(addSaturated(acked, unknown)))))
}

func negate(v int64) int64 {
	if v == math.MinInt64 {
		return math.MaxInt64
	}
	return -v
}

func addSaturated(a, b int64) int64 {
	sum := a + b
	if (a >= 0) == (b >= 0) && (sum >= 0) != (a >= 0) {
		if a < 0 {
			return math.MinInt64
		}
		return math.MaxInt64
	}
	return sum
}

// maxExamples is how many violations are kept in words.
const maxExamples = 10

// violations counts broken rules and keeps the first few.
type violations struct {
	mu       sync.Mutex
	count    int64    // guarded by mu
	examples []string // guarded by mu
}

func (v *violations) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.count++; len(v.examples) < maxExamples {
		v.examples = append(v.examples, fmt.Sprintf(format, args...))
	}
}

// add notes what another process counted.
func (v *violations) add(n int64, examples []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count += n
	v.examples = append(v.examples, examples[:min(len(examples), maxExamples-len(v.examples))]...)
}
