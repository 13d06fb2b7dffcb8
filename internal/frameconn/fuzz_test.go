package frameconn_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/frameconn"
)

// script is a connection that says what it was given, in pieces.
type script struct {
	net.Conn

	says  []byte
	piece int
	heard bytes.Buffer
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.says) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), s.piece)], s.says)
	s.says = s.says[n:]
	return n, nil
}

func (s *script) Write(b []byte) (int, error)    { return s.heard.Write(b) }
func (*script) Close() error                     { return nil }
func (*script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*script) SetDeadline(time.Time) error      { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }

// FuzzRecv: whatever a client sends, in whatever pieces, a node gets the whole
// frames at its beginning and then an end, and nothing panics.
func FuzzRecv(f *testing.F) {
	preface := append([]byte("\x89QUERN\r\n\x01"), make([]byte, 15)...)
	frame := func(b ...byte) []byte { return append(binary.BigEndian.AppendUint32([]byte{1}, uint32(len(b))), b...) }
	f.Add(preface, 1)
	f.Add(append(bytes.Clone(preface), frame(1, 2, 3)...), 2)
	f.Add(append(bytes.Clone(preface), append(frame(), frame(bytes.Repeat([]byte{7}, 40_000)...)...)...), 5000)
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 24)
	f.Add(append(bytes.Clone(preface), 1, 0xff, 0xff, 0xff, 0xff), 100)
	f.Fuzz(func(t *testing.T, says []byte, piece int) {
		const limit = 50_000
		raw := &script{says: says, piece: max(1, piece)}
		far, err := answer(raw, frameconn.Config{MaxFrame: limit})
		if spoken := bytes.HasPrefix(says, preface); spoken != (err == nil) {
			t.Fatalf("%q: %v", says, err)
		} else if !spoken {
			return
		}
		for rest := says[len(preface):]; ; {
			got, err := far.Recv()
			whole := len(rest) >= 5 && rest[0] == 1 && uint64(len(rest)-5) >= uint64(binary.BigEndian.Uint32(rest[1:])) &&
				binary.BigEndian.Uint32(rest[1:]) <= limit
			if whole != (err == nil) {
				t.Fatalf("%q: %v", rest, err)
			}
			if !whole {
				if errors.Is(err, frameconn.ErrLeft) != (len(rest) == 0) {
					t.Fatalf("%q ended with %v", rest, err)
				}
				return
			}
			size := int(binary.BigEndian.Uint32(rest[1:]))
			if !bytes.Equal(got, rest[5:5+size]) {
				t.Fatalf("got %q of %q", got, rest)
			}
			rest = rest[5+size:]
		}
	})
}
