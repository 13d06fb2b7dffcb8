package keyspace_test

import (
	"strconv"
	"testing"

	"github.com/quern-io/quern/keyspace"
)

func TestTag(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]string{
		"plain":             "plain",
		"{user42}:quota":    "user42",
		"a{b}c{d}":          "b",
		"{}":                "{}",
		"{}{x}":             "x",
		"{":                 "{",
		"}{":                "}{",
		"a{b":               "a{b",
		"{{x}}":             "{x",
		"\x00{\x00}":        "\x00",
		"{}}{y}":            "y",
		"{ü}":               "ü",
		"no}close{but}this": "but",
	} {
		if got := keyspace.Tag(key); got != want {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}

// TestShardNeverChanges: these values are in data folders.
func TestShardNeverChanges(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]uint32{
		"page:42": 87, "a": 91, "{user42}:quota": keyspace.Shard("user42", 256), "": 153,
	} {
		if got := keyspace.Shard(key, 256); got != want {
			t.Errorf("%q: shard %d, want %d", key, got, want)
		}
		if got := keyspace.ShardOfBytes([]byte(key), 256); got != want {
			t.Errorf("%q as bytes: shard %d, want %d", key, got, want)
		}
	}
}

func TestShardsAreEven(t *testing.T) {
	t.Parallel()
	const keys, shards = 1_000_000, 256
	var n [shards]int
	for i := range keys {
		n[keyspace.Shard("bench:"+strconv.Itoa(i), shards)]++
	}
	for shard, got := range n {
		if mean := keys / shards; got < mean*9/10 || got > mean*11/10 {
			t.Errorf("shard %d has %d keys of %d", shard, got, mean)
		}
	}
}
