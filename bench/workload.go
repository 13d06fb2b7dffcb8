package bench

import (
	"context"
	"maps"
	"slices"

	"github.com/quern-io/quern/handles"
)

// workload is what a worker does, and on which keys.
type workload struct {
	// help is one line for people.
	help string
	// keys is the default number of keys.
	keys int
	// pipeline is the default number of operations in a round; 0 is 1.
	pipeline int
	// oneKey allows one key only, and checks that no value comes twice.
	oneKey bool
	// fresh takes the next unused key for each operation.
	fresh bool
	// prefill gives every key that has none a value before the load.
	prefill bool
	// columns makes a round one bulk add to different keys.
	columns bool
	// entries is what is done to map entries, where it is not counters.
	entries entryWork
	// locks makes an operation the taking and giving back of a lock.
	locks bool
	// next chooses what a worker does to its next counter; nil with columns
	// and entries, and of locks.
	next func(w *worker) *action
}

const (
	defaultKeys    = 10_000
	defaultFresh   = 1_000_000
	defaultColumns = 1_000
	// mixedReads is the share of reads in counter-mixed, in 1/256: 230/256,
	// which is 90 %.
	mixedReads = 230
)

var workloads = map[string]*workload{
	"counter-add":     {help: "adds 1 to a key", keys: defaultKeys, next: always(add)},
	"counter-get":     {help: "reads a key whose value is known", keys: defaultKeys, prefill: true, next: always(getKnown)},
	"counter-mixed":   {help: "90 % reads, 10 % adds", keys: defaultKeys, next: mixed},
	"counter-hot":     {help: "adds 1 to one key that all share", keys: 1, oneKey: true, next: always(addHot)},
	"counter-columns": {help: "adds 1 to each of many different keys in one call", keys: defaultKeys, pipeline: defaultColumns, columns: true},
	"lock-contended":  {help: "takes and gives back one lock that all wait for", keys: 1, locks: true},
	"lock-cycle":      {help: "takes a lock and gives it back", keys: defaultKeys, locks: true},
	"map-get":         {help: "reads a map entry whose value is known", keys: defaultKeys, entries: getEntries},
	"map-put":         {help: "sets a map entry to a new value", keys: defaultKeys, entries: putEntries},
	"spawn":           {help: "adds 1 to a key that nobody used before", keys: defaultFresh, fresh: true, next: always(addFirst)},
}

// Workloads returns the names of all workloads in alphabetical order.
func Workloads() []string { return slices.Sorted(maps.Keys(workloads)) }

// Describe returns one line about a workload; empty where there is none.
func Describe(name string) string {
	if w, ok := workloads[name]; ok {
		return w.help
	}
	return ""
}

// DefaultPipeline is a workload's number of operations in a round where
// Config.Pipeline is 0.
func DefaultPipeline(name string) int {
	if w, ok := workloads[name]; ok {
		return max(1, w.pipeline)
	}
	return 1
}

// action is one operation on one key: how it is sent, alone or in a batch, and
// what its reply must be.
type action struct {
	write bool
	send  func(ctx context.Context, c handles.Counter) (int64, error)
	queue func(b *handles.Batch, key string) handles.CounterAnswer
	// check looks at reply v. floor is what the ledger said of key k before
	// the operation was sent.
	check func(w *worker, k int, floor, v int64)
}

var (
	add      = &action{write: true, send: sendAdd, queue: queueAdd, check: (*worker).checkAdd}
	addHot   = &action{write: true, send: sendAdd, queue: queueAdd, check: (*worker).checkHot}
	addFirst = &action{write: true, send: sendAdd, queue: queueAdd, check: (*worker).checkFirst}
	get      = &action{send: sendGet, queue: queueGet, check: (*worker).checkGet}
	getKnown = &action{send: sendGet, queue: queueGet, check: (*worker).checkKnown}
)

func always(a *action) func(*worker) *action { return func(*worker) *action { return a } }

func mixed(w *worker) *action {
	if w.random.Uint64()&0xff >= mixedReads {
		return add
	}
	return get
}

func sendAdd(ctx context.Context, c handles.Counter) (int64, error) {
	return c.Add(ctx, 1) //nolint:wrapcheck // the recorder names its reason
}

func sendGet(ctx context.Context, c handles.Counter) (int64, error) {
	return c.Get(ctx) //nolint:wrapcheck // the recorder names its reason
}

func queueAdd(b *handles.Batch, key string) handles.CounterAnswer { return b.CounterAdd(key, 1) }
func queueGet(b *handles.Batch, key string) handles.CounterAnswer { return b.CounterGet(key) }

// checkAdd holds an add's reply to be above what was seen before it was sent.
func (w *worker) checkAdd(k int, floor, v int64) {
	if v <= floor {
		w.broken.note("an add to %s answered %d after %d had been answered", w.keys.name(k), v, floor)
	}
	w.ledger.acked(w.id, k, v)
}

// checkHot is checkAdd, and keeps the reply to find values that came twice.
func (w *worker) checkHot(k int, floor, v int64) {
	if v > floor {
		w.values = append(w.values, v)
	}
	w.checkAdd(k, floor, v)
}

// checkFirst is for the only add to a new key, which must answer 1.
func (w *worker) checkFirst(k int, _, v int64) {
	if v != 1 {
		w.broken.note("the first add to %s answered %d instead of 1", w.keys.name(k), v)
	}
	w.ledger.acked(w.id, k, v)
}

// checkGet is for reads of a key that is only added to.
func (w *worker) checkGet(k int, floor, v int64) {
	if v < floor {
		w.broken.note("a read of %s answered %d after %d had been answered", w.keys.name(k), v, floor)
	}
	w.ledger.seen(w.id, k, v)
}

// checkKnown is for reads of a key that nobody writes.
func (w *worker) checkKnown(k int, _, v int64) {
	if known := w.ledger.before[k]; v != known {
		w.broken.note("a read of %s answered %d instead of %d", w.keys.name(k), v, known)
	}
}
