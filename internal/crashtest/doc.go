// Package crashtest holds no code. Its tests run the built program as a process
// and treat it as the world does: they kill it at any moment, fill its disk,
// start it on what it must refuse, and count afterwards what was promised.
//
// Clients are processes too: the test binary, started again in the role of an
// adder. Nothing waits for time to pass; a kill comes after a random number of
// acknowledged operations, or while the node starts.
package crashtest
