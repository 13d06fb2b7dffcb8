package actors_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	storev1 "github.com/quern-io/quern/messages/quern/store/v1"
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

// FuzzSessionRecord: what decodes is encoded again as package proto would, and
// comes back.
func FuzzSessionRecord(f *testing.F) {
	for _, r := range []*storev1.SessionRecord{
		{},
		{ExpiresAtMs: 1},
		{ExpiresAtMs: 1 << 40, Done: 1<<64 - 1},
		{ExpiresAtMs: 1, Done: 1<<64 - 2, Results: []*storev1.SessionResult{
			{Number: 1<<64 - 1, Answer: &storev1.SessionResult_Reply{}},
		}},
		{ExpiresAtMs: 5, Done: 7, Results: []*storev1.SessionResult{
			{Number: 8, Answer: &storev1.SessionResult_Reply{Reply: []byte("short")}},
			{Number: 10, Answer: &storev1.SessionResult_Reply{Reply: make([]byte, 100)}},
			{Number: 900, Answer: &storev1.SessionResult_Refusal{Refusal: &storev1.Refusal{Reason: "LIMIT", Message: "no"}}},
		}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := actors.RecodeSession(b)
		if err != nil {
			return
		}
		var r storev1.SessionRecord
		if err := proto.Unmarshal(once, &r); err != nil {
			t.Fatal(err)
		}
		if plain, err := (proto.MarshalOptions{Deterministic: true}).Marshal(&r); err != nil || !bytes.Equal(plain, once) {
			t.Fatalf("%x is %x by package proto, %v", once, plain, err)
		}
		if twice, err := actors.RecodeSession(once); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%x came back as %x, %v", once, twice, err)
		}
	})
}
