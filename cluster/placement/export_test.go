package placement

import "math"

// Twin assigns shards by the definition alone: each goes to the member with
// room that has the nearest point ahead, found by looking at all of them.
func Twin(shards int, names []string) []string {
	load := make(map[string]int)
	low, extra := shards/len(names), shards%len(names)
	assigned := make([]string, shards)
	for shard := range assigned {
		best, at := uint64(math.MaxUint64), shardPoint(shard)
		for _, name := range names {
			if load[name] > low || load[name] == low && extra == 0 {
				continue
			}
			for _, p := range points(name) {
				if p-at <= best {
					best, assigned[shard] = p-at, name
				}
			}
		}
		if load[assigned[shard]]++; load[assigned[shard]] == low+1 {
			extra--
		}
	}
	return assigned
}
