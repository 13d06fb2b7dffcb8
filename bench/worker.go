package bench

import (
	"context"
	"math/rand/v2"
	"slices"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// worker sends one round of operations after the other. Its fields belong to
// its goroutine while the load runs.
type worker struct {
	id     int
	target handles.Invoker
	keys   keyNames
	ledger *ledger
	broken *violations
	random *rand.PCG
	*recorder
	replies *replies
	values  []int64    // of this round, on their way to replies
	batch   []inFlight // the round under way
	sender  *handles.Batch
	columns *columns
	entries *entries
	locks   *lockLedger
	// owner counts the owners of locks that the worker has been.
	owner       int64
	ownerPrefix string
	// failures of the last round.
	failures []failures
}

// inFlight is an operation of a batch.
type inFlight struct {
	action *action
	key    int
	floor  int64
	answer handles.CounterAnswer
}

// failures are operations that failed for the same reason.
type failures struct {
	err error
	n   int64
}

// round sends a worker's next operations together, waits for all of them and
// checks what came back. It returns how many were done, which leaves those in
// w.failures; false where there was nothing left to send.
type round func(ctx context.Context, w *worker) (done int64, ok bool)

// round chooses how the workload is sent.
func (g *generator) round() round {
	switch {
	case g.cfg.workload.columns:
		return g.column
	case g.cfg.workload.locks:
		return g.cycle
	case g.cfg.workload.entries != noEntries && g.cfg.Pipeline > 1:
		return g.manyEntries
	case g.cfg.workload.entries != noEntries:
		return g.oneEntry
	case g.cfg.Pipeline > 1:
		return g.batch
	default:
		return g.single
	}
}

// single is a round of one operation.
func (g *generator) single(ctx context.Context, w *worker) (done int64, ok bool) {
	w.failures = w.failures[:0]
	k, ok := g.pick(w)
	if !ok {
		return 0, false
	}
	a, floor := g.cfg.workload.next(w), w.ledger.floor(w.id, k)
	v, err := a.send(ctx, handles.NewCounter(w.target, w.keys.name(k)))
	if err != nil {
		w.failed(a.write, k, err)
		return 0, true
	}
	a.check(w, k, floor, v)
	w.keep()
	return 1, true
}

// batch is a round of Config.Pipeline operations, of which one key may get
// several. They run side by side, so all floors are from before the round.
func (g *generator) batch(ctx context.Context, w *worker) (done int64, ok bool) {
	w.failures, w.batch = w.failures[:0], w.batch[:0]
	w.sender.Reset()
	for len(w.batch) < g.cfg.Pipeline {
		k, ok := g.pick(w)
		if !ok {
			break
		}
		a := g.cfg.workload.next(w)
		w.batch = append(w.batch, inFlight{a, k, w.ledger.floor(w.id, k), a.queue(w.sender, w.keys.name(k))})
	}
	if len(w.batch) == 0 {
		return 0, false
	}
	_ = w.sender.Do(ctx) // each answer says more
	for i := range w.batch {
		o := &w.batch[i]
		v, err := o.answer.Value()
		if err != nil {
			w.failed(o.action.write, o.key, err)
			continue
		}
		o.action.check(w, o.key, o.floor, v)
		done++
	}
	w.keep()
	return done, true
}

// failed notes an operation that failed.
func (w *worker) failed(write bool, k int, err error) {
	w.failures = append(w.failures, failures{err, 1})
	if write && failure.OutcomeOf(err) == failure.Unknown {
		w.ledger.uncertain(k)
	}
}

// keep hands a round's values over in rising order.
func (w *worker) keep() {
	if len(w.values) == 0 {
		return
	}
	slices.Sort(w.values)
	for _, v := range w.values {
		w.replies.add(v)
	}
	w.values = w.values[:0]
}
