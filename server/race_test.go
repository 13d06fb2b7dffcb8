//go:build race

package server_test

// raced says that the race detector watches: what it adds spoils every count
// of memory.
const raced = true
