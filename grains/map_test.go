package grains_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	storev1 "github.com/quern-io/quern/messages/quern/store/v1"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// mapSim is a map entry with the shard's clock and sequence.
type mapSim struct {
	tb       testing.TB
	entry    actors.State
	now      int64
	sequence uint64
}

func newMapSim(tb testing.TB, s *storev1.MapState) *mapSim {
	tb.Helper()
	record, err := proto.Marshal(s)
	if err != nil {
		tb.Fatal(err)
	}
	m := &mapSim{tb: tb, entry: grains.Map{}.New(), now: now, sequence: max(s.GetVersion(), 100)}
	if err := m.entry.Decode(record); err != nil {
		tb.Fatal(err)
	}
	return m
}

// apply runs one turn, after the due turn where that is wanted, and undoes it
// where it is refused.
func (m *mapSim) apply(command, reply proto.Message) (bool, error) {
	m.tb.Helper()
	turn := actors.TestTurn{Key: "k", Now: m.now, Next: func() uint64 { m.sequence++; return m.sequence }}.Turn()
	if due := m.entry.Due(); due != 0 && due <= m.now {
		if changed, err := m.entry.Apply(turn, nil, nil); !changed || err != nil {
			m.tb.Fatalf("due turn: %v, %v", changed, err)
		}
	}
	before := m.stored()
	changed, err := m.entry.Apply(turn, command, reply)
	if proto.Equal(before, m.stored()) == changed {
		m.tb.Fatalf("%T says that it changed it: %v", command, changed)
	}
	return changed, err
}

func (m *mapSim) stored() *storev1.MapState {
	m.tb.Helper()
	record, err := m.entry.Append(nil)
	if err != nil {
		m.tb.Fatal(err)
	}
	s := &storev1.MapState{}
	if err := proto.Unmarshal(record, s); err != nil {
		m.tb.Fatal(err)
	}
	return s
}

func TestMapPut(t *testing.T) {
	t.Parallel()
	absent, there := &storev1.MapState{}, &storev1.MapState{Value: []byte("old"), Version: 7, ExpiresAtMs: now + 5}
	big := bytes.Repeat([]byte("x"), grains.MaxValueBytes+1)
	n := proto.Uint64
	for _, tt := range []struct {
		name    string
		from    *storev1.MapState
		put     *quernv1.MapServicePutRequest
		expires int64
		refused failure.Reason
		says    string
	}{
		{name: "new", from: absent, put: &quernv1.MapServicePutRequest{Value: []byte("v")}},
		{name: "empty value", from: absent, put: &quernv1.MapServicePutRequest{}},
		{name: "replace ends an expiry", from: there, put: &quernv1.MapServicePutRequest{Value: []byte("v")}},
		{name: "with a ttl", from: there, put: &quernv1.MapServicePutRequest{Ttl: seconds(time.Second)}, expires: now + 1000},
		{name: "ttl rounded up", from: there, put: &quernv1.MapServicePutRequest{Ttl: seconds(1)}, expires: now + 1},
		{name: "largest value", from: absent, put: &quernv1.MapServicePutRequest{Value: big[1:]}},
		{name: "too large", from: absent, put: &quernv1.MapServicePutRequest{Value: big}, refused: failure.Limit, says: "65537 bytes"},
		{name: "its version", from: there, put: &quernv1.MapServicePutRequest{IfVersion: n(7)}},
		{name: "another version", from: there, put: &quernv1.MapServicePutRequest{IfVersion: n(6)}, refused: failure.ConditionFailed, says: "version 7; 6"},
		{name: "a version of nothing", from: absent, put: &quernv1.MapServicePutRequest{IfVersion: n(6)}, refused: failure.ConditionFailed, says: "no entry"},
		{name: "version 0 of nothing", from: absent, put: &quernv1.MapServicePutRequest{IfVersion: n(0)}},
		{name: "version 0 of something", from: there, put: &quernv1.MapServicePutRequest{IfVersion: n(0)}, refused: failure.ConditionFailed, says: "already"},
		{name: "if absent, it is", from: absent, put: &quernv1.MapServicePutRequest{IfAbsent: true}},
		{name: "if absent, it is not", from: there, put: &quernv1.MapServicePutRequest{IfAbsent: true}, refused: failure.ConditionFailed, says: "already"},
		{name: "both conditions", from: there, put: &quernv1.MapServicePutRequest{IfAbsent: true, IfVersion: n(7)}, refused: failure.InvalidField, says: "if_absent"},
		{name: "negative ttl", from: there, put: &quernv1.MapServicePutRequest{Ttl: seconds(-1)}, refused: failure.InvalidField, says: "ttl"},
		{name: "ttl too long", from: there, put: &quernv1.MapServicePutRequest{Ttl: seconds(grains.MaxTTL + 1)}, refused: failure.InvalidField, says: "ttl"},
		{name: "no ttl at all", from: there, put: &quernv1.MapServicePutRequest{Ttl: &durationpb.Duration{Seconds: 1, Nanos: -1}}, refused: failure.InvalidField, says: "ttl"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMapSim(t, tt.from)
			var a quernv1.MapServicePutResponse
			_, err := m.apply(tt.put, &a)
			if tt.refused != 0 {
				if !errors.Is(err, tt.refused) || !strings.Contains(err.Error(), tt.says) || !proto.Equal(m.stored(), tt.from) {
					t.Errorf("got %v, %v; want %v of %s", err, m.stored(), tt.refused, tt.says)
				}
				return
			}
			want := &storev1.MapState{Value: tt.put.GetValue(), Version: 101, ExpiresAtMs: tt.expires}
			if err != nil || a.GetFound() != (tt.from.GetVersion() != 0) || a.GetVersion() != 101 || !proto.Equal(m.stored(), want) {
				t.Errorf("got %v, %v, %v; want %v", &a, m.stored(), err, want)
			}
		})
	}
}

