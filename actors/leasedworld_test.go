package actors_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/storage/memory"
)

// worldStore is a store that several runtimes share, with delays and commits
// whose outcome is not told.
type worldStore struct {
	actors.Store

	w *world
}

func (s *worldStore) Info() actors.StoreInfo {
	info := s.Store.Info()
	info.Durable = s.w.rules.durable
	return info
}

// Commit is applied before, after or in the middle of a delay. Where its outcome
// is unknown it may land much later.
func (s *worldStore) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	verdicts := make([]actors.Verdict, len(batches))
	s.w.dawdle(20 * time.Millisecond)
	for i, b := range batches {
		if s.w.rules.unfenced {
			if row, err := s.Store.Raise(ctx, []actors.Raise{{Shard: b.Shard, Epoch: 1}}); err == nil {
				b.Epoch = row[0].Epoch
			}
		}
		switch n := s.w.n(100); {
		case n >= 6 || !s.w.rules.durable:
			verdicts[i] = s.Store.Commit(ctx, []actors.Batch{b})[0]
		case n >= 4:
			verdicts[i] = actors.Verdict{Status: actors.Refused, Err: errBroken}
		default:
			if n >= 1 {
				s.w.land(s.Store, b, n == 1)
			}
			verdicts[i] = actors.Verdict{Status: actors.Unclear, Err: errBroken}
		}
	}
	s.w.dawdle(20 * time.Millisecond)
	return verdicts
}

// land writes a batch whose outcome was not told, perhaps late.
func (w *world) land(store actors.Store, b actors.Batch, late bool) {
	if !late {
		store.Commit(context.Background(), []actors.Batch{b})
		return
	}
	records := make([]actors.Record, len(b.Records)) // the batch is the runtime's again
	for i, r := range b.Records {
		records[i] = actors.Record{Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value), Delete: r.Delete}
	}
	b.Records = records
	w.landing.Go(func() {
		time.Sleep(time.Duration(w.n(int(100 * time.Millisecond)))) //nolint:forbidigo // in a bubble
		store.Commit(context.Background(), []actors.Batch{b})
	})
}

func (s *worldStore) Read(ctx context.Context, shard uint32, keys [][]byte, found func(int, []byte)) error {
	s.w.dawdle(5 * time.Millisecond)
	err := s.Store.Read(ctx, shard, keys, found)
	s.w.dawdle(5 * time.Millisecond)
	return err
}

func (s *worldStore) Raise(ctx context.Context, requests []actors.Raise) ([]actors.Raised, error) {
	s.w.dawdle(10 * time.Millisecond)
	if s.w.n(10) == 0 {
		return nil, errBroken
	}
	return s.Store.Raise(ctx, requests)
}

// rules say which walls stand.
type rules struct {
	durable  bool
	blind    bool // no runtime looks at the clock
	unfenced bool // the store takes commits of any epoch
	lapses   bool // leases are never revoked: they run out
	nodes    int

	// What is not looked at, since only the other wall keeps it.
	lenient   bool // who answers
	uncounted bool // what is applied
}

// world is some runtimes between which the leases of shards go to and fro, and
// clients that try until they are answered.
type world struct {
	t     *testing.T
	rules rules
	start time.Time
	nodes []*rig

	mu      sync.Mutex
	rand    *rand.Rand
	tenures [][]worldTenure // by shard
	highest []uint64        // epoch in a reply, by shard
	seen    map[string]int64
	values  map[string]map[int64]bool // that Adds have returned
	problem error

	landing sync.WaitGroup
}

// worldTenure is who may answer for a shard, and until when.
type worldTenure struct {
	node  int
	first uint64 // epoch
	until time.Duration
}

const worldShards = 4

func (w *world) now() time.Duration { return time.Since(w.start) }

func (w *world) n(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rand.IntN(n)
}

func (w *world) dawdle(most time.Duration) {
	if w.n(3) > 0 {
		time.Sleep(time.Duration(w.n(int(most)))) //nolint:forbidigo // in a bubble
	}
}

func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problem == nil {
		w.problem = fmt.Errorf("at %v: "+format, append([]any{w.now()}, args...)...)
	}
}

// clock is a node's. Now and then the node is stopped before it looks.
func (w *world) clock() time.Duration {
	if w.n(20) == 0 {
		w.dawdle(300 * time.Millisecond)
	}
	return w.now()
}

// grant gives a shard away.
func (w *world) grant(shard uint32, t worldTenure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tenures[shard] = append(w.tenures[shard], t)
}

// prolong moves the end of a shard's last tenure.
func (w *world) prolong(shard uint32, until time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tenures[shard][len(w.tenures[shard])-1].until = until
}

