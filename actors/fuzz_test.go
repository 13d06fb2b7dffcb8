package actors_test

import (
	"testing"

	"github.com/quern-io/quern/actors"
)

func FuzzTimerKey(f *testing.F) {
	f.Add([]byte("t\x00\x00\x00\x00\x00\x00\x00\x01s\x07counterkey"))
	f.Add([]byte("t\x00\x00\x00\x00\x00\x00\x00\x01o\x07counter\x00"))
	f.Add([]byte("t\xff\x00\x00\x00\x00\x00\x00\x01s\x07counterkey"))
	f.Add([]byte("t"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := actors.ParseTimerKey(b)
		if err != nil {
			return
		}
		again, err := actors.ParseTimerKey(actors.AppendTimerKey(k))
		if err != nil || again != k {
			t.Fatalf("%q: %+v came back as %+v, %v", b, k, again, err)
		}
	})
}

func FuzzOnceRecord(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x08, 0x01, 0x1a, 0x02, 0x08, 0x01})
	f.Add([]byte{0x22, 0x02, 0x0a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := actors.DecodeOnce(b); err == nil && e == nil {
			t.Fatal("neither an entry nor an error")
		}
	})
}
