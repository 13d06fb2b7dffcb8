//go:build !race

package actors_test

// raced says that the race detector watches.
const raced = false
