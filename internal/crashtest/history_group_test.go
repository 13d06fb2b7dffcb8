package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/faultstream"
)

// groupSeedEnv runs one seed of TestGroupHistories alone, and prints its steps.
const groupSeedEnv = "QUERN_CRASHTEST_GROUP_SEED"

// groupCount is how many groups of keys there are.
const groupCount = 4

// groups is a workload of transactions, and of single operations on the same
// keys. All keys of a group have one history: it is asked whether there is an
// order in which each transaction happened at once and as a whole.
type groups struct{ *histories }

func groupKey(tag string, kind groupKind, i int) string {
	return fmt.Sprintf("{%s}%s%d", tag, kind, i)
}

// groupWorker is one of those who work on them.
type groupWorker struct {
	*groups
	r      *rand.Rand
	client *client.Client
	name   string
	n      int
	// seen are the last versions that it read or made, by key.
	seen map[string]uint64
}

// work implements workload.
func (h *groups) work(i int, r *rand.Rand) {
	w := &groupWorker{groups: h, r: r, name: strconv.Itoa(i), seen: make(map[string]uint64)}
	for w.n = range historyOps {
		w.client = h.world.clients[i%worldClients].Load()
		ctx, cancel := h.patience(r)
		tag := "g" + strconv.Itoa(r.IntN(groupCount))
		switch r.IntN(6) {
		case 0:
			w.counter(ctx, tag)
		case 1:
			w.entry(ctx, tag)
		case 2:
			w.lock(ctx, tag)
		default:
			w.transaction(ctx, tag, 0)
		}
		cancel()
		pauseFor(time.Duration(r.IntN(60)) * time.Millisecond)
	}
}

// text is one that nobody else writes.
func (w *groupWorker) text() string { return fmt.Sprintf("%s.%d.%d", w.name, w.n, w.r.Uint32()) }

// record adds a step. What was refused for a reason that the model knows is an
// answer.
func (w *groupWorker) record(tag string, call int64, s groupStep, err error) {
	end := w.tick()
	switch place := placeOf(err); {
	case err == nil:
	case errors.Is(err, failure.ConditionFailed):
		s.condition = place
	case errors.Is(err, failure.Limit):
		s.operation = place
	case failure.OutcomeOf(err) == failure.NotDone:
		return
	default:
		s.unknown, end = true, math.MaxInt64
	}
	if s.unknown && !s.writes() {
		return
	}
	w.add(tag, call, end, s)
}

func (s groupStep) writes() bool {
	for _, o := range s.operations {
		if o.name != "get" {
			return true
		}
	}
	return false
}

// placeOf is the place, counted from 1, that the refusal of a transaction names.
func placeOf(err error) int {
	if err == nil {
		return 0
	}
	_, rest, _ := strings.Cut(err.Error(), "[")
	digits, _, _ := strings.Cut(rest, "]")
	n, bad := strconv.Atoi(digits)
	if bad != nil {
		return -1 // fits nothing
	}
	return n + 1
}

// single records an operation by itself.
func (w *groupWorker) single(tag string, kind groupKind, key int, call int64, s step, err error) {
	w.record(tag, call, groupStep{operations: []groupOperation{{kind: kind, key: key, step: s}}}, err)
}

func (w *groupWorker) counter(ctx context.Context, tag string) {
	i := w.r.IntN(groupKeys)
	counter, call := w.client.Counter(groupKey(tag, ofCounter, i)), w.tick()
	var s step
	var err error
	switch w.r.IntN(4) {
	case 0:
		s.name, s.delta = "add", 1+w.r.Int64N(5)
		s.value, err = counter.Add(ctx, s.delta)
	case 1:
		s.name, s.was, s.value = "cas", w.r.Int64N(20), w.r.Int64N(20)
		_, s.swapped, err = counter.CompareAndSet(ctx, s.was, s.value)
	default:
		s.name = "get"
		s.value, err = counter.Get(ctx)
	}
	w.single(tag, ofCounter, i, call, s, err)
}

func (w *groupWorker) entry(ctx context.Context, tag string) {
	i := w.r.IntN(groupKeys)
	key := groupKey(tag, ofEntry, i)
	entry, call := w.client.Map(key), w.tick()
	s := step{name: "get", text: w.text()}
	var err error
	switch w.r.IntN(5) {
	case 0:
		s.name = "put"
		s.version, err = entry.Put(ctx, []byte(s.text), handles.PutOptions{})
	case 1:
		s.name = "delete"
		_, err = entry.Delete(ctx)
	default:
		var read handles.MapValue
		read, err = entry.Get(ctx)
		s.text, s.version = string(read.Value), read.Version
	}
	w.single(tag, ofEntry, i, call, s, err)
	if err == nil && s.version != 0 {
		w.seen[key] = s.version
	}
}

