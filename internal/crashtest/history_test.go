package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/faultstream"
)

const (
	// historySeedEnv runs one seed of TestHistories alone, historySeedsEnv
	// says how many there are.
	historySeedEnv  = "QUERN_CRASHTEST_HISTORY_SEED"
	historySeedsEnv = "QUERN_CRASHTEST_HISTORY_SEEDS"

	historyOps  = 14 // of a worker
	historyKeys = 3  // of each kind
)

// histories records what the clients of a world are told of counters, map
// entries and locks, and asks whether there is an order, one operation after
// the other, in which all of it can have been answered: linearizability
// (Herlihy and Wing), as package porcupine checks it.
type histories struct {
	world *world
	// strict histories have a calm network and patient clients, so that no
	// waiter loses its place: then the queues must be in order, too.
	strict bool

	mu    sync.Mutex // guards what follows
	now   int64
	steps map[string][]porcupine.Operation // by kind and key
	odd   []string
}

func (h *histories) tick() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now++
	return h.now
}

// record adds a step that began at call. One of unknown outcome may happen at
// any later time; one that was refused did not happen.
func (h *histories) record(key string, call int64, s step, err error) {
	end := h.tick()
	switch {
	case err != nil && failure.OutcomeOf(err) == failure.NotDone:
		return
	case err != nil:
		s.unknown, end = true, math.MaxInt64
		if s.name == "get" {
			return
		}
	}
	h.add(key, call, end, s)
}

func (h *histories) add(key string, call, end int64, s any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.steps[key] = append(h.steps[key], porcupine.Operation{Input: s, Call: call, Return: end})
}

func (h *histories) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.odd = append(h.odd, fmt.Sprintf(format, args...))
}

// work implements workload.
func (h *histories) work(i int, r *rand.Rand) {
	for n := range historyOps {
		c := h.world.clients[i%worldClients].Load()
		ctx, cancel := h.patience(r)
		k := strconv.Itoa(r.IntN(historyKeys))
		switch r.IntN(4) {
		case 0:
			h.counter(ctx, c, "counter "+k, r)
		case 1:
			h.entry(ctx, c, "map "+k, fmt.Sprintf("%d.%d", i, n), r)
		default:
			h.lock(ctx, c, "lock "+strconv.Itoa(r.IntN(2)), fmt.Sprintf("w%d.%d", i, n), r)
		}
		cancel()
		pauseFor(time.Duration(r.IntN(60)) * time.Millisecond)
	}
}

func (h *histories) patience(r *rand.Rand) (context.Context, context.CancelFunc) {
	if !h.strict && r.IntN(4) == 0 {
		return context.WithTimeout(context.Background(), time.Duration(1+r.IntN(300))*time.Millisecond)
	}
	return context.WithTimeout(context.Background(), patient)
}

func (h *histories) counter(ctx context.Context, c *client.Client, key string, r *rand.Rand) {
	counter, call := c.Counter(key), h.tick()
	s := step{}
	var err error
	switch r.IntN(4) {
	case 0:
		s.name, s.delta = "add", 1+r.Int64N(5)
		s.value, err = counter.Add(ctx, s.delta)
	case 1:
		s.name, s.value = "set", r.Int64N(20)
		_, err = counter.Set(ctx, s.value)
	case 2:
		s.name, s.was, s.value = "cas", r.Int64N(20), r.Int64N(20)
		_, s.swapped, err = counter.CompareAndSet(ctx, s.was, s.value)
	default:
		s.name = "get"
		s.value, err = counter.Get(ctx)
	}
	h.record(key, call, s, err)
}

func (h *histories) entry(ctx context.Context, c *client.Client, key, text string, r *rand.Rand) {
	entry, call := c.Map(key), h.tick()
	s := step{text: text}
	var err error
	switch r.IntN(5) {
	case 0, 1:
		s.name = "put"
		s.version, err = entry.Put(ctx, []byte(text), handles.PutOptions{})
	case 2:
		s.name = "delete"
		_, err = entry.Delete(ctx)
	case 3:
		read, err := entry.Get(ctx)
		h.record(key, call, step{name: "get", text: string(read.Value), version: read.Version}, err)
		if err != nil || !read.Found() {
			return
		}
		call, s.name, s.expect = h.tick(), "cas", read.Version
		s.version, s.swapped, err = entry.CompareAndSwap(ctx, read.Version, []byte(text))
		h.record(key, call, s, err)
		return
	default:
		var read handles.MapValue
		read, err = entry.Get(ctx)
		s = step{name: "get", text: string(read.Value), version: read.Version}
	}
	h.record(key, call, s, err)
}

// lock takes a lock and gives it back, or looks at it.
func (h *histories) lock(ctx context.Context, c *client.Client, key, owner string, r *rand.Rand) {
	lock := c.Lock(key)
	if r.IntN(3) == 0 {
		h.look(ctx, lock, key)
		return
	}
	o := handles.LockOptions{Owner: owner, TTL: 24 * time.Hour, Wait: -1}
	if r.IntN(4) > 0 {
		o.Wait = 0 // as long as ctx lasts
	}
	token, held := h.take(ctx, lock, key, o)
	if !held {
		return
	}
	if r.IntN(2) == 0 {
		h.look(ctx, lock, key)
	}
	pauseFor(time.Duration(r.IntN(80)) * time.Millisecond)
	call := h.tick()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	err := lock.Release(ctx, token)
	s := step{name: "release", owner: owner, token: token, held: err == nil}
	if errors.Is(err, failure.NotHolder) {
		err = nil // an answer like any other
	}
	h.record(key, call, s, err)
}

