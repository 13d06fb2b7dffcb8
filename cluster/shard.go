package cluster

import (
	"strings"

	"github.com/cespare/xxhash/v2"
)

// DefaultShards is the number of shards of a new cluster.
const DefaultShards = 256

// MaxShards is the largest number of shards.
const MaxShards = 1 << 16

// Tag returns the part of a key that decides its shard: what stands in the
// first pair of braces that is not empty, as in {user42}:quota, else the whole
// key. Keys of one tag share a shard, whatever their kind.
func Tag(key string) string {
	for rest := key; ; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			return key
		}
		rest = rest[open+1:]
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return key
		}
		if end > 0 {
			return rest[:end]
		}
		rest = rest[1:]
	}
}

// Shard returns the shard of a key: XXH64 of its tag, seed 0, modulo shards. It
// never changes: data folders name the hash and rely on it.
func Shard(key string, shards uint32) uint32 {
	return uint32(xxhash.Sum64String(Tag(key)) % uint64(shards)) //nolint:gosec // below shards
}

// ValidShards reports whether n can be a cluster's number of shards: a power
// of two, at most [MaxShards].
func ValidShards(n uint32) bool {
	return n > 0 && n <= MaxShards && n&(n-1) == 0
}

// State is what a node is about.
type State string

// The states of a node.
const (
	// Joining: it is there, and owns nothing yet.
	Joining State = "joining"
	// Ready: it owns shards and serves them.
	Ready State = "ready"
	// Draining: it gives its shards away before it leaves.
	Draining State = "draining"
)

// Claim is a shard that this node owns, and the epoch of its ownership.
type Claim struct {
	Shard uint32
	Epoch uint64
}
