//go:build unix

package frameconn

import (
	"errors"
	"io"
	"syscall"
)

// read waits until there is something to read, and reads once.
func (r *reader) read() error {
	r.n, r.err = 0, nil
	if r.raw == nil {
		r.hold()
		r.n, r.err = r.conn.Read((*r.buf)[r.end:])
		return r.err //nolint:wrapcheck // explained by the callers
	}
	if r.try == nil {
		r.try = r.attempt
	}
	if err := r.raw.Read(r.try); err != nil { // closed, or past a deadline
		return err //nolint:wrapcheck // explained by the callers
	}
	return r.err
}

// attempt returns false where there is nothing to read yet. The buffer goes back
// meanwhile, unless there is something in it.
func (r *reader) attempt(fd uintptr) bool {
	r.hold()
	// Package syscall and not x/sys/unix: the race detector sees the reads and
	// writes of package net as ordered with those of the former only.
	r.n, r.err = syscall.Read(int(fd), (*r.buf)[r.end:])
	for errors.Is(r.err, syscall.EINTR) {
		r.n, r.err = syscall.Read(int(fd), (*r.buf)[r.end:])
	}
	if r.err == syscall.EAGAIN { //nolint:errorlint // as it comes from the system
		if r.n, r.err = 0, nil; r.begin == r.end {
			r.drop()
		}
		return false
	}
	if r.n == 0 && r.err == nil {
		r.err = io.EOF
	}
	r.n = max(r.n, 0)
	return true
}
