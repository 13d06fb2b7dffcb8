package actors_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
)

// twin is what counters and entries of one shard should hold. A counter's name
// begins with n, an entry's with m.
type twin struct {
	counters map[string]int64
	entries  map[string]string // those that there are
}

func newTwin() *twin { return &twin{map[string]int64{}, map[string]string{}} }

func (w *twin) clone() *twin { return &twin{maps.Clone(w.counters), maps.Clone(w.entries)} }

// twinOp is an operation on a counter or an entry, or a condition of one.
type twinOp struct {
	do    string
	key   string
	value int64
}

// twinLimit bounds the adds, so that some are refused.
const twinLimit = 12

// run carries out one operation and returns its answer.
func (w *twin) run(o twinOp) (answer string, fails error) {
	switch o.do {
	case "add":
		if sum := w.counters[o.key] + o.value; sum > twinLimit && o.value != 0 {
			return "", failure.Limit
		}
		w.counters[o.key] += o.value
		return strconv.FormatInt(w.counters[o.key], 10), nil
	case "set":
		w.counters[o.key] = o.value
		return strconv.FormatInt(o.value, 10), nil
	case "get":
		return strconv.FormatInt(w.counters[o.key], 10), nil
	case "put":
		w.entries[o.key] = strconv.FormatInt(o.value, 10)
		return "", nil
	case "put new":
		if _, there := w.entries[o.key]; there {
			return "", failure.ConditionFailed
		}
		w.entries[o.key] = strconv.FormatInt(o.value, 10)
		return "", nil
	case "read":
		return w.entries[o.key], nil
	default: // delete
		delete(w.entries, o.key)
		return "", nil
	}
}

// holds evaluates a condition.
func (w *twin) holds(o twinOp) bool {
	_, there := w.entries[o.key]
	switch o.do {
	case "present":
		return there
	case "absent":
		return !there
	default:
		return w.counters[o.key] >= o.value
	}
}

// commit runs a whole transaction, or says where it fails.
func (w *twin) commit(conditions, operations []twinOp) (answers []string, place string, fails error) {
	for i, c := range conditions {
		if !w.holds(c) {
			return nil, fmt.Sprintf("conditions[%d]", i), failure.ConditionFailed
		}
	}
	next := w.clone()
	for i, o := range operations {
		a, err := next.run(o)
		if err != nil {
			return nil, fmt.Sprintf("operations[%d]", i), err
		}
		answers = append(answers, a)
	}
	*w = *next
	return answers, "", nil
}

func randomOps(rnd *rand.Rand) (conditions, operations []twinOp) {
	for range max(0, rnd.IntN(4)-1) {
		c := twinOp{[]string{"present", "absent"}[rnd.IntN(2)], "{x}m" + strconv.Itoa(rnd.IntN(3)), 0}
		if rnd.IntN(2) == 0 {
			c = twinOp{"at least", "{x}n" + strconv.Itoa(rnd.IntN(4)), rnd.Int64N(4) - 2}
		}
		conditions = append(conditions, c)
	}
	for range 1 + rnd.IntN(6) {
		operations = append(operations, randomOp(rnd))
	}
	return conditions, operations
}

func randomOp(rnd *rand.Rand) twinOp {
	if rnd.IntN(2) == 0 {
		return twinOp{[]string{"add", "add", "add", "get", "set"}[rnd.IntN(5)], "{x}n" + strconv.Itoa(rnd.IntN(4)), rnd.Int64N(8) - 2}
	}
	return twinOp{[]string{"put", "put new", "read", "delete"}[rnd.IntN(4)], "{x}m" + strconv.Itoa(rnd.IntN(3)), rnd.Int64N(100)}
}

