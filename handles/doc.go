// Package handles holds the typed handles that users call, [Counter], [Lock]
// and [MapEntry], over the small interface [Invoker], which a node and a network client both
// implement. A program that is written against a handle therefore does not
// care where the grain lives.
//
// Handles are small values: copy them freely, use them from any number of
// goroutines. A call draws its messages from a pool and gives them back when
// it is answered, so that an in-process call allocates nothing. An operation
// whose caller gave up leaves its messages to the garbage collector, since the
// shard may still be working on them.
//
// # Leases
//
// [Lock.Acquire] returns a [Lease], which has a goroutine that renews it; no
// other handle has one. The goroutine ends with the lease, by Release or by its
// loss. An Acquire that was given up leaves one behind for at most 5 s, which
// releases what the owner may have got. All times are this machine's; nothing
// of the node's clock is used but that it runs at the same rate.
package handles
