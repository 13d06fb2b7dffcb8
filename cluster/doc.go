// Package cluster decides who owns what. It knows keys, shards, nodes and
// epochs, but no grains: the root package joins it with the runtime.
//
// A key belongs to the shard that its tag hashes to, see package keyspace. A shard
// belongs to one node at a time, under an epoch that rises with every
// acquisition. A lone node owns all shards, see package local.
package cluster
