package fastproto_test

import (
	"bytes"
	"math"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/internal/fastproto"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

var messages = []proto.Message{
	&quernv1.CounterServiceAddRequest{},
	&quernv1.CounterServiceAddRequest{Key: "a", Delta: proto.Int64(-1)},
	&quernv1.CounterServiceAddRequest{Key: "ä", IdempotencyKey: "once", Delta: proto.Int64(0), Min: proto.Int64(math.MinInt64), Max: proto.Int64(math.MaxInt64), Saturate: true},
	&quernv1.CounterServiceAddRequest{Key: "\xff"},
	&quernv1.CounterServiceAddRequest{Key: "a", Delta: proto.Int64(1), Guard: &quernv1.Guard{Lock: "l", Token: 7}},
	&quernv1.CounterServiceAddRequest{Key: "k", IdempotencyKey: "\xff"},
	&quernv1.CounterServiceAddResponse{},
	&quernv1.CounterServiceAddResponse{Value: -7, Applied: 300},
	&quernv1.CounterServiceGetRequest{},
	&quernv1.CounterServiceGetRequest{Key: "key"},
	&quernv1.CounterServiceGetRequest{Key: "\xff"},
	&quernv1.CounterServiceGetResponse{},
	&quernv1.CounterServiceGetResponse{Value: 1 << 40},
	&quernv1.CounterServiceGetResponse{Value: 1, Ttl: durationpb.New(1)},
	&quernv1.CounterServiceAddManyRequest{},
	&quernv1.CounterServiceAddManyRequest{Keys: []string{"a", "", "ä"}, Deltas: []int64{1, -1, math.MinInt64}},
	&quernv1.CounterServiceAddManyRequest{Keys: []string{"a"}, IdempotencyKey: "once"},
	&quernv1.CounterServiceAddManyRequest{Keys: []string{"\xff"}},
	&quernv1.CounterServiceAddManyRequest{Keys: []string{"k"}, Deltas: []int64{-70, 200}},
	&quernv1.CounterServiceAddManyRequest{Keys: []string{"k"}, Guard: &quernv1.Guard{}},
	&quernv1.CounterServiceAddManyResponse{},
	&quernv1.CounterServiceAddManyResponse{Values: []int64{0, 5, math.MaxInt64}},
	&quernv1.CounterServiceAddManyResponse{Values: []int64{0, 5}, Failures: []*quernv1.AddManyFailure{{Index: 1, Reason: "LIMIT"}}},
	&quernv1.MapServicePutRequest{},
	&quernv1.MapServicePutRequest{Key: "k", IdempotencyKey: "once", Value: []byte{0xff, 0}},
	&quernv1.MapServicePutRequest{Key: "ä", Value: bytes.Repeat([]byte{7}, 300)},
	&quernv1.MapServicePutRequest{Key: "k", Value: []byte("v"), IfVersion: proto.Uint64(0), IfAbsent: true, Ttl: durationpb.New(1)},
	&quernv1.MapServicePutRequest{Key: "\xff"},
	&quernv1.MapServicePutRequest{IdempotencyKey: "\xff"},
	&quernv1.MapServicePutRequest{Key: "k", Value: []byte("v"), Guard: &quernv1.Guard{Lock: "l", Token: math.MaxUint64}},
	&quernv1.MapServicePutResponse{},
	&quernv1.MapServicePutResponse{Version: math.MaxUint64, Found: true},
	&quernv1.MapServicePutResponse{Version: 1 << 62},
	&quernv1.MapServiceGetRequest{},
	&quernv1.MapServiceGetRequest{Key: "key"},
	&quernv1.MapServiceGetRequest{Key: "\xff"},
	&quernv1.MapServiceGetResponse{},
	&quernv1.MapServiceGetResponse{Value: []byte{0xff}, Version: 1 << 63, Found: true},
	&quernv1.MapServiceGetResponse{Value: []byte("v"), Version: 1, Found: true, Ttl: durationpb.New(1)},
	&quernv1.CounterServiceSetRequest{Key: "any other", Value: 4},
}

func TestAppendIsProto(t *testing.T) {
	t.Parallel()
	for _, m := range messages {
		want, wantErr := proto.Marshal(m)
		got, err := fastproto.Append([]byte("head"), m)
		if (err != nil) != (wantErr != nil) {
			t.Errorf("%T{%v}: %v, want %v", m, m, err, wantErr)
		}
		if err == nil && !bytes.Equal(got, append([]byte("head"), want...)) {
			t.Errorf("%T{%v}: %x, want %x", m, m, got, want)
		}
	}
}

// FuzzUnmarshal: whatever comes, the result is the same as package proto's.
func FuzzUnmarshal(f *testing.F) {
	for _, m := range messages {
		if b, err := proto.Marshal(m); err == nil {
			f.Add(b)
		}
	}
	f.Add([]byte{0x0a, 0x01, 0xff})
	f.Add([]byte{0x0a, 0x02, 'a', 'b', 0x22, 0x00, 0x0a, 0x00, 0x22, 0x01, 0xff})
	f.Add([]byte{0x0a, 0x01, 'a', 0x10, 2, 0x18, 2, 0x0a, 0x00, 0x08, 0x80})
	f.Add([]byte{0x20, 0x80})
	f.Add([]byte{0x0a, 0xff, 0x30}) // longer than what is there, and no text
	f.Add([]byte{0x08, 1, 0x08, 2, 0x10, 3, 0x58, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, like := range messages {
			want, got := like.ProtoReflect().New().Interface(), proto.Clone(like)
			wantErr, err := proto.Unmarshal(b, want), fastproto.Unmarshal(b, got, nil)
			if (err != nil) != (wantErr != nil) {
				t.Fatalf("%T from %x: %v, want %v", like, b, err, wantErr)
			}
			if err == nil && !proto.Equal(got, want) {
				t.Fatalf("%T from %x: {%v}, want {%v}", like, b, got, want)
			}
			split := proto.Clone(like)
			key, fine := fastproto.Split(b, split, new(fastproto.Scratch))
			if !fine {
				continue
			}
			if utf8.Valid(key) != (wantErr == nil) {
				t.Fatalf("%T from %x: the key %q, and %v", like, b, key, wantErr)
			}
			if field := split.ProtoReflect().Descriptor().Fields().ByName("key"); wantErr == nil {
				split.ProtoReflect().Set(field, protoreflect.ValueOfString(string(key)))
			}
			if wantErr == nil && !proto.Equal(split, want) {
				t.Fatalf("%T from %x: {%v}, want {%v}", like, b, split, want)
			}
		}
	})
}

// TestSplitKnows the messages that make up most of a load, and leaves to others
// what is told apart by more than the key.
func TestSplitKnows(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		m    proto.Message
		fine bool
	}{
		{&quernv1.CounterServiceAddRequest{Key: "k", Delta: proto.Int64(1), Max: proto.Int64(3)}, true},
		{&quernv1.CounterServiceGetRequest{Key: "k"}, true},
		{&quernv1.MapServicePutRequest{Key: "k", Value: []byte("v")}, true},
		{&quernv1.MapServiceGetRequest{Key: "k"}, true},
		{&quernv1.CounterServiceAddRequest{Key: "k", IdempotencyKey: "i"}, false},
		{&quernv1.CounterServiceAddRequest{Key: "k", Guard: &quernv1.Guard{Lock: "l"}}, false},
		{&quernv1.MapServicePutRequest{Key: "k", IdempotencyKey: "i"}, false},
		{&quernv1.MapServicePutRequest{Key: "k", Guard: &quernv1.Guard{Lock: "l"}}, false},
		{&quernv1.CounterServiceSetRequest{Key: "k"}, false},
	} {
		b, err := proto.Marshal(tt.m)
		if err != nil {
			t.Fatal(err)
		}
		key, fine := fastproto.Split(b, tt.m.ProtoReflect().New().Interface(), new(fastproto.Scratch))
		if fine != tt.fine || fine && string(key) != "k" {
			t.Errorf("%T{%v}: %q, %v", tt.m, tt.m, key, fine)
		}
	}
}

