package bench

import (
	"context"
	"maps"
	"slices"

	"github.com/quern-io/quern/handles"
)

// workload is what a worker does in one operation, and on which keys.
type workload struct {
	// help is one line for people.
	help string
	// keys is the default number of keys.
	keys int
	// oneKey allows one key only, and checks that no value comes twice.
	oneKey bool
	// fresh takes the next unused key for each operation.
	fresh bool
	// prefill gives every key that has none a value before the load.
	prefill bool
	// do runs one operation on key k.
	do func(w *worker, ctx context.Context, k int) error
}

const (
	defaultKeys  = 10_000
	defaultFresh = 1_000_000
	// mixedReads is the share of reads in counter-mixed, in 1/256: 230/256,
	// which is 90 %.
	mixedReads = 230
)

var workloads = map[string]*workload{
	"counter-add":   {help: "adds 1 to a key", keys: defaultKeys, do: (*worker).add},
	"counter-get":   {help: "reads a key whose value is known", keys: defaultKeys, prefill: true, do: (*worker).get},
	"counter-mixed": {help: "90 % reads, 10 % adds", keys: defaultKeys, do: (*worker).mixed},
	"counter-hot":   {help: "adds 1 to one key that all share", keys: 1, oneKey: true, do: (*worker).hot},
	"spawn":         {help: "adds 1 to a key that nobody used before", keys: defaultFresh, fresh: true, do: (*worker).spawn},
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

// add adds 1 and checks that the reply is above what was seen before.
func (w *worker) add(ctx context.Context, k int) error {
	floor := w.ledger.floor(w.id, k)
	v, err := handles.NewCounter(w.target, w.keys.name(k)).Add(ctx, 1)
	if err != nil {
		w.refused(k, err)
		return err
	}
	if v <= floor {
		w.broken.note("an add to %s answered %d after %d had been answered", w.keys.name(k), v, floor)
	}
	w.ledger.acked(w.id, k, v)
	return nil
}

// hot is add, and keeps the reply to find values that came twice.
func (w *worker) hot(ctx context.Context, k int) error {
	v, err := handles.NewCounter(w.target, w.keys.name(k)).Add(ctx, 1)
	if err != nil {
		w.refused(k, err)
		return err
	}
	if floor := w.ledger.floor(w.id, k); v <= floor {
		w.broken.note("an add to %s answered %d after %d had been answered", w.keys.name(k), v, floor)
	} else {
		w.replies.add(v)
	}
	w.ledger.acked(w.id, k, v)
	return nil
}

// get reads a key that nobody writes.
func (w *worker) get(ctx context.Context, k int) error {
	v, err := handles.NewCounter(w.target, w.keys.name(k)).Get(ctx)
	if err != nil {
		return err
	}
	if known := w.ledger.before[k]; v != known {
		w.broken.note("a read of %s answered %d instead of %d", w.keys.name(k), v, known)
	}
	return nil
}

func (w *worker) mixed(ctx context.Context, k int) error {
	if w.random.Uint64()&0xff >= mixedReads {
		return w.add(ctx, k)
	}
	floor := w.ledger.floor(w.id, k)
	v, err := handles.NewCounter(w.target, w.keys.name(k)).Get(ctx)
	if err != nil {
		return err
	}
	if v < floor {
		w.broken.note("a read of %s answered %d after %d had been answered", w.keys.name(k), v, floor)
	}
	w.ledger.seen(w.id, k, v)
	return nil
}

// spawn is the first add to a key, which must answer 1.
func (w *worker) spawn(ctx context.Context, k int) error {
	name := w.keys.name(k)
	v, err := handles.NewCounter(w.target, name).Add(ctx, 1)
	if err != nil {
		w.refused(k, err)
		return err
	}
	if v != 1 {
		w.broken.note("the first add to %s answered %d instead of 1", name, v)
	}
	w.ledger.acked(w.id, k, v)
	return nil
}
