//go:build unix

package server

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"syscall"

	"google.golang.org/grpc/mem"
)

// readyReader reads into a buffer that it takes when there is something to
// read: a connection that is silent holds none.
type readyReader struct {
	raw  syscall.RawConn
	step func(fd uintptr) bool // attempt, bound once: a closure a read would be garbage

	// One read's question and answer.
	size int
	pool mem.BufferPool
	buf  *[]byte
	n    int
	err  error
}

func newReadyReader(c *net.TCPConn) (*readyReader, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("server: read from %s: %w", c.RemoteAddr(), err)
	}
	r := &readyReader{raw: raw}
	r.step = r.attempt
	return r, nil
}

// attempt returns false where there is nothing to read yet.
func (r *readyReader) attempt(fd uintptr) bool {
	r.buf = r.pool.Get(r.size)
	// Package syscall and not x/sys/unix: the race detector sees the reads
	// and writes of package net as ordered with those of the former only.
	r.n, r.err = syscall.Read(int(fd), *r.buf)
	for errors.Is(r.err, syscall.EINTR) {
		r.n, r.err = syscall.Read(int(fd), *r.buf)
	}
	if r.err == nil && r.n == 0 {
		r.err = io.EOF
	}
	if r.err != nil {
		r.drop()
	}
	return !errors.Is(r.err, syscall.EAGAIN)
}

// drop gives the buffer back.
func (r *readyReader) drop() {
	if r.buf != nil {
		r.pool.Put(r.buf)
		r.buf = nil
	}
}

// ReadOnReady waits until there is something to read, takes a buffer of size
// bytes from the pool and reads once into it. The caller gives the buffer back
// to the pool; none is returned with an error. One caller at a time. grpc-go
// looks for this method on connections that it does not know the type of, and
// would keep a buffer of 32 KiB for each of them without it.
func (c *conn) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	if len(c.peeked) > 0 {
		buf := pool.Get(size)
		n, err := c.Read(*buf)
		return buf, n, err
	}
	if c.ready == nil {
		r, err := newReadyReader(c.tcp)
		if err != nil {
			return nil, 0, err
		}
		c.ready = r
	}
	r := c.ready
	r.size, r.pool, r.n, r.err = size, pool, 0, nil
	if err := r.raw.Read(r.step); err != nil { // closed, or past a deadline
		r.drop()
		r.err = err
	}
	buf := r.buf
	r.pool, r.buf = nil, nil
	if r.err != nil {
		return nil, 0, r.err // a failed read says -1, which is no number of bytes
	}
	return buf, r.n, nil
}

// descriptorLimit is how many files and connections the process may have open;
// package syscall has raised it to the hard limit. Zero is unknown.
func descriptorLimit() int64 {
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim) != nil {
		return 0
	}
	return int64(min(uint64(lim.Cur), math.MaxInt64)) //nolint:unconvert // bounded; its type is not the same everywhere
}