// lock tries to take a lock, works under it by a transaction, and gives it back.
// Another transaction comes too late.
func (w *groupWorker) lock(ctx context.Context, tag string) {
	lock, owner, call := w.client.Lock(groupKey(tag, ofLock, 0)), w.text(), w.tick()
	g, err := lock.Grant(ctx, handles.LockOptions{Owner: owner, TTL: 24 * time.Hour, Wait: -1})
	w.single(tag, ofLock, 0, call, step{name: "try", owner: owner, token: g.Token, held: g.Held}, err)
	switch {
	case err != nil && failure.OutcomeOf(err) == failure.NotDone, err == nil && !g.Held:
		w.look(ctx, lock, tag)
		return
	case err == nil:
		w.transaction(ctx, tag, g.Token)
		pauseFor(time.Duration(w.r.IntN(80)) * time.Millisecond)
	}
	w.release(lock, tag, owner, g.Token)
	if g.Token != 0 && w.r.IntN(2) == 0 {
		w.transaction(ctx, tag, g.Token)
	}
}

// release gives back what an owner has, or perhaps has, until it is known.
func (w *groupWorker) release(lock handles.Lock, tag, owner string, token uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	for ctx.Err() == nil {
		call, release := w.tick(), func() error { return lock.Release(ctx, token) }
		if token == 0 {
			release = func() error { return lock.ReleaseOwner(ctx, owner) }
		}
		err := release()
		s := step{name: "release", owner: owner, token: token, held: err == nil}
		known := err == nil || errors.Is(err, failure.NotHolder)
		if known {
			err = nil // an answer like any other
		}
		w.single(tag, ofLock, 0, call, s, err)
		if known {
			return
		}
		pauseFor(20 * time.Millisecond)
	}
	w.note("%s: %s could not be released", tag, owner)
}

func (w *groupWorker) look(ctx context.Context, lock handles.Lock, tag string) {
	call := w.tick()
	info, err := lock.Get(ctx)
	s := step{name: "get"}
	if len(info.Holders) > 0 {
		s.owner, s.token = info.Holders[0].Owner, info.Holders[0].Token
	}
	w.single(tag, ofLock, 0, call, s, err)
}

// transaction commits a random one, under a lock's token if that is not 0.
func (w *groupWorker) transaction(ctx context.Context, tag string, token uint64) {
	x := w.client.Txn(tag)
	var s groupStep
	if token != 0 {
		x.IfHeld(handles.Guard{Lock: groupKey(tag, ofLock, 0), Token: token})
		s.conditions = append(s.conditions, groupCondition{kind: ofLock, number: token})
	}
	for range w.r.IntN(3) {
		s.conditions = append(s.conditions, w.condition(x, tag))
	}
	var answers []func(*groupOperation) error
	snapshot := w.r.IntN(4) == 0
	for i := range 2 * groupKeys {
		o, answer := w.operation(x, tag, i, snapshot)
		s.operations, answers = append(s.operations, o), append(answers, answer)
	}
	call := w.tick()
	err := x.Commit(ctx)
	for i, answer := range answers {
		if err != nil {
			break
		}
		if broken := answer(&s.operations[i]); broken != nil {
			w.note("%s: operation %d of a transaction that was done: %v", tag, i, broken)
		}
	}
	w.record(tag, call, s, err)
}

func (w *groupWorker) condition(x *handles.Txn, tag string) (c groupCondition) {
	c = groupCondition{kind: ofCounter, key: w.r.IntN(groupKeys)}
	entry := groupKey(tag, ofEntry, c.key)
	switch w.r.IntN(4) {
	case 0:
		c.kind, c.present = ofEntry, 1
		x.IfPresent(entry)
	case 1:
		c.kind, c.number = ofEntry, w.seen[entry]
		x.IfVersion(entry, c.number)
	default:
		c.is, c.value = handles.Comparison(1+w.r.IntN(6)), w.r.Int64N(25)
		x.IfCounter(groupKey(tag, ofCounter, c.key), c.is, c.value)
	}
	return c
}

