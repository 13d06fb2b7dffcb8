// Package memory keeps states in the memory of the process. Nothing survives
// its end, and Info says so; it is for tests, caches and rate limits.
//
// States carry no epoch of their own here: a store belongs to one process, and
// every write is checked against the shard's row under the shard's lock.
package memory
