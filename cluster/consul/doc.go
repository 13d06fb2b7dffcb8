// Package consul is the authority of a cluster that has a Consul: it turns the
// calls of [cluster.Authority] into requests to a Consul agent. It decides
// nothing, and keeps nothing but who it is.
//
// # What is where
//
// A cluster NAME uses the service quern-NAME, whose instances are the members
// with one TTL check each, and these keys:
//
//	quern/NAME/record        what all nodes must agree on
//	quern/NAME/placement     which shard belongs where, written by the leader
//	quern/NAME/leader        the lock of the one who writes it
//	quern/NAME/shards/00042  one lock for each shard, with its epoch
//
// Ids of service instances and checks carry the process's incarnation, since
// Consul keeps the locks of a killed process for long where its successor
// takes over its ids. Keys of locks are made once and never deleted: a deleted
// key forgets its lock-delay.
//
// # What is asked how
//
// Writes of locks go in transactions of 64 operations. Each lock is guarded by
// check-index, so that a request which Consul carries out late, after the
// caller has given up, cannot touch a lock that has changed meanwhile. One lock
// that is not as it should be fails its whole transaction; it is named, and the
// others are tried again without it.
//
// A proof is a transaction of check-session alone, in consistent mode: the
// leader asks the majority whether it still leads, then looks. Such a
// transaction evaluates all its operations, so that those which a failing one
// does not name are proven. Only where all that it names are failures of
// check-session, though: a refused permission ends it before it has looked.
//
// Record, placement and locks are watched with one query, so that a table is
// one moment's; members are watched with another. Both are consistent reads: in
// the default mode a leader that was just elected answers from a state in which
// what was committed is missing. An index that falls is handed on as what it is, see
// [cluster.Table.Fell].
//
// At the default cadence a node with 86 shards asks 6 times a second: 4 for
// proofs, 1.5 for its check, 0.2 for its session, and both watches.
//
// # Failures
//
// Consul tells what went wrong in words, with few status codes and, for
// transactions, none. What is recognised is in errors.go, with the versions in
// which it was read; what is not recognised counts as unreachable.
package consul