func TestMapCompareAndSwap(t *testing.T) {
	t.Parallel()
	there := &storev1.MapState{Value: []byte("old"), Version: 7, ExpiresAtMs: now + 5}
	for _, tt := range []struct {
		name string
		from *storev1.MapState
		q    *quernv1.MapServiceCompareAndSwapRequest
		want *storev1.MapState // nil where it is not swapped
	}{
		{"keeps the expiry", there, &quernv1.MapServiceCompareAndSwapRequest{ExpectedVersion: 7, Value: []byte("v")}, &storev1.MapState{Value: []byte("v"), Version: 101, ExpiresAtMs: now + 5}},
		{"ends the expiry", there, &quernv1.MapServiceCompareAndSwapRequest{ExpectedVersion: 7, Ttl: seconds(0)}, &storev1.MapState{Version: 101}},
		{"moves the expiry", there, &quernv1.MapServiceCompareAndSwapRequest{ExpectedVersion: 7, Ttl: seconds(time.Second)}, &storev1.MapState{Version: 101, ExpiresAtMs: now + 1000}},
		{"another version", there, &quernv1.MapServiceCompareAndSwapRequest{ExpectedVersion: 8}, nil},
		{"expects nothing", there, &quernv1.MapServiceCompareAndSwapRequest{}, nil},
		{"makes it", &storev1.MapState{}, &quernv1.MapServiceCompareAndSwapRequest{Value: []byte("v")}, &storev1.MapState{Value: []byte("v"), Version: 101}},
		{"finds nothing", &storev1.MapState{}, &quernv1.MapServiceCompareAndSwapRequest{ExpectedVersion: 7}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMapSim(t, tt.from)
			var a quernv1.MapServiceCompareAndSwapResponse
			_, err := m.apply(tt.q, &a)
			want := tt.want
			if want == nil {
				want = tt.from
			}
			if err != nil || a.GetSwapped() != (tt.want != nil) || a.GetVersion() != want.GetVersion() || !proto.Equal(m.stored(), want) {
				t.Errorf("got %v, %v, %v; want %v", &a, m.stored(), err, want)
			}
		})
	}
	m := newMapSim(t, there)
	for _, q := range []*quernv1.MapServiceCompareAndSwapRequest{
		{ExpectedVersion: 7, Ttl: seconds(-1)}, {ExpectedVersion: 7, Value: make([]byte, grains.MaxValueBytes+1)},
	} {
		if _, err := m.apply(q, &quernv1.MapServiceCompareAndSwapResponse{}); !errors.Is(err, failure.InvalidField) && !errors.Is(err, failure.Limit) {
			t.Errorf("got %v", err)
		}
	}
}