// operation adds one on the counters or entries of a group, in turn, and returns
// how its answer is read. A snapshot reads only.
func (w *groupWorker) operation(x *handles.Txn, tag string, i int, snapshot bool) (groupOperation, func(*groupOperation) error) {
	o := groupOperation{kind: ofCounter, key: i / 2}
	if i%2 == 1 {
		o.kind = ofEntry
		return o.onEntry(w, x, groupKey(tag, ofEntry, o.key), snapshot)
	}
	key := groupKey(tag, ofCounter, o.key)
	what := w.r.IntN(4)
	var answer handles.CounterAnswer
	switch {
	case snapshot || what == 0:
		o.name, answer = "get", x.CounterGet(key)
	case what == 1:
		o.name, o.value = "set", w.r.Int64N(20)
		answer = x.CounterSet(key, o.value)
	default:
		o.name, o.delta, o.bounded, o.most = "add", w.r.Int64N(11)-4, what == 3, 12
		if !o.bounded {
			answer = x.CounterAdd(key, o.delta)
		} else {
			answer = x.CounterAddBounded(key, o.delta, handles.AddOptions{Max: &o.most})
		}
	}
	return o, func(o *groupOperation) (err error) {
		o.value, err = answer.Value()
		return err
	}
}

func (o groupOperation) onEntry(w *groupWorker, x *handles.Txn, key string, snapshot bool) (groupOperation, func(*groupOperation) error) {
	what := w.r.IntN(4)
	if snapshot || what == 0 {
		o.name = "get"
		answer := x.MapGet(key)
		return o, func(o *groupOperation) error {
			read, err := answer.Value()
			o.text, o.version = string(read.Value), read.Version
			w.seen[key] = read.Version
			return err
		}
	}
	var answer handles.MapAnswer
	if what == 1 {
		o.name, answer = "delete", x.MapDelete(key)
	} else {
		o.name, o.text = "put", w.text()
		answer = x.MapPut(key, []byte(o.text), handles.PutOptions{})
	}
	return o, func(o *groupOperation) error {
		version, err := answer.Version()
		if o.name == "put" {
			o.version, w.seen[key] = version, version
		}
		return err
	}
}

// judge looks for orders that explain the histories.
func (h *groups) judge(t *testing.T) (wrong []string) {
	t.Helper()
	for tag, steps := range h.steps {
		model := modelOf(groupState{}, groupModel)
		switch porcupine.CheckOperationsTimeout(model, steps, checkTime) {
		case porcupine.Ok:
		case porcupine.Unknown:
			t.Logf("%s: %d steps were not decided in %v", tag, len(steps), checkTime)
		case porcupine.Illegal:
			wrong = append(wrong, fmt.Sprintf("%s: no order explains its %d steps", tag, len(steps)))
		}
	}
	return wrong
}

// groupHistory lets a world live and judges what its clients were told.
func groupHistory(t *testing.T, seed uint64, b breaks) (h *groups, wrong []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		calm := seed%2 == 0
		net := faultstream.New(seed, faultstream.Rough())
		if calm {
			net.Calm()
		}
		w := newWorldOn(t, net, seed, trouble{crashes: 1 + int(seed/2%3), restarts: int(seed / 6 % 2)}, b)
		h = &groups{&histories{world: w, strict: calm, steps: make(map[string][]porcupine.Operation)}}
		w.load = h
		wrong = w.run()
	})
	return h, append(wrong, h.judge(t)...)
}

// TestGroupHistories runs transactions and single operations on the same keys
// against a node whose power is cut, over a network that is calm or rough, and
// looks for an order, of whole transactions, that explains the answers.
func TestGroupHistories(t *testing.T) {
	t.Parallel()
	first, seeds, loud := uint64(0), uint64(40), false
	if testing.Short() {
		seeds = 16
	}
	if s := os.Getenv(groupSeedEnv); s != "" {
		var err error
		if first, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		seeds, loud = first+1, true
	}
	for seed := first; seed < seeds; seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			h, wrong := groupHistory(t, seed, breaks{})
			if len(wrong) > 0 {
				t.Errorf("%s=%d: %d wrong:\n%s", groupSeedEnv, seed, len(wrong), strings.Join(wrong, "\n"))
			}
			for tag, steps := range h.steps {
				for _, s := range steps {
					if loud {
						t.Logf("%s [%d, %d] %+v", tag, s.Call, s.Return, s.Input)
					}
				}
			}
			if seed%20 < 2 {
				t.Logf("seed %d: %s", seed, h.summary())
			}
		})
	}
}

// summary counts what there was, so that a run in which nothing happens is seen.
func (h *groups) summary() string {
	var all, transactions, conditions, operations, unknown int
	for _, steps := range h.steps {
		for _, s := range steps {
			all++
			in, _ := s.Input.(groupStep)
			if len(in.operations) > 1 {
				transactions++
			}
			conditions += btoi(in.condition > 0)
			operations += btoi(in.operation > 0)
			unknown += btoi(in.unknown)
		}
	}
	return fmt.Sprintf("%d steps, %d transactions, %d refused by a condition and %d by an operation, %d of unknown outcome",
		all, transactions, conditions, operations, unknown)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
