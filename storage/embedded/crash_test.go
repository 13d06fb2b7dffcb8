package embedded_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/storage/embedded"
)

const crashShards = 4

// shardState is what a shard may hold.
type shardState struct {
	epoch   uint64
	time    int64
	records map[string]string
}

func (s shardState) clone() shardState {
	s.records = maps.Clone(s.records)
	return s
}

func (s shardState) equal(o shardState) bool {
	return s.epoch == o.epoch && s.time == o.time && maps.Equal(s.records, o.records)
}

// history is what was acknowledged, and what was under way.
type history struct {
	mu sync.Mutex
	// acked is the state by what was acknowledged. perhaps is what it would
	// be with the operation under way, or one that ended unclear.
	acked, perhaps [crashShards]shardState
}

func newHistory() *history {
	h := &history{}
	for i := range h.acked {
		h.acked[i].records = map[string]string{}
		h.perhaps[i].records = map[string]string{}
	}
	return h
}

// copy returns the history at this moment. h.mu is held.
func (h *history) copy() *history {
	c := &history{}
	for i := range h.acked {
		c.acked[i], c.perhaps[i] = h.acked[i].clone(), h.perhaps[i].clone()
	}
	return c
}

// driver does random operations on a store and keeps their history.
type driver struct {
	*history
	rng   *rand.Rand
	store *embedded.Store
	clock int64
	fat   int // size of some values
}

func (d *driver) step(ctx context.Context) error {
	if d.rng.IntN(8) == 0 || d.acked[0].epoch == 0 {
		return d.raise(ctx)
	}
	return d.commit(ctx)
}

func (d *driver) raise(ctx context.Context) error {
	var requests []actors.Raise
	d.mu.Lock()
	for i := range d.acked {
		if d.rng.IntN(2) == 0 || d.acked[i].epoch == 0 {
			r := actors.Raise{Shard: uint32(i), Epoch: d.perhaps[i].epoch + 1}
			requests = append(requests, r)
			d.perhaps[i].epoch = r.Epoch
		}
	}
	d.mu.Unlock()
	raised, err := d.store.Raise(ctx, requests)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case errors.Is(err, embedded.ErrBroken):
		return nil
	case errors.Is(err, embedded.ErrBehind), errors.Is(err, embedded.ErrGrow):
		for _, r := range requests {
			d.perhaps[r.Shard].epoch = d.acked[r.Shard].epoch
		}
		return nil
	case err != nil:
		return err
	}
	for i, r := range raised {
		if !r.OK {
			return fmt.Errorf("raise %+v: %+v", requests[i], r)
		}
		// What was unclear before is clear now: the caller would load.
		d.acked[requests[i].Shard].epoch = r.Epoch
	}
	return nil
}

func (d *driver) commit(ctx context.Context) error {
	d.mu.Lock()
	var batches []actors.Batch
	for i := range d.acked {
		if d.rng.IntN(2) == 0 || !d.acked[i].equal(d.perhaps[i]) {
			continue
		}
		d.clock++
		b := actors.Batch{Shard: uint32(i), Epoch: d.acked[i].epoch, Time: d.clock}
		for range 1 + d.rng.IntN(4) {
			key := fmt.Sprintf("k%02d", d.rng.IntN(20))
			value := fmt.Sprintf("%d-%d", d.clock, d.rng.Uint32())
			if d.fat > 0 && d.rng.IntN(4) == 0 {
				value += string(bytes.Repeat([]byte("."), d.rng.IntN(d.fat)))
			}
			b.Records = append(b.Records, actors.Record{Key: []byte(key), Value: []byte(value), Delete: d.rng.IntN(5) == 0})
		}
		if d.rng.IntN(10) == 0 {
			b.Epoch-- // fenced
		} else {
			d.perhaps[i] = apply(d.perhaps[i], b)
		}
		batches = append(batches, b)
	}
	d.mu.Unlock()
	verdicts := d.store.Commit(ctx, batches)
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, v := range verdicts {
		b := batches[i]
		switch v.Status {
		case actors.Done:
			d.acked[b.Shard] = apply(d.acked[b.Shard], b)
		case actors.Refused, actors.Fenced:
			d.perhaps[b.Shard] = d.acked[b.Shard].clone()
		case actors.Unclear:
		}
	}
	return nil
}