// What was decoded outlives the frame that it came in.
func TestValuesAreCopied(t *testing.T) {
	t.Parallel()
	for _, m := range []proto.Message{
		&quernv1.MapServicePutRequest{Key: "k", Value: []byte("value")},
		&quernv1.MapServiceGetResponse{Value: []byte("value"), Version: 1},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got := m.ProtoReflect().New().Interface()
		if err := fastproto.Unmarshal(b, got, nil); err != nil {
			t.Fatal(err)
		}
		clear(b)
		if !proto.Equal(got, m) {
			t.Errorf("%T became {%v}", m, got)
		}
	}
}

func TestScratchIsUsed(t *testing.T) { //nolint:paralleltest // counts allocations
	b, err := proto.Marshal(&quernv1.CounterServiceAddRequest{Delta: proto.Int64(1), Min: proto.Int64(2), Max: proto.Int64(3)})
	if err != nil {
		t.Fatal(err)
	}
	var (
		s fastproto.Scratch
		m quernv1.CounterServiceAddRequest
	)
	if n := testing.AllocsPerRun(100, func() { err = fastproto.Unmarshal(b, &m, &s) }); n != 0 || err != nil {
		t.Errorf("%v allocations, %v", n, err)
	}
	if m.GetDelta() != 1 || m.GetMin() != 2 || m.GetMax() != 3 {
		t.Errorf("got %v", &m)
	}
}

func BenchmarkManyRequest(b *testing.B) {
	q := &quernv1.CounterServiceAddManyRequest{}
	for range 100 {
		q.Keys, q.Deltas = append(q.Keys, "bench:1234"), append(q.Deltas, 1)
	}
	var (
		buf []byte
		m   quernv1.CounterServiceAddManyRequest
	)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = fastproto.Append(buf[:0], q)
		_ = fastproto.Unmarshal(buf, &m, nil)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/key")
}

func BenchmarkAppend(b *testing.B) {
	q := &quernv1.CounterServiceAddRequest{Key: "bench:1234", Delta: proto.Int64(1)}
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = fastproto.Append(buf, q)
	}
}

func BenchmarkUnmarshal(b *testing.B) {
	in, _ := proto.Marshal(&quernv1.CounterServiceAddRequest{Key: "bench:1234", Delta: proto.Int64(1)})
	var (
		s fastproto.Scratch
		m quernv1.CounterServiceAddRequest
	)
	b.ReportAllocs()
	for b.Loop() {
		_ = fastproto.Unmarshal(in, &m, &s)
	}
}

// TestListsThatAreNotThere stay nil in a message that is used again.
func TestListsThatAreNotThere(t *testing.T) {
	t.Parallel()
	q := &quernv1.CounterServiceAddManyRequest{Keys: []string{"a"}, Deltas: []int64{1}}
	b, err := proto.Marshal(&quernv1.CounterServiceAddManyRequest{Keys: []string{"b"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := fastproto.Unmarshal(b, q, nil); err != nil || q.Deltas != nil {
		t.Errorf("got %v, %v", q.Deltas, err)
	}
}