// fill puts what the twin runs into a transaction. It returns how the answers
// are read.
func fill(x *handles.Txn, conditions, operations []twinOp) (answers []func() string) {
	for _, c := range conditions {
		switch c.do {
		case "present":
			x.IfPresent(c.key)
		case "absent":
			x.IfAbsent(c.key)
		default:
			x.IfCounter(c.key, handles.GreaterOrEqual, c.value)
		}
	}
	counted := func(a handles.CounterAnswer) {
		answers = append(answers, func() string {
			n, err := a.Value()
			if err != nil {
				return err.Error()
			}
			return strconv.FormatInt(n, 10)
		})
	}
	limit := int64(twinLimit)
	for _, o := range operations {
		value := []byte(strconv.FormatInt(o.value, 10))
		mapped := func(a handles.MapAnswer) {
			answers = append(answers, func() string { v, _ := a.Value(); return string(v.Value) })
		}
		switch o.do {
		case "add":
			counted(x.CounterAddBounded(o.key, o.value, handles.AddOptions{Max: &limit}))
		case "set":
			counted(x.CounterSet(o.key, o.value))
		case "get":
			counted(x.CounterGet(o.key))
		case "put":
			mapped(x.MapPut(o.key, value, handles.PutOptions{}))
		case "put new":
			mapped(x.MapPut(o.key, value, handles.PutOptions{IfAbsent: true}))
		case "read":
			mapped(x.MapGet(o.key))
		default:
			mapped(x.MapDelete(o.key))
		}
	}
	return answers
}

func read(answers []func() string) (all []string) {
	for _, a := range answers {
		all = append(all, a())
	}
	return all
}

// single runs an operation by itself.
func (r *rig) single(ctx context.Context, o twinOp) (string, error) {
	limit := int64(twinLimit)
	c, m := r.counter(o.key), r.entry(o.key)
	value := []byte(strconv.FormatInt(o.value, 10))
	number := func(n int64, err error) (string, error) { return strconv.FormatInt(n, 10), err }
	switch o.do {
	case "add":
		added, err := c.AddBounded(ctx, o.value, handles.AddOptions{Max: &limit})
		return number(added.Value, err)
	case "set":
		_, err := c.Set(ctx, o.value)
		return number(o.value, err)
	case "get":
		return number(c.Get(ctx))
	case "put", "put new":
		_, err := m.Put(ctx, value, handles.PutOptions{IfAbsent: o.do == "put new"})
		return "", err
	case "read":
		v, err := m.Get(ctx)
		return string(v.Value), err
	default:
		_, err := m.Delete(ctx)
		return "", err
	}
}

// TestTransactionsAgainstTwin compares transactions and single operations with
// the twin, one after the other, over crashes, evictions and refused commits.
func TestTransactionsAgainstTwin(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		if err := againstTwin(t, seed, 300, withTransactions); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

func againstTwin(t *testing.T, seed uint64, steps int, kinds func(*actors.Config)) error {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	store, want := newFaultStore(), newTwin()
	r := newRig(t, store, kinds, func(c *actors.Config) { c.ResidentLimit = 64 * (1 + rnd.IntN(8)) })
	for step := range steps {
		if rnd.IntN(3) == 0 {
			o := randomOp(rnd)
			answer, fails := want.clone().run(o)
			got, err := r.single(t.Context(), o)
			if !errors.Is(err, fails) || err == nil && got != answer {
				return fmt.Errorf("step %d: %+v: %q, %w; want %q, %w", step, o, got, err, answer, fails)
			}
			if err == nil {
				_, _ = want.run(o)
			}
			continue
		}
		refused := rnd.IntN(10) == 0
		if refused {
			store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return actors.Refused } })
		}
		conditions, operations := randomOps(rnd)
		x, before := r.txn("x"), want.clone()
		answers := fill(x, conditions, operations)
		err := x.Commit(t.Context())
		store.set(func(f *faultStore) { f.verdict = nil })
		if refused && errors.Is(err, failure.Overloaded) {
			continue
		}
		wanted, place, fails := want.commit(conditions, operations)
		if !errors.Is(err, fails) || err != nil && !strings.Contains(err.Error(), place) || err == nil && !slices.Equal(read(answers), wanted) {
			return fmt.Errorf("step %d: %+v, %+v on %+v: %q, %w; want %q, %w at %s", step, conditions, operations, before, read(answers), err, wanted, fails, place)
		}
		if rnd.IntN(20) == 0 {
			r.Crash(r.shardOf("x"))
		}
	}
	return nil
}

