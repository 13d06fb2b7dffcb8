// Package local is the authority of a lone node: it owns all shards. Nobody
// else can, since the store admits one process only.
package local

import (
	"time"

	"github.com/quern-io/quern/cluster"
)

// Claims returns all shards, under an epoch of 1 + now in Unix seconds. The
// runtime raises it further where the store knows a higher one, so that epochs
// rise over restarts, also where the clock went back or the store was emptied.
func Claims(shards uint32, now time.Time) []cluster.Claim {
	epoch := uint64(max(0, now.Unix())) + 1
	claims := make([]cluster.Claim, shards)
	for i := range claims {
		claims[i] = cluster.Claim{Shard: uint32(i), Epoch: epoch}
	}
	return claims
}