// take asks for a lock as a patient program does: again, by the same owner,
// until it knows. It may be in the queue more than once in that time, having
// lost its place.
func (h *histories) take(ctx context.Context, lock handles.Lock, key string, o handles.LockOptions) (token uint64, held bool) {
	call, began := h.tick(), time.Now()
	g, err := lock.Grant(ctx, o)
	for err != nil && ctx.Err() == nil {
		pauseFor(20 * time.Millisecond)
		g, err = lock.Grant(ctx, o)
	}
	switch {
	case err != nil:
		h.abandon(lock, key, call, o.Owner)
	case !g.Held && o.Wait < 0:
		h.record(key, call, step{name: "busy"}, nil)
	case !g.Held && patienceIsOver(ctx): // nothing is left of it
	case !g.Held:
		deadline, _ := ctx.Deadline()
		h.note("%s: %s was told after %v, from %d on, that it has waited in vain, %v before its time", key, o.Owner, time.Since(began), call, time.Until(deadline))
	default:
		end := h.tick()
		h.add(key, call, end, step{name: "queue up", owner: o.Owner})
		h.add(key, call, end, step{name: "granted", owner: o.Owner, token: g.Token})
	}
	return g.Token, g.Held && err == nil
}

// patienceIsOver reports whether a wait for as long as ctx lasts has ended: the
// shard counts in whole milliseconds.
func patienceIsOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) < time.Millisecond
}

// abandon gives up an Acquire: it may be waiting or holding until its owner was
// released.
func (h *histories) abandon(lock handles.Lock, key string, call int64, owner string) {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	err := lock.ReleaseOwner(ctx, owner)
	for err != nil && !errors.Is(err, failure.NotHolder) && ctx.Err() == nil {
		pauseFor(20 * time.Millisecond)
		err = lock.ReleaseOwner(ctx, owner)
	}
	if ctx.Err() != nil {
		h.note("%s: %s could not be released: %v", key, owner, err)
	}
	// Whatever it was granted, it has nothing of it any more.
	end := h.tick()
	h.add(key, call, end, step{name: "granted", owner: owner, unknown: true})
	h.add(key, call, end, step{name: "leave", owner: owner})
}

func (h *histories) look(ctx context.Context, lock handles.Lock, key string) {
	call := h.tick()
	info, err := lock.Get(ctx)
	s := step{name: "get", queue: strings.Join(info.Queue, " ")}
	if len(info.Holders) > 0 {
		s.owner, s.token = info.Holders[0].Owner, info.Holders[0].Token
	}
	if err == nil && len(info.Holders) > 1 {
		h.note("%s has %d holders", key, len(info.Holders))
	}
	h.record(key, call, s, err)
}

// check implements workload. The search for an order comes later, where time
// runs: see judge.
func (h *histories) check() []string { return slices.Clone(h.odd) }

// checkTime bounds the search for an order; a history that takes longer is left
// undecided, which is rare.
const checkTime = 10 * time.Second

// judge looks for orders that explain the histories.
func (h *histories) judge(t *testing.T) (wrong []string) {
	t.Helper()
	models := map[string]porcupine.Model{
		"counter": modelOf(int64(0), counterModel), "map": modelOf(entryState{}, entryModel),
		"lock": modelOf(lockState{}, lockModel),
	}
	if !h.strict {
		models["lock"] = modelOf(lockState{}, looseLockModel)
	}
	for key, steps := range h.steps {
		kind, _, _ := strings.Cut(key, " ")
		switch porcupine.CheckOperationsTimeout(models[kind], steps, checkTime) {
		case porcupine.Ok:
		case porcupine.Unknown:
			t.Logf("%s: not decided in %v", key, checkTime)
		case porcupine.Illegal:
			wrong = append(wrong, fmt.Sprintf("%s: no order explains its %d steps", key, len(steps)))
		}
	}
	return wrong
}

func newHistories(t *testing.T, seed uint64, b breaks) *world {
	t.Helper()
	strict := seed%2 == 0
	r := trouble{crashes: int(seed / 2 % 3), restarts: int(seed / 6 % 2)}
	net := faultstream.New(seed, faultstream.Rough())
	if strict {
		net.Calm()
	}
	w := newWorldOn(t, net, seed, r, b)
	w.load = &histories{world: w, strict: strict, steps: make(map[string][]porcupine.Operation)}
	return w
}

// TestHistories runs clients against a node whose power is cut, over a network
// that is calm or rough, and looks for an order that explains their answers.
func TestHistories(t *testing.T) {
	t.Parallel()
	if s := os.Getenv(historySeedEnv); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		historyRun(t, seed, true)
		return
	}
	seeds := uint64(60)
	if testing.Short() {
		seeds = 24
	}
	if s := os.Getenv(historySeedsEnv); s != "" {
		var err error
		if seeds, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			historyRun(t, seed, false)
		})
	}
}

func historyRun(t *testing.T, seed uint64, loud bool) {
	t.Helper()
	h, wrong := history(t, seed, breaks{})
	if len(wrong) > 0 {
		t.Errorf("%s=%d: %d wrong:\n%s", historySeedEnv, seed, len(wrong), strings.Join(wrong[:min(len(wrong), 20)], "\n"))
	}
	if loud {
		for key, steps := range h.steps {
			for _, s := range steps {
				t.Logf("%s [%d, %d] %+v", key, s.Call, s.Return, s.Input)
			}
		}
	}
	if seed%40 == 0 {
		t.Logf("seed %d: %d steps", seed, h.now/2)
	}
}

// history lets a world live and judges what its clients were told.
func history(t *testing.T, seed uint64, b breaks) (h *histories, wrong []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newHistories(t, seed, b)
		wrong = w.run()
		h, _ = w.load.(*histories)
	})
	return h, append(wrong, h.judge(t)...)
}