// noted is a transaction that was committed, with its place in the order that
// the counter {x}order gives.
type noted struct {
	order      int64
	reads      int // 1 where it is a snapshot
	operations []twinOp
	answers    []string
}

// TestTransactionsAreSerial: many at once, and snapshots between them, have
// answers that they could have had one after the other, in the order of a
// counter that each of them raises.
func TestTransactionsAreSerial(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		store := newFaultStore()
		store.began = make(chan struct{}, 1_000_000)
		flips := rand.New(rand.NewPCG(seed, 1))
		var mu sync.Mutex
		store.verdict = func(actors.Batch) actors.Status {
			mu.Lock()
			defer mu.Unlock()
			if flips.IntN(6) == 0 {
				return actors.Refused
			}
			return actors.Done
		}
		r := newRig(t, store, withTransactions)
		all := serialLoad(r, seed)
		if len(all) < 200 {
			t.Errorf("seed %d: %d transactions", seed, len(all))
		}
		if err := checkSerial(all); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

func serialLoad(r *rig, seed uint64) (all []noted) {
	const callers, each = 8, 100
	var mu sync.Mutex
	var wg sync.WaitGroup
	for caller := range uint64(callers) {
		rnd := rand.New(rand.NewPCG(seed, 100+caller))
		wg.Go(func() {
			for range each {
				x := r.txn("x")
				n := noted{}
				var order handles.CounterAnswer
				if caller%4 == 0 {
					n.reads, order = 1, x.CounterGet("{x}order")
					for i := range 4 {
						n.operations = append(n.operations, twinOp{"get", "{x}n" + strconv.Itoa(i), 0})
					}
				} else {
					order = x.CounterAdd("{x}order", 1)
					_, n.operations = randomOps(rnd)
				}
				answers := fill(x, nil, n.operations)
				if x.Commit(context.Background()) != nil {
					continue
				}
				n.order, _ = order.Value()
				n.answers = read(answers)
				mu.Lock()
				all = append(all, n)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return all
}

// checkSerial runs everything again, in order; snapshots come behind what they
// have seen.
func checkSerial(all []noted) error {
	slices.SortStableFunc(all, func(a, b noted) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.reads, b.reads))
	})
	w, last := newTwin(), int64(0)
	for _, n := range all {
		if n.reads == 0 {
			if last++; n.order != last {
				return fmt.Errorf("number %d comes after %d", n.order, last-1)
			}
		}
		answers, place, fails := w.commit(nil, n.operations)
		if fails != nil || !slices.Equal(answers, n.answers) {
			return fmt.Errorf("at %d: %+v: %q; want %q, %w %s", n.order, n.operations, n.answers, answers, fails, place)
		}
	}
	return nil
}

// leaky counters are not taken back by the undo of a transaction, one in ten.
type leaky struct{ grains.Counter }

func (leaky) New() actors.State { return &leakyState{State: grains.Counter{}.New()} }

type leakyState struct {
	actors.State
	assigned int
}

func (s *leakyState) Assign(from actors.State) {
	if s.assigned++; s.assigned%10 != 0 {
		if other, ok := from.(*leakyState); ok {
			s.State.Assign(other.State)
		}
	}
}

func (s *leakyState) Check(t *actors.Turn, condition proto.Message) error {
	c, ok := s.State.(actors.Checker)
	if !ok {
		return failure.UnknownMethod
	}
	return c.Check(t, condition)
}

// TestBrokenUndoIsNoticed: the twin rejects transactions that are undone in part.
func TestBrokenUndoIsNoticed(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		err := againstTwin(t, seed, 300, func(c *actors.Config) {
			c.Kinds = []actors.Kind{leaky{}, grains.Map{}, grains.Transaction{}}
		})
		if err != nil {
			return
		}
	}
	t.Error("no seed has noticed it")
}
