//go:build race

package peers

// raced says that the race detector watches: its reports on a peer are not
// ours to fix, and its cost spoils every figure.
const raced = true
