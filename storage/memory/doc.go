// Package memory keeps states in the memory of the process. Nothing survives
// its end, and Info says so; it is for tests, caches and rate limits.
//
// A store belongs to one process, and every write is checked against the shard's
// row under the shard's lock. Where several nodes have one each, a shard's states
// are those of the last tenure of its own node: they carry the epoch that wrote
// them (Written), and are dropped (Empty) by a node that takes the shard after
// another one has served it.
package memory
