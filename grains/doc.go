// Package grains holds Quern's own kinds. Each is a state machine in a file of
// its own: a pure function of state, command and the shard's time, without
// I/O, clocks or goroutines. What a kind promises is said at its service in
// proto/quern/v1; how its state is stored, in proto/quern/store/v1.
package grains
