package frameconn

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"syscall"
	"time"

	"github.com/quern-io/quern/failure"
)

const headerSize = 5

// reader cuts what comes into records. It takes a buffer when there is something
// to read.
type reader struct {
	conn  net.Conn
	raw   syscall.RawConn // nil where reading cannot be tried without waiting
	limit int
	heard time.Time // when something came last

	buf        *[]byte // nil while there is nothing in it
	begin, end int     // of what was not handed out
	need       int     // the size of the record that has begun

	// One attempt's answer, and the attempt, bound once.
	try func(fd uintptr) bool
	n   int
	err error
}

// next returns a record, which is good until the next call. After an error that
// is a timeout it may be called again.
func (r *reader) next() (kind byte, rest []byte, err error) {
	for {
		if ok, err := r.whole(); err != nil {
			return 0, nil, err
		} else if ok {
			record := (*r.buf)[r.begin : r.begin+r.need]
			r.begin += r.need
			return record[0], record[headerSize:], nil
		}
		if err := r.fill(); err != nil {
			if errors.Is(err, io.EOF) && r.begin < r.end {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
}

// whole reports whether a whole record has come.
func (r *reader) whole() (bool, error) {
	if r.end-r.begin < headerSize {
		r.need = headerSize
		return false, nil
	}
	size := binary.BigEndian.Uint32((*r.buf)[r.begin+1:])
	if uint64(size) > uint64(min(r.limit, math.MaxInt32-headerSize)) { //nolint:gosec // not negative
		return false, failure.New(failure.Limit, "a frame of %d bytes, at most %d are taken", size, r.limit)
	}
	r.need = headerSize + int(size)
	return r.end-r.begin >= r.need, nil
}

// fill reads once.
func (r *reader) fill() error {
	r.arrange()
	err := r.read()
	if r.n > 0 {
		r.end += r.n
		r.heard = time.Now()
		return nil
	}
	if r.begin == r.end {
		r.drop()
	}
	return err
}

// arrange makes room behind what is there.
func (r *reader) arrange() {
	if r.buf == nil {
		return
	}
	if r.begin > 0 {
		copy(*r.buf, (*r.buf)[r.begin:r.end])
		r.begin, r.end = 0, r.end-r.begin
	}
	if r.end < len(*r.buf) {
		return
	}
	more := getBuffer(min(r.need, 2*len(*r.buf)))
	copy(*more, (*r.buf)[:r.end])
	putBuffer(r.buf)
	r.buf = more
}

func (r *reader) drop() {
	if r.buf != nil {
		putBuffer(r.buf)
		r.buf, r.begin, r.end = nil, 0, 0
	}
}

func (r *reader) hold() {
	if r.buf == nil {
		r.buf = getBuffer(leastBuffer)
	}
}

// discard reads until there is an end or a deadline.
func (r *reader) discard() {
	for err := error(nil); err == nil; err = r.fill() {
		r.begin, r.end, r.need = 0, 0, 0
	}
	r.drop()
}
