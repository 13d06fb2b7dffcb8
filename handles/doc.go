// Package handles holds the typed handles that users call, such as [Counter],
// over the small interface [Invoker], which a node and a network client both
// implement. A program that is written against a handle therefore does not
// care where the grain lives.
//
// Handles are small values: copy them freely, use them from any number of
// goroutines. A call draws its messages from a pool and gives them back when
// it is answered, so that an in-process call allocates nothing. An operation
// whose caller gave up leaves its messages to the garbage collector, since the
// shard may still be working on them.
package handles
