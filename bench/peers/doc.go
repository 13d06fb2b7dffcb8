// Package peers runs the systems that Quern is measured beside, and the
// measurement itself: the same work on each, in alternating rounds of one run,
// so that whatever else the machine does meets all of them. What counts is the
// ratio of two systems in one round; an absolute figure belongs to its machine
// and its hour.
//
// In process the peers are a map under sharded mutexes, which is the limit of
// what a single node can do, and Proto.Actor, as an actor that answers through
// a Future and as a grain of its cluster package. Over loopback the peer is
// Redis, loaded by its own redis-benchmark. Locks are those of Redis, etcd and
// Consul, each taken and given back by a small client here.
package peers
