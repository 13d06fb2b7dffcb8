//go:build race

package quern_test

// raced says that the race detector watches.
const raced = true