func apply(s shardState, b actors.Batch) shardState {
	s = s.clone()
	s.time = b.Time
	for _, r := range b.Records {
		if r.Delete {
			delete(s.records, string(r.Key))
		} else {
			s.records[string(r.Key)] = string(r.Value)
		}
	}
	return s
}

// settle reads what became of unclear operations, as a reload does.
func (d *driver) settle(ctx context.Context) error {
	for i := range d.acked {
		if d.acked[i].equal(d.perhaps[i]) {
			continue
		}
		got, err := stateOf(ctx, d.store, uint32(i))
		if err != nil {
			return err
		}
		d.mu.Lock()
		err = d.check(i, got)
		d.acked[i], d.perhaps[i] = got, got.clone()
		d.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// check compares a shard with the history. The row and the records may each be
// as acknowledged or as they perhaps became.
func (h *history) check(shard int, got shardState) error {
	acked, perhaps := h.acked[shard], h.perhaps[shard]
	if got.epoch != acked.epoch && got.epoch != perhaps.epoch {
		return fmt.Errorf("shard %d has epoch %d, acknowledged %d, perhaps %d", shard, got.epoch, acked.epoch, perhaps.epoch)
	}
	for _, want := range []shardState{acked, perhaps} {
		if got.time == want.time && maps.Equal(got.records, want.records) {
			return nil
		}
	}
	return fmt.Errorf("shard %d holds\n%v at %d, acknowledged\n%v at %d, perhaps\n%v at %d",
		shard, got.records, got.time, acked.records, acked.time, perhaps.records, perhaps.time)
}

// stateOf reads a shard, by Scan and by Read.
func stateOf(ctx context.Context, s *embedded.Store, shard uint32) (shardState, error) {
	state := shardState{records: map[string]string{}}
	err := s.Scan(ctx, shard, nil, nil, func(key, value []byte) bool {
		state.records[string(key)] = string(value)
		return true
	})
	if err != nil {
		return state, err
	}
	keys := make([][]byte, 20)
	for i := range keys {
		keys[i] = fmt.Appendf(nil, "k%02d", i)
	}
	read := map[string]string{}
	err = s.Read(ctx, shard, keys, func(i int, value []byte) { read[string(keys[i])] = string(value) })
	if err == nil && !maps.Equal(read, state.records) {
		err = fmt.Errorf("shard %d: read finds %v, scan %v", shard, read, state.records)
	}
	if err != nil {
		return state, err
	}
	// A raise to 0 changes nothing and answers with the row.
	raised, err := s.Raise(ctx, []actors.Raise{{Shard: shard}})
	for errors.Is(err, embedded.ErrBehind) {
		raised, err = s.Raise(ctx, []actors.Raise{{Shard: shard}})
	}
	if err != nil {
		return state, err
	}
	state.epoch, state.time = raised[0].Epoch, raised[0].Time
	return state, nil
}

// cutter takes a copy of the disk, as a power cut leaves it, ahead of the n-th
// operation.
type cutter struct {
	disk *vfs.MemFS
	rng  *rand.Rand
	hist *history

	mu    sync.Mutex
	left  int
	after *vfs.MemFS
	known *history
}

func (c *cutter) before(string, string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left--; c.left == 0 {
		c.cut()
	}
	return nil
}

// cut is called with c.mu held. The history stands still while the disk is
// copied, so that nothing is acknowledged between the two.
func (c *cutter) cut() {
	c.hist.mu.Lock()
	defer c.hist.mu.Unlock()
	c.known = c.hist.copy()
	percent := []int{0, 20, 50, 80, 100}[c.rng.IntN(5)]
	c.after = c.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: c.rng})
}

