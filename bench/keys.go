package bench

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"strconv"
	"strings"
)

// keyNames are the names of keys 0 to n-1: a prefix and a decimal number.
type keyNames struct {
	prefix string
	names  []string // nil where names are made when they are needed
	// Key i is then called by the number first + i*step: the processes of a
	// run take turns.
	first, step int
}

// newKeyNames makes all names at once, in one piece of memory.
func newKeyNames(prefix string, n int) keyNames {
	var all strings.Builder
	all.Grow(n * (len(prefix) + len(strconv.Itoa(n-1))))
	ends := make([]int, n)
	for i := range n {
		all.WriteString(prefix)
		all.WriteString(strconv.Itoa(i))
		ends[i] = all.Len()
	}
	text, names, start := all.String(), make([]string, n), 0
	for i, end := range ends {
		names[i], start = text[start:end], end
	}
	return keyNames{prefix: prefix, names: names, step: 1}
}

func (k keyNames) name(i int) string {
	if k.names != nil {
		return k.names[i]
	}
	var text [maxPrefix + 20]byte
	return string(strconv.AppendInt(append(text[:0], k.prefix...), int64(k.first+i*k.step), 10))
}

// zipfExponent is YCSB's; below 1, which math/rand/v2's Zipf cannot do.
const zipfExponent = 0.99

// picker chooses keys. It is immutable and shared by all workers.
//
// Weighted choice is Vose's alias method ("A Linear Algorithm for Generating
// Random Numbers with a Given Distribution", 1991): a column by chance, then
// by another chance that column's own key or its alias.
type picker struct {
	keys    uint64
	columns []aliased // nil where the choice is uniform
}

// aliased is a column of the table; both halves lie on one cache line.
type aliased struct {
	keep  uint32 // the chance, in 1/2^32, to keep the column's own key
	alias uint32
}

func newPicker(keys int, dist Dist) *picker {
	p := &picker{keys: uint64(keys)} //nolint:gosec // at most maxKeys
	if dist == Zipf && keys > 1 {
		weights := make([]float64, keys)
		for i := range weights {
			weights[i] = math.Pow(float64(i+1), -zipfExponent)
		}
		p.fill(weights)
	}
	return p
}

// fill builds the alias table and uses weights up.
func (p *picker) fill(weights []float64) {
	n, sum := len(weights), 0.0
	for _, w := range weights {
		sum += w
	}
	p.columns = make([]aliased, n)
	var small, large []int
	for i := range weights {
		weights[i] *= float64(n) / sum
		if weights[i] < 1 {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		p.columns[s] = aliased{chance(weights[s]), uint32(l)} //nolint:gosec // at most maxKeys
		if weights[l] -= 1 - weights[s]; weights[l] < 1 {
			large, small = large[:len(large)-1], append(small, l)
		}
	}
	for _, i := range append(small, large...) { // 1 but for rounding
		p.columns[i] = aliased{math.MaxUint32, uint32(i)} //nolint:gosec // at most maxKeys
	}
}

func chance(share float64) uint32 {
	return uint32(min(share*(1<<32), math.MaxUint32))
}

// pick returns a key; random belongs to the calling worker.
func (p *picker) pick(random *rand.PCG) int {
	column, rest := bits.Mul64(random.Uint64(), p.keys)
	if p.columns != nil {
		if c := p.columns[column]; uint32(rest>>32) >= c.keep {
			return int(c.alias)
		}
	}
	return int(column) //nolint:gosec // below keys
}
