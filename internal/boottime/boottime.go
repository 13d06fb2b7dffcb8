// Package boottime reads a clock that no one sets and that runs on while the
// process, or the machine, is stopped.
package boottime