// finish cuts now unless that has happened.
func (c *cutter) finish() (*vfs.MemFS, *history) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.after == nil {
		c.cut()
	}
	return c.after, c.known
}

func (c *cutter) happened() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.after != nil
}

var crashOptions = embedded.Options{Dir: "/data", Shards: crashShards, CacheBytes: 1 << 20, TailBytes: 1500, GrowBytes: 700}

// crashRun writes to a store, cuts its power, checks what is left, and does it
// again on the rest of the disk, three times. Cuts fall anywhere: on creation,
// commits, rotations, checkpoints, and on the recovery from the cut before.
func crashRun(ctx context.Context, seed uint64, hooks embedded.Hooks) error {
	rng := rand.New(rand.NewPCG(seed, 7))
	disk, hist := vfs.NewCrashableMem(), newHistory()
	for range 3 {
		c := &cutter{disk: disk, rng: rand.New(rand.NewPCG(rng.Uint64(), 2)), hist: hist, left: 1 + rng.IntN(400)}
		o := crashOptions.WithHooks(hooks)
		if rng.IntN(4) == 0 {
			c.left = 1 + rng.IntN(60)
		}
		o.FS = tap(disk, c.before)
		if err := crashRound(ctx, o, c, rng); err != nil {
			return err
		}
		disk, hist = c.finish()
		if err := verify(ctx, disk, hist, hooks); err != nil {
			return err
		}
	}
	return nil
}

func crashRound(ctx context.Context, o embedded.Options, c *cutter, rng *rand.Rand) (err error) {
	s, err := embedded.Open(ctx, o)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	d := &driver{history: c.hist, rng: rand.New(rand.NewPCG(rng.Uint64(), 1)), store: s, fat: 900, clock: maxTime(c.hist)}
	if err := d.settle(ctx); err != nil {
		return err
	}
	for i := 0; i < 80 && !c.happened(); i++ {
		if err := d.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func maxTime(h *history) int64 {
	return slices.MaxFunc(h.perhaps[:], func(a, b shardState) int { return int(a.time - b.time) }).time
}

// verify opens a copy of the disk and compares it with the history.
func verify(ctx context.Context, disk *vfs.MemFS, hist *history, hooks embedded.Hooks) (err error) {
	o := crashOptions.WithHooks(hooks)
	o.FS = disk.CrashClone(vfs.CrashCloneCfg{})
	s, err := embedded.Open(ctx, o)
	if err != nil {
		return fmt.Errorf("open after the cut: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	for shard := range crashShards {
		got, err := stateOf(ctx, s, uint32(shard))
		if err == nil {
			err = hist.check(shard, got)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// seeds makes the power cut test longer: go test -run PowerCut -args -seeds 10000.
var seeds = flag.Int("seeds", 0, "number of power cut runs")

func crashSeeds() int {
	switch {
	case *seeds > 0:
		return *seeds
	case testing.Short() || raceEnabled:
		return 40
	}
	return 400
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	const workers = 4
	for worker := range workers {
		t.Run(fmt.Sprint(worker), func(t *testing.T) {
			t.Parallel()
			for seed := worker; seed < crashSeeds(); seed += workers {
				if err := crashRun(t.Context(), uint64(seed), embedded.Hooks{}); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		})
	}
}

// TestPowerCutNotices breaks the store in ways that the runs above must notice.
func TestPowerCutNotices(t *testing.T) {
	t.Parallel()
	for name, hooks := range map[string]embedded.Hooks{
		"skipped sync":                 {SkipSync: true},
		"journal deleted before flush": {DropBeforeFlush: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(200) {
				if err := crashRun(t.Context(), seed, hooks); err != nil {
					t.Logf("seed %d noticed: %.200s", seed, err.Error())
					return
				}
			}
			t.Fatal("200 runs noticed nothing")
		})
	}
}
