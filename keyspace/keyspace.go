// Package keyspace says what a key is and to which shard it belongs. Nodes and
// clients must agree on it for ever, and folders of data rely on it.
package keyspace

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"github.com/quern-io/quern/failure"
)

const (
	// MaxKeyBytes is the longest key.
	MaxKeyBytes = 512
	// DefaultShards is the number of shards of a new cluster.
	DefaultShards = 256
	// MaxShards is the largest number of shards.
	MaxShards = 1 << 16
)

// Tag returns the part of a key that decides its shard: what stands in the
// first pair of braces that is not empty, as in {user42}:quota, else the whole
// key. Keys of one tag share a shard, whatever their kind.
func Tag(key string) string {
	if plain(key) {
		return key
	}
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

// plain reports whether a key, as most are, has 8 bytes or more, is ASCII and has
// no open brace. It looks at 8 bytes at a time, at the last 8 perhaps again.
func plain(key string) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	found := uint64(tops)
	if len(key) >= 8 {
		found = 0
		for i := 0; ; {
			word := load(key[i : i+8])
			brace := word ^ ones*'{' // 0 where there is one
			found |= word | (brace-ones)&^brace
			if i == len(key)-8 {
				break
			}
			i = min(i+8, len(key)-8)
		}
	}
	return found&tops == 0
}

func load(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// Shard returns the shard of a key: XXH64 of its tag, seed 0, modulo shards,
// which is a power of two. It never changes: data folders name the hash.
func Shard(key string, shards uint32) uint32 {
	return uint32(xxhash.Sum64String(Tag(key))) & (shards - 1) //nolint:gosec // the low bits are meant
}

// ShardOfBytes is [Shard] of a key that is not a string yet.
func ShardOfBytes(key []byte, shards uint32) uint32 {
	if bytes.IndexByte(key, '{') >= 0 {
		return Shard(string(key), shards)
	}
	return uint32(xxhash.Sum64(key)) & (shards - 1) //nolint:gosec // the low bits are meant
}

// ValidShards reports whether n can be a cluster's number of shards: a power
// of two, at most [MaxShards].
func ValidShards(n uint32) bool {
	return n > 0 && n <= MaxShards && n&(n-1) == 0
}

// Check refuses a key that no grain can have, with INVALID_KEY.
func Check(key string) error {
	switch {
	case key == "":
		return failure.New(failure.InvalidKey, "the key is empty; a key is 1 to %d bytes of UTF-8", MaxKeyBytes)
	case len(key) > MaxKeyBytes:
		return failure.New(failure.InvalidKey, "the key has %d bytes; a key is 1 to %d bytes of UTF-8", len(key), MaxKeyBytes)
	case !plain(key) && !utf8.ValidString(key):
		return failure.New(failure.InvalidKey, "the key is not UTF-8")
	default:
		return nil
	}
}

// Span is where a key lies in a text of many.
type Span struct{ From, To uint32 }

// Of returns the key, which is a part of the text.
func (s Span) Of(text []byte) []byte { return text[s.From:s.To] }
