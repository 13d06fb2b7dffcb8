package placement

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// places is at how many points of the ring a member lies.
const places = 32

// ring is a circle of 64-bit hashes with the points of some members, in
// ascending order.
type ring []point

type point struct {
	at     uint64
	member int32
}

func newRing(names []string, members []int32) ring {
	r := make(ring, 0, places*len(members))
	for _, m := range members {
		for _, at := range points(names[m]) {
			r = append(r, point{at, m})
		}
	}
	slices.SortFunc(r, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.member, b.member))
	})
	return r
}

// from returns the index of the first point at or after at, the first of all
// where there is none.
func (r ring) from(at uint64) int {
	i, _ := slices.BinarySearchFunc(r, at, func(p point, at uint64) int { return cmp.Compare(p.at, at) })
	return i % len(r)
}

// nearest returns how far it is from at to the next point. The ring is not
// empty.
func (r ring) nearest(at uint64) uint64 { return r[r.from(at)].at - at }

// first returns the first member from at on that has room. One has.
func (r ring) first(at uint64, room func(member int32) bool) int32 {
	i := r.from(at)
	for !room(r[i].member) {
		i = (i + 1) % len(r)
	}
	return r[i].member
}

// points returns where a member lies.
func points(name string) [places]uint64 {
	var all [places]uint64
	seed := xxhash.Sum64String(name)
	for i := range all {
		all[i] = mix(seed + uint64(i))
	}
	return all
}

// distance returns how far it is from at to a member's next point.
func distance(name string, at uint64) uint64 {
	nearest := ^uint64(0)
	for _, p := range points(name) {
		nearest = min(nearest, p-at)
	}
	return nearest
}

// shardPoint returns where a shard lies, apart from where names do.
func shardPoint(shard int) uint64 { return mix(^uint64(shard)) } //nolint:gosec // not negative

// mix spreads its argument over 64 bits, one to one: the output step of
// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
