package frameconn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

const (
	// First is the byte that a preface begins with.
	First byte = 0x89
	// ALPN is the protocol's name over TLS.
	ALPN = "quern/1"

	version     = 1
	prefaceSize = 24
	magic       = "\x89QUERN\r\n"
)

// ErrNotSpoken means that the other end did not answer the preface with its own,
// or in another version.
var ErrNotSpoken = errors.New("frameconn: the other end does not speak this protocol")

func preface() []byte {
	b := append(make([]byte, 0, prefaceSize), magic...)
	return append(b, version)[:prefaceSize]
}

// ReadPreface reads a preface whose first byte was read before. It stops at the
// first byte that is wrong.
func ReadPreface(r io.Reader) error {
	b := make([]byte, prefaceSize)
	b[0] = First
	for n := 1; n < prefaceSize; {
		m, err := r.Read(b[n:])
		n += m
		if sound := checkPreface(b[:n]); sound != nil {
			return sound
		}
		if err != nil && n < prefaceSize {
			return fmt.Errorf("%w: %w", ErrNotSpoken, err)
		}
	}
	return nil
}

// checkPreface looks at the first bytes of a preface.
func checkPreface(b []byte) error {
	switch want := preface()[:len(b)]; {
	case bytes.Equal(b, want):
		return nil
	case len(b) > len(magic) && bytes.HasPrefix(b, []byte(magic)) && b[len(magic)] != version:
		return fmt.Errorf("%w: its version is %d, not %d", ErrNotSpoken, b[len(magic)], version)
	default:
		return fmt.Errorf("%w: it says %q", ErrNotSpoken, b)
	}
}