// granted reports whether a node may answer for a shard now.
func (w *world) granted(shard uint32, node int, epoch uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range slices.Backward(w.tenures[shard]) {
		if t.node == node && t.first <= epoch {
			return w.now() <= t.until
		}
	}
	return false
}

// rule gives a shard away again and again.
func (w *world) rule(ctx context.Context, shard uint32) {
	epoch := uint64(0)
	for ctx.Err() == nil {
		node := w.n(len(w.nodes))
		r := w.nodes[node]
		raised, err := r.Raise(ctx, []actors.Raise{{Shard: shard, Epoch: epoch + 1, Incarnation: [16]byte{byte(node + 1)}}})
		if err != nil || !raised[0].OK {
			if err == nil {
				epoch = raised[0].Epoch
			}
			w.dawdle(10 * time.Millisecond)
			continue
		}
		epoch = raised[0].Epoch
		until := w.now() + time.Duration(w.n(int(400*time.Millisecond)))
		w.grant(shard, worldTenure{node, epoch, until})
		r.Serve(actors.Lease{Shard: shard, Epoch: epoch, Time: raised[0].Time, Until: until})
		for range w.n(5) {
			w.dawdle(100 * time.Millisecond)
			if w.now() >= until {
				break
			}
			until += time.Duration(w.n(int(200 * time.Millisecond)))
			w.prolong(shard, until)
			r.Extend([]uint32{shard}, until)
		}
		w.end(ctx, r, shard, epoch, until)
	}
}

// end ends a tenure in one of the ways in which it can.
func (w *world) end(ctx context.Context, r *rig, shard uint32, epoch uint64, until time.Duration) {
	defer func() { w.prolong(shard, min(until, w.now())) }()
	ways := 3
	if w.rules.lapses {
		ways = 1
	}
	switch w.n(ways) {
	case 0:
		time.Sleep(max(0, until-w.now())) //nolint:forbidigo // in a bubble
		if w.rules.durable {
			return // the next one serves while this one does not know
		}
	case 1:
		w.drain(ctx, r, shard, epoch)
		if w.n(2) == 0 {
			return
		}
	default:
	}
	r.Revoke(shard, epoch)
	if !w.rules.durable && len(w.nodes) > 1 {
		w.drain(ctx, r, shard, epoch) // only waits
	}
}

func (w *world) drain(ctx context.Context, r *rig, shard uint32, epoch uint64) {
	if err := r.Drain(ctx, shard, epoch); err != nil && ctx.Err() == nil {
		w.fail("drain: %v", err)
	}
}

// replied holds a reply against what may be said. begun is the highest epoch
// that was heard of the shard when the operation began.
func (w *world) replied(node int, shard uint32, epoch, begun uint64) {
	if !w.rules.lenient && !w.granted(shard, node, epoch) {
		w.fail("node %d answered for shard %d under epoch %d without a lease", node, shard, epoch)
	}
	if !w.rules.lenient && epoch < begun {
		w.fail("shard %d was answered under epoch %d after one under %d", shard, epoch, begun)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.highest[shard] = max(w.highest[shard], epoch)
}

func (w *world) heard(shard uint32) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.highest[shard]
}

// worldEnd judges a reply as it leaves the shard: a caller that runs others'
// turns may take it much later.
type worldEnd struct {
	w     *world
	node  int
	shard uint32
	begun uint64
	done  chan error
}

// Completed implements actors.Completer.
func (e worldEnd) Completed(epoch uint64, err error) {
	if err == nil {
		e.w.replied(e.node, e.shard, epoch, e.begun)
	}
	e.done <- err
}

// op runs one operation on some node.
func (w *world) op(key, once string) (value int64, err error) {
	node := w.n(len(w.nodes))
	r := w.nodes[node]
	shard := r.shardOf(key)
	begun := w.heard(shard)
	w.mu.Lock()
	least := w.seen[key]
	w.mu.Unlock()
	of := actors.Operation{Kind: "counter", Key: key, IdempotencyKey: once}
	var got interface{ GetValue() int64 }
	if once == "" {
		reply := &quernv1.CounterServiceGetResponse{}
		of.Method, of.Command, of.Reply, got = "get", &quernv1.CounterServiceGetRequest{Key: key}, reply, reply
	} else {
		reply := &quernv1.CounterServiceAddResponse{}
		of.Method, of.Command, of.Reply, got = "add", &quernv1.CounterServiceAddRequest{Key: key}, reply, reply
	}
	end := worldEnd{w, node, shard, begun, make(chan error, 1)}
	r.Submit(shard, &of, time.Time{}, end)
	if err = <-end.done; err != nil {
		return 0, err
	}
	value = got.GetValue()
	w.mu.Lock()
	defer w.mu.Unlock()
	if value < least && once == "" && !w.rules.lenient && !w.rules.uncounted && w.problem == nil {
		w.problem = fmt.Errorf("%s was read as %d after %d", key, value, least)
	}
	w.seen[key] = max(w.seen[key], value)
	return value, nil
}

