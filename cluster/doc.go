// Package cluster decides who owns what. It knows keys, shards, nodes and
// epochs, but no grains: the root package joins it with the runtime.
//
// A key belongs to the shard that its tag hashes to, see package keyspace. A shard
// belongs to one node at a time, under an epoch that rises with every
// acquisition. A lone node owns all shards, see package local.
//
// Many nodes share an [Authority], which is Consul, see package consul: it
// knows the members, keeps one lock per shard with the epoch in its value, and
// the records that a cluster has one of. The interface holds no policy and no
// clock. What it promises is written as a suite of tests in package
// clustertest, which both Consul and a twin of it in memory have to pass.
package cluster
