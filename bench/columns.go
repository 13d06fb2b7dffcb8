package bench

import (
	"context"
	"math/bits"
	"math/rand/v2"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// columns is what one worker sends in a bulk add.
type columns struct {
	keys   []int
	names  []string
	floors []int64
	deltas []int64 // all 1; shared and never written
	set    keySet
}

func newColumns(n int, deltas []int64) *columns {
	return &columns{
		keys: make([]int, n), names: make([]string, n), floors: make([]int64, n),
		deltas: deltas, set: newKeySet(n),
	}
}

func ones(n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = 1
	}
	return out
}

// column is a round of one bulk add. Each key counts as an operation.
func (g *generator) column(ctx context.Context, w *worker) (done int64, ok bool) {
	w.failures = w.failures[:0]
	c := w.columns
	c.set.draw(g.picker, w.random, c.keys)
	for i, k := range c.keys {
		c.names[i], c.floors[i] = w.keys.name(k), w.ledger.floor(w.id, k)
	}
	values, err := handles.AddMany(ctx, w.target, c.names, c.deltas)
	switch some := err.(type) { //nolint:errorlint // AddMany's own type; wrapped it would tell of the whole call
	case nil:
	case *handles.ManyError:
		w.failedColumns(some)
	default:
		c.names = make([]string, len(c.keys)) // the old ones may still be in use
		if failure.OutcomeOf(err) == failure.Unknown {
			for _, k := range c.keys {
				w.ledger.uncertain(k)
			}
		}
		w.failures = append(w.failures, failures{err, int64(len(c.keys))})
		return 0, true
	}
	for i, k := range c.keys {
		if k >= 0 {
			w.checkAdd(k, c.floors[i], values[i])
			done++
		}
	}
	return done, true
}

// failedColumns notes the keys that failed and takes them out of the round.
func (w *worker) failedColumns(some *handles.ManyError) {
	keys := w.columns.keys
	for _, f := range some.Failed {
		if f.Index < 0 || f.Index >= len(keys) || keys[f.Index] < 0 {
			w.broken.note("a bulk add of %d keys reported a failure of number %d, which is none of them or came twice", len(keys), f.Index)
			continue
		}
		w.failed(true, keys[f.Index], f.Err)
		keys[f.Index] = -1
	}
}

// keySet draws different keys. It is a hash table with open addressing that is
// emptied before each use: at most half full, 4 bytes a slot.
type keySet struct {
	slots []uint32 // key + 1, or 0
	shift uint
}

func newKeySet(n int) keySet {
	size := max(2, uint(bits.Len(uint(2*n-1))))
	return keySet{slots: make([]uint32, 1<<size), shift: 32 - size}
}

// add returns false where the set has k.
func (s *keySet) add(k int) bool {
	key := uint32(k) + 1 //nolint:gosec // at most maxKeys
	mask := uint32(len(s.slots) - 1)
	for at := key * 0x9e3779b1 >> s.shift; ; at = (at + 1) & mask { // Fibonacci hashing
		switch s.slots[at] {
		case 0:
			s.slots[at] = key
			return true
		case key:
			return false
		}
	}
}

// redraws is how often a key that is taken is drawn anew. After that the next
// free one of a random permutation is taken: the keys that a skewed choice
// leaves for the end would take for ever to come.
const redraws = 4

// draw fills out with different keys, of which there must be enough.
func (s *keySet) draw(p *picker, random *rand.PCG, out []int) {
	clear(s.slots)
	keys, at, stride := p.keys, uint64(0), uint64(0)
	for i := range out {
		k := p.pick(random)
		for tries := 0; !s.add(k); tries++ {
			if tries < redraws {
				k = p.pick(random)
				continue
			}
			if stride == 0 {
				at, stride = random.Uint64()%keys, coprime(random, keys)
			}
			at = (at + stride) % keys
			k = int(at) //nolint:gosec // below maxKeys
		}
		out[i] = k
	}
}

// coprime returns a random number of 1 to n whose multiples reach all n
// residues.
func coprime(random *rand.PCG, n uint64) uint64 {
	s := random.Uint64()%n + 1
	for !residues(s, n) {
		s++
	}
	return s
}

func residues(s, n uint64) bool {
	for n != 0 {
		s, n = n, s%n
	}
	return s == 1
}