// TestMapSharesNoBytesWithItsCaller: a request's value belongs to its sender,
// who may change it, and a record to the store.
func TestMapSharesNoBytesWithItsCaller(t *testing.T) {
	t.Parallel()
	m := newMapSim(t, &storev1.MapState{})
	value := []byte("value")
	if _, err := m.apply(&quernv1.MapServicePutRequest{Value: value}, &quernv1.MapServicePutResponse{}); err != nil {
		t.Fatal(err)
	}
	value[0] = 'x'
	if got := m.stored(); string(got.GetValue()) != "value" {
		t.Errorf("after a change of the request: %q", got.GetValue())
	}
	record, _ := m.entry.Append(nil)
	if err := m.entry.Decode(record); err != nil {
		t.Fatal(err)
	}
	clear(record)
	if got := m.stored(); string(got.GetValue()) != "value" {
		t.Errorf("after a change of the record: %q", got.GetValue())
	}
}

func TestMapUndoCopiesNoValue(t *testing.T) {
	m := newMapSim(t, &storev1.MapState{Value: make([]byte, 1000), Version: 1})
	undo := grains.Map{}.New()
	if n := testing.AllocsPerRun(100, func() { undo.Assign(m.entry) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestMapAgainstTwin plays random commands on an entry and on a Go value.
func TestMapAgainstTwin(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	m := newMapSim(t, &storev1.MapState{})
	var twin struct {
		value            string
		version, highest uint64
		expires          int64
	}
	written := func(value string, version uint64) {
		if version <= twin.highest {
			t.Fatalf("version %d after %d", version, twin.highest)
		}
		twin.value, twin.version, twin.highest = value, version, version
	}
	for i := range 50_000 {
		m.now += int64(r.IntN(20))
		if twin.expires != 0 && twin.expires <= m.now {
			twin.value, twin.version, twin.expires = "", 0, 0
		}
		value, ttl := fmt.Sprint(i), int64(r.IntN(100))
		asked := twin.version * uint64(r.IntN(2))
		switch r.IntN(5) {
		case 0:
			q := &quernv1.MapServicePutRequest{Value: []byte(value), IfAbsent: r.IntN(2) == 0, Ttl: seconds(time.Duration(ttl) * time.Millisecond)}
			var a quernv1.MapServicePutResponse
			_, err := m.apply(q, &a)
			if refuse := q.GetIfAbsent() && twin.version != 0; refuse != (err != nil) || !refuse && a.GetFound() != (twin.version != 0) {
				t.Fatalf("%v of %v: %v, %v", q, twin, &a, err)
			} else if !refuse {
				written(value, a.GetVersion())
				if twin.expires = 0; ttl > 0 {
					twin.expires = m.now + ttl
				}
			}
		case 1:
			var a quernv1.MapServiceCompareAndSwapResponse
			_, err := m.apply(&quernv1.MapServiceCompareAndSwapRequest{ExpectedVersion: asked, Value: []byte(value)}, &a)
			if err != nil || a.GetSwapped() != (asked == twin.version) {
				t.Fatalf("swap of %d: %v, %v", asked, &a, err)
			} else if a.GetSwapped() {
				written(value, a.GetVersion())
			}
		case 2:
			var a quernv1.MapServiceDeleteResponse
			_, err := m.apply(&quernv1.MapServiceDeleteRequest{IfVersion: &asked}, &a)
			if (err == nil) != (asked == twin.version) || err == nil && (a.GetFound() != (twin.version != 0) || a.GetVersion() != twin.version) {
				t.Fatalf("delete of %d: %v, %v", asked, &a, err)
			} else if err == nil {
				twin.value, twin.version, twin.expires = "", 0, 0
			}
		default:
			var a quernv1.MapServiceGetResponse
			_, err := m.apply(&quernv1.MapServiceGetRequest{}, &a)
			if err != nil || string(a.GetValue()) != twin.value || a.GetVersion() != twin.version || a.GetFound() != (twin.version != 0) ||
				(twin.expires != 0) != (a.Ttl != nil) || a.Ttl != nil && a.GetTtl().AsDuration().Milliseconds() != twin.expires-m.now {
				t.Fatalf("got %v, %v; want %v", &a, err, twin)
			}
		}
	}
}

func FuzzMapRecord(f *testing.F) {
	for _, s := range []*storev1.MapState{{}, {Version: 1}, {Value: []byte("v"), Version: 1 << 40, ExpiresAtMs: 7}} {
		record, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(record)
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		e := grains.Map{}.New()
		if e.Decode(record) != nil {
			return
		}
		var schema storev1.MapState
		if err := proto.Unmarshal(record, &schema); err != nil {
			t.Fatalf("%x was taken, the schema says %v", record, err)
		}
		schema.ProtoReflect().SetUnknown(nil)
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(&schema)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := e.Append(nil); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%x: got %x, %v; the schema says %x", record, got, err, want)
		}
	})
}
