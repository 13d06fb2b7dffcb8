package actors_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/storage/embedded"
)

// TestPowerCuts runs load on the embedded store, cuts the power at a random
// moment (what was not synced is dropped, or a random part of it) and starts
// again from what the disk has, several times over. What was acknowledged
// before the cut is there, nothing is there twice, and an idempotency key that
// was sent before and after it counts once. What was sent in a session and not
// answered is repeated after the cut, and counts exactly once. Transactions are
// there as a whole or not at all, each of them once.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	seeds := 80
	if testing.Short() {
		seeds = 20
	}
	for seed := range uint64(seeds) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			if p := newPowerCut(t, seed); !p.run() {
				t.Fatal(p.problem)
			}
		})
	}
}

const (
	powerKeys    = 6
	powerCallers = 6
	powerCuts    = 3
)

type powerCut struct {
	t    *testing.T
	rand *rand.Rand
	disk *vfs.MemFS
	// wrap breaks the store, where it is not nil.
	wrap   func(actors.Store) actors.Store
	client retrier
	bank   bank

	mu sync.Mutex
	// cutHere cuts the power, and returns when that has happened; nil while
	// there is no load.
	cutHere func()
	problem error // the first broken promise
	// Per key: adds that were acknowledged, and that were begun.
	acked, begun [powerKeys]atomic.Int64
	ids          [powerKeys]string
}

func newPowerCut(t *testing.T, seed uint64) *powerCut {
	t.Helper()
	p := &powerCut{t: t, rand: rand.New(rand.NewPCG(seed, 0)), disk: vfs.NewCrashableMem()}
	for i := range p.ids {
		p.ids[i] = "id-" + strconv.Itoa(i)
	}
	p.client.fail, p.bank.fail = p.fail, p.fail
	return p
}

// fail notes a broken promise.
func (p *powerCut) fail(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem == nil {
		p.problem = fmt.Errorf(format, args...)
	}
}

func (p *powerCut) kept() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem == nil
}

func (p *powerCut) setCut(here func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutHere = here
}

func (p *powerCut) cutNow() {
	p.mu.Lock()
	here := p.cutHere
	p.mu.Unlock()
	if here != nil {
		here()
	}
}

func (p *powerCut) open() *rig {
	var store actors.Store
	store, err := embedded.Open(p.t.Context(), embedded.Options{
		Dir: "data", Shards: 4, FS: p.disk, MinFreeBytes: -1,
		TailBytes: 2 << 10, GrowBytes: 512, // many checkpoints and files
	})
	if err != nil {
		p.t.Fatal(err)
	}
	if p.wrap != nil {
		store = p.wrap(store)
	}
	return newRig(p.t, store, withTransactions, func(c *actors.Config) { c.ResidentLimit = 4 })
}

// run reports whether all promises were kept.
func (p *powerCut) run() bool {
	for range powerCuts {
		r := p.open()
		p.check(r)
		if p.kept() {
			p.loadUntilCut(r)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := r.Stop(ctx); err != nil {
			p.t.Error(err)
		}
		if err := r.store.Close(ctx); err != nil {
			p.t.Error(err)
		}
		cancel()
		if !p.kept() {
			return false
		}
	}
	r := p.open()
	p.check(r)
	p.t.Cleanup(func() { _ = r.store.Close(context.Background()) })
	return p.kept()
}

func (p *powerCut) check(r *rig) {
	p.checkAll(r)
	p.once(r)
	p.client.repeatAll(r)
	p.client.check(r)
	p.bank.check(r)
}

// loadUntilCut adds from several callers; p.disk is what the cut leaves.
func (p *powerCut) loadUntilCut(r *rig) {
	stop := make(chan struct{})
	after := 20 + p.rand.IntN(300)
	cutNow, cut := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.setCut(func() {
		once.Do(func() { close(cutNow) })
		<-cut
	})
	defer p.setCut(nil)
	var done atomic.Int64
	var wg sync.WaitGroup
	for caller := range powerCallers {
		wg.Go(func() {
			for i := caller; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				switch {
				case caller%2 == 0:
					p.addOne(r, i%powerKeys)
				case i%3 == 0:
					p.bank.move(r)
				case i%3 == 1:
					p.bank.look(r)
				case !p.client.add(r, i%retrierKeys):
					<-stop
					return
				}
				if done.Add(1) == int64(after) {
					once.Do(func() { close(cutNow) })
				}
			}
		})
	}
	<-cutNow
	p.client.freeze(true)
	p.bank.freeze(true)
	// What is acknowledged by now must survive; what is begun by the end of
	// the clone may.
	var acked, begun [powerKeys]int64
	for i := range acked {
		acked[i] = p.acked[i].Load()
	}
	clone := p.disk.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: p.rand.IntN(101), RNG: rand.New(rand.NewPCG(p.rand.Uint64(), 1)),
	})
	close(cut)
	for i := range begun {
		begun[i] = p.begun[i].Load()
	}
	close(stop)
	wg.Wait()
	p.client.freeze(false)
	p.bank.freeze(false)
	for i := range acked {
		p.acked[i].Store(acked[i])
		p.begun[i].Store(begun[i])
	}
	p.disk = clone
}

func (p *powerCut) addOne(r *rig, key int) {
	p.begun[key].Add(1)
	_, err := r.counter(p.key(key)).Add(context.Background(), 1)
	switch {
	case err == nil:
		p.acked[key].Add(1)
	case failure.OutcomeOf(err) == failure.NotDone:
		p.begun[key].Add(-1)
	default:
	}
}

func (*powerCut) key(i int) string { return fmt.Sprintf("key-%d", i) }

// checkAll holds the counters against what was acknowledged, and goes on from
// what it found.
func (p *powerCut) checkAll(r *rig) {
	p.t.Helper()
	for i := range powerKeys {
		got, err := r.counter(p.key(i)).Get(p.t.Context())
		if acked, begun := p.acked[i].Load(), p.begun[i].Load(); err != nil || got < acked || got > begun {
			p.fail("key %d: %d after the cut, %d acknowledged, %d begun, %w", i, got, acked, begun, err)
		}
		p.acked[i].Store(got)
		p.begun[i].Store(got)
	}
}

// once sends the same idempotency keys in every life; each counts once.
func (p *powerCut) once(r *rig) {
	p.t.Helper()
	for i, id := range p.ids {
		got, err := r.counter("once-"+strconv.Itoa(i)).Once(id).Add(p.t.Context(), 1000)
		if err != nil || got != 1000 {
			p.fail("id %s: got %d, %w; want 1000", id, got, err)
		}
	}
}