// client adds to keys until each Add was acknowledged.
func (w *world) client(id, adds int) {
	for i := range adds {
		key := "key-" + strconv.Itoa(w.n(8))
		once := strconv.Itoa(id) + "/" + strconv.Itoa(i)
		for {
			value, err := w.op(key, once)
			if err == nil {
				w.mu.Lock()
				if w.values[key] == nil {
					w.values[key] = make(map[int64]bool)
				}
				if w.values[key][value] && !w.rules.uncounted && w.problem == nil {
					w.problem = fmt.Errorf("two Adds to %s were answered with %d", key, value)
				}
				w.values[key][value] = true
				w.mu.Unlock()
				break
			}
			if _, known := errors.AsType[*failure.Error](err); !known {
				w.fail("%v", err)
				return
			}
			w.dawdle(20 * time.Millisecond)
		}
		if _, err := w.op(key, ""); err != nil {
			w.dawdle(10 * time.Millisecond)
		}
	}
}

// runWorld returns the first broken promise.
func runWorld(t *testing.T, seed uint64, rules rules) (problem error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, rules: rules, start: time.Now(), rand: rand.New(rand.NewPCG(seed, 1)), tenures: make([][]worldTenure, worldShards),
			highest: make([]uint64, worldShards), seen: make(map[string]int64), values: make(map[string]map[int64]bool),
		}
		shared := memory.New(worldShards)
		for i := range rules.nodes {
			store := &worldStore{shared, w}
			rt, err := actors.New(actors.Config{
				Store: store, Kinds: []actors.Kind{grains.Counter{}}, Leased: true, Clock: w.clock, Incarnation: [16]byte{byte(i + 1)},
			})
			if err != nil {
				t.Fatal(err)
			}
			if rules.blind {
				rt.TrustBlindly()
			}
			if err := rt.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.nodes = append(w.nodes, &rig{rt, worldShards, store})
		}
		ctx, cancel := context.WithCancel(t.Context())
		var ruling, clients sync.WaitGroup
		for shard := range uint32(worldShards) {
			ruling.Go(func() { w.rule(ctx, shard) })
		}
		const callers, adds = 6, 25
		for id := range callers {
			clients.Go(func() { w.client(id, adds) })
		}
		clients.Wait()
		cancel()
		ruling.Wait()
		w.landing.Wait()
		for _, r := range w.nodes {
			r.stopInBubble(t)
		}
		problem = w.problem
		if problem == nil && !rules.uncounted {
			problem = w.count(t, shared, callers*adds)
		}
	})
	return problem
}

// count holds what is in the store against what was acknowledged.
func (w *world) count(t *testing.T, store actors.Store, want int) error {
	t.Helper()
	total := int64(0)
	r := newRig(t, store)
	defer r.stopInBubble(t)
	for key := range w.values {
		got, err := r.counter(key).Get(t.Context())
		if err != nil {
			return err
		}
		total += got
	}
	if total != int64(want) {
		return fmt.Errorf("%d Adds were acknowledged, %d applied", want, total)
	}
	return nil
}

// TestWorldsOfLeases: leases go to and fro between runtimes, run out, are revoked
// and given up; commits fail and land late; nodes are stopped before they look at
// the clock. Nothing is answered without a lease, epochs rise, and what was
// acknowledged is applied, once.
func TestWorldsOfLeases(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]rules{
		"durable":             {durable: true, nodes: 3},
		"durable, lapses":     {durable: true, lapses: true, nodes: 2},
		"memory":              {nodes: 1},
		"memory of two nodes": {nodes: 2},
		"store alone":         {durable: true, blind: true, lapses: true, nodes: 3, lenient: true},
		"trust alone":         {durable: true, unfenced: true, nodes: 3, uncounted: true},
	} {
		for seed := range uint64(8) {
			t.Run(name+"/"+strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				if problem := runWorld(t, seed, rules); problem != nil {
					t.Error(problem)
				}
			})
		}
	}
}

// TestWorldsNotice holds the witnesses against worlds that lack a wall.
func TestWorldsNotice(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string]rules{
		"no trust": {durable: true, blind: true, lapses: true, nodes: 3, uncounted: true},
		"no fence": {durable: true, unfenced: true, nodes: 3, lenient: true},
		"neither":  {durable: true, blind: true, unfenced: true, lapses: true, nodes: 3, lenient: true},
	} {
		noticed := false
		for seed := uint64(0); seed < 20 && !noticed; seed++ {
			noticed = runWorld(t, seed, rules) != nil
		}
		if !noticed {
			t.Errorf("%s: nothing was noticed", name)
		}
	}
}
