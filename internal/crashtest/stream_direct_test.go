package crashtest

import (
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/server"
)

// Direct runs operations at once, as the node does.
func (b *faultBackend) Direct() handles.Direct {
	if to := b.runtime.Direct(); to != nil {
		return &faultDirect{to: to, of: b}
	}
	return nil
}

// faultDirect remembers what was answered.
type faultDirect struct {
	to *actors.Direct
	of *faultBackend
}

func (d *faultDirect) Begin() { d.to.Begin() }

func (d *faultDirect) Try(op *handles.Operation, key []byte) (done bool, err error) {
	shard := op.Origin.Shard
	epoch, done, err := d.to.Try(shard, d.of.operation(op), key)
	if done {
		op.Passage.Reply = d.to.Reply()
		op.Origin = handles.Origin{Node: d.of.Name(), Shard: shard, Epoch: epoch}
		if op.Session.ID != "" && err == nil {
			d.of.answers.note(op.Session, op.Reply)
		}
	}
	return done, err
}

// counting counts what was run at once, and breaks it where that is asked for.
type counting struct {
	server.Backend

	atOnce *atomic.Int64
	spoil  func(op *handles.Operation) // may be nil
}

func (c counting) Direct() handles.Direct {
	to, _ := c.Backend.(handles.Director)
	return countingDirect{to.Direct(), c}
}

type countingDirect struct {
	handles.Direct

	of counting
}

func (c countingDirect) Try(op *handles.Operation, key []byte) (done bool, err error) {
	if c.of.spoil != nil {
		c.of.spoil(op)
	}
	if done, err = c.Direct.Try(op, key); done {
		c.of.atOnce.Add(1)
	}
	return done, err
}

// memoryTrouble is what a world on the memory store sees: all but the end of
// its node.
func memoryTrouble(seed uint64) trouble {
	r := troubleOf(seed)
	return trouble{forgets: r.forgets, closes: r.closes, narrow: r.narrow, idles: r.idles, memory: true}
}

// TestStreamFaultsAtOnce is TestStreamFaults for operations that have their turn
// at once, beside others that have to wait for what was evicted.
func TestStreamFaultsAtOnce(t *testing.T) {
	t.Parallel()
	var atOnce atomic.Int64
	t.Run("seeds", func(t *testing.T) {
		t.Parallel()
		seeds := uint64(60)
		if testing.Short() {
			seeds = 15
		}
		for seed := range seeds {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := breaks{backend: func(b server.Backend) server.Backend { return counting{Backend: b, atOnce: &atOnce} }}
					w := newWorld(t, seed, memoryTrouble(seed), b)
					for _, wrong := range w.run() {
						t.Error(wrong)
					}
				})
			})
		}
	})
	t.Cleanup(func() {
		if n := atOnce.Load(); n < 1000 {
			t.Errorf("only %d operations were run at once", n)
		}
	})
}

// TestStreamFaultsAtOnceAreNoticed breaks what is run at once.
func TestStreamFaultsAtOnceAreNoticed(t *testing.T) {
	t.Parallel()
	const enough = 60
	for name, spoil := range map[string]func(op *handles.Operation){
		"results are forgotten":          func(op *handles.Operation) { op.Session = handles.Session{} },
		"one number too many is settled": func(op *handles.Operation) { op.Session.Settled++ },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(enough) {
				var wrong []string
				synctest.Test(t, func(t *testing.T) {
					b := breaks{backend: func(b server.Backend) server.Backend {
						return counting{Backend: b, atOnce: new(atomic.Int64), spoil: spoil}
					}}
					wrong = newWorld(t, seed, memoryTrouble(seed), b).run()
				})
				if len(wrong) > 0 {
					t.Logf("noticed after %d seeds, the first of %d signs: %s", seed+1, len(wrong), wrong[0])
					return
				}
			}
			t.Errorf("not noticed in %d seeds", enough)
		})
	}
}
