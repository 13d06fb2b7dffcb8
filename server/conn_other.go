//go:build !unix

package server

// readyReader exists on Unix only: elsewhere each connection keeps a buffer to
// read into.
type readyReader struct{}

// descriptorLimit returns 0: it is unknown here.
func descriptorLimit() int64 { return 0 }
