// Package crashtest holds no code. Its tests run the built program as a process
// and treat it as the world does: they kill it at any moment, fill its disk,
// start it on what it must refuse, and count afterwards what was promised.
//
// Clients are processes too: the test binary, started again in the role of an
// adder. Nothing waits for time to pass; a kill comes after a random number of
// acknowledged operations, or while the node starts.
//
// Beside these, TestStreamFaults and its like run a node's parts and clients in
// one process, on a disk in memory, a network of package faultstream and
// virtual time: thousands of faults where processes get a few. A run comes from
// a seed, which is printed, but goroutines take their turns as they like: a
// failure may need some runs to show again.
package crashtest
