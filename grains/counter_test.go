package grains_test

import (
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
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

const now = int64(1_000_000)

// counterAt returns a counter with a value and an expiry.
func counterAt(tb testing.TB, value, expires int64) actors.State {
	tb.Helper()
	record, err := proto.Marshal(&storev1.CounterState{Value: value, ExpiresAtMs: expires})
	if err != nil {
		tb.Fatal(err)
	}
	c := grains.Counter{}.New()
	if err := c.Decode(record); err != nil {
		tb.Fatal(err)
	}
	return c
}

// stored returns what a counter's record says.
func stored(tb testing.TB, c actors.State) *storev1.CounterState {
	tb.Helper()
	record, err := c.Append(nil)
	if err != nil {
		tb.Fatal(err)
	}
	var s storev1.CounterState
	if err := proto.Unmarshal(record, &s); err != nil {
		tb.Fatal(err)
	}
	return &s
}

func TestAdd(t *testing.T) {
	t.Parallel()
	const least, most = math.MinInt64, math.MaxInt64
	n := proto.Int64
	for _, tt := range []struct {
		name            string
		from            int64
		delta, min, max *int64
		saturate        bool
		want, applied   int64
		refused         failure.Reason
	}{
		{name: "absent delta is one", from: 4, want: 5, applied: 1},
		{name: "negative", from: 4, delta: n(-6), want: -2, applied: -6},
		{name: "zero", from: 4, delta: n(0), want: 4},
		{name: "zero beyond its bounds", from: 4, delta: n(0), max: n(1), want: 4},
		{name: "up to the ceiling", from: 4, delta: n(6), max: n(10), want: 10, applied: 6},
		{name: "past the ceiling", from: 4, delta: n(7), max: n(10), refused: failure.Limit},
		{name: "past the floor", from: 4, delta: n(-5), min: n(0), refused: failure.Limit},
		{name: "floor above ceiling", from: 4, min: n(1), max: n(0), refused: failure.InvalidField},
		{name: "saturated at the ceiling", from: 4, delta: n(7), max: n(10), saturate: true, want: 10, applied: 6},
		{name: "saturated at the floor", from: 4, delta: n(-7), min: n(0), saturate: true, want: 0, applied: -4},
		{name: "beyond the ceiling, further up", from: 20, delta: n(7), max: n(10), saturate: true, want: 20},
		{name: "beyond the ceiling, not far enough down", from: 20, delta: n(-7), max: n(10), saturate: true, want: 20},
		{name: "beyond the ceiling, far enough down", from: 20, delta: n(-11), max: n(10), saturate: true, want: 9, applied: -11},
		{name: "below the floor, not far enough up", from: -20, delta: n(7), min: n(-10), saturate: true, want: -20},
		{name: "overflow", from: most, delta: n(1), refused: failure.Overflow},
		{name: "underflow", from: least, delta: n(-1), refused: failure.Overflow},
		{name: "overflow beats the ceiling", from: most - 1, delta: n(5), max: n(most), refused: failure.Overflow},
		{name: "overflow saturated", from: most - 1, delta: n(5), saturate: true, want: most, applied: 1},
		{name: "underflow saturated", from: least + 1, delta: n(-5), saturate: true, want: least, applied: -1},
		{name: "the widest step", from: most, delta: n(least), want: -1, applied: least},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := counterAt(t, tt.from, 0)
			var a quernv1.CounterServiceAddResponse
			changed, err := c.Apply(actors.TurnAt("k", now), &quernv1.CounterServiceAddRequest{
				Key: "k", Delta: tt.delta, Min: tt.min, Max: tt.max, Saturate: tt.saturate,
			}, &a)
			if tt.refused != 0 {
				if !errors.Is(err, tt.refused) || changed || stored(t, c).GetValue() != tt.from {
					t.Errorf("got %v, %v, %v; want %v", &a, changed, err, tt.refused)
				}
				return
			}
			if err != nil || a.GetValue() != tt.want || a.GetApplied() != tt.applied || changed != (tt.applied != 0) ||
				stored(t, c).GetValue() != tt.want {
				t.Errorf("got %v, %v, %v; want %d, %d", &a, changed, err, tt.want, tt.applied)
			}
		})
	}
}

// TestAddAgainstBigInts holds bounded adds to arithmetic without bounds.
func TestAddAgainstBigInts(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	edge := func() int64 {
		switch r.IntN(4) {
		case 0:
			return math.MaxInt64 - r.Int64N(3)
		case 1:
			return math.MinInt64 + r.Int64N(3)
		default:
			return r.Int64N(20) - 10
		}
	}
	for range 100_000 {
		from, delta, low, high := edge(), edge(), edge(), edge()
		saturate := r.IntN(2) == 0
		c := counterAt(t, from, 0)
		var a quernv1.CounterServiceAddResponse
		_, err := c.Apply(actors.TurnAt("k", now), &quernv1.CounterServiceAddRequest{
			Key: "k", Delta: &delta, Min: &low, Max: &high, Saturate: saturate,
		}, &a)
		sum := new(big.Int).Add(big.NewInt(from), big.NewInt(delta))
		within := sum.Cmp(big.NewInt(low)) >= 0 && sum.Cmp(big.NewInt(high)) <= 0
		got := a.GetValue()
		switch {
		case low > high:
			if err == nil {
				t.Fatalf("%d%+d in [%d, %d]: bounds were taken", from, delta, low, high)
			}
		case within && err == nil && got == sum.Int64():
		case delta == 0 && err == nil && got == from:
		case !within && !saturate && err != nil:
		case !within && saturate && err == nil && (got == from || low <= got && got <= high) && between(from, got, sum):
		default:
			t.Fatalf("%d%+d in [%d, %d], saturate %v: got %d, %v", from, delta, low, high, saturate, got, err)
		}
	}
}

// between reports whether got lies on the way from a value to a sum.
func between(from, got int64, sum *big.Int) bool {
	a, b := big.NewInt(from), sum
	if a.Cmp(b) > 0 {
		a, b = b, a
	}
	g := big.NewInt(got)
	return a.Cmp(g) <= 0 && g.Cmp(b) <= 0
}

func apply[A proto.Message](t *testing.T, c actors.State, q proto.Message, a A) (A, bool) {
	t.Helper()
	changed, err := c.Apply(actors.TurnAt("k", now), q, a)
	if err != nil {
		t.Fatal(err)
	}
	return a, changed
}

func TestReplace(t *testing.T) {
	t.Parallel()
	c := counterAt(t, 7, now+500)
	get, changed := apply(t, c, &quernv1.CounterServiceGetRequest{}, &quernv1.CounterServiceGetResponse{})
	if get.GetValue() != 7 || get.GetTtl().AsDuration() != 500*time.Millisecond || changed {
		t.Errorf("get: %v, %v", get, changed)
	}
	cas, changed := apply(t, c, &quernv1.CounterServiceCompareAndSetRequest{Expected: 8, Value: 1}, &quernv1.CounterServiceCompareAndSetResponse{})
	if cas.GetSwapped() || cas.GetValue() != 7 || changed {
		t.Errorf("cas that fails: %v, %v", cas, changed)
	}
	cas, changed = apply(t, c, &quernv1.CounterServiceCompareAndSetRequest{Expected: 7, Value: 8}, &quernv1.CounterServiceCompareAndSetResponse{})
	if !cas.GetSwapped() || cas.GetValue() != 8 || !changed || c.Due() != now+500 {
		t.Errorf("cas: %v, %v, due %d", cas, changed, c.Due())
	}
	set, _ := apply(t, c, &quernv1.CounterServiceSetRequest{Value: 5}, &quernv1.CounterServiceSetResponse{})
	if set.GetValue() != 5 || set.GetApplied() != -3 || c.Due() != 0 {
		t.Errorf("set: %v, due %d", set, c.Due())
	}
	swap, _ := apply(t, c, &quernv1.CounterServiceGetAndSetRequest{Value: 6}, &quernv1.CounterServiceGetAndSetResponse{})
	if swap.GetValue() != 6 || swap.GetPrevious() != 5 {
		t.Errorf("get and set: %v", swap)
	}
	_, changed = apply(t, c, &quernv1.CounterServiceSetRequest{Value: 6}, &quernv1.CounterServiceSetResponse{})
	if changed {
		t.Error("a set to the same value is a change")
	}
	reset, _ := apply(t, c, &quernv1.CounterServiceResetRequest{}, &quernv1.CounterServiceResetResponse{})
	if record, _ := c.Append(nil); reset.GetPrevious() != 6 || len(record) != 0 {
		t.Errorf("reset: %v, record %x", reset, record)
	}
}

func TestExpire(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		value, from int64
		ttl         *durationpb.Duration
		due         int64
		found       bool
		refused     bool
	}{
		{name: "set", value: 1, ttl: durationpb.New(time.Second), due: now + 1000, found: true},
		{name: "replace", value: 1, from: now + 5, ttl: durationpb.New(time.Second), due: now + 1000, found: true},
		{name: "rounded up", value: 1, ttl: durationpb.New(time.Nanosecond), due: now + 1, found: true},
		{name: "end", value: 1, from: now + 5, ttl: durationpb.New(0), found: true},
		{name: "end by absence", value: 1, from: now + 5, found: true},
		{name: "absent counter", ttl: durationpb.New(time.Second)},
		{name: "negative", value: 1, ttl: durationpb.New(-1), refused: true},
		{name: "too long", value: 1, ttl: durationpb.New(grains.MaxTTL + 1), refused: true},
		{name: "no duration", value: 1, ttl: &durationpb.Duration{Seconds: 1, Nanos: -1}, refused: true},
		{name: "far beyond", value: 1, ttl: &durationpb.Duration{Seconds: math.MaxInt64}, refused: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := counterAt(t, tt.value, tt.from)
			var a quernv1.CounterServiceExpireResponse
			_, err := c.Apply(actors.TurnAt("k", now), &quernv1.CounterServiceExpireRequest{Ttl: tt.ttl}, &a)
			if tt.refused {
				if !errors.Is(err, failure.InvalidField) || c.Due() != tt.from {
					t.Errorf("got %v, due %d", err, c.Due())
				}
				return
			}
			if err != nil || c.Due() != tt.due || a.GetFound() != tt.found || a.GetValue() != tt.value {
				t.Errorf("got %v, %v, due %d; want %d", &a, err, c.Due(), tt.due)
			}
		})
	}
	c := counterAt(t, 9, now)
	if changed, err := c.Apply(actors.TurnAt("k", now), nil, nil); !changed || err != nil || stored(t, c).GetValue() != 0 || c.Due() != 0 {
		t.Errorf("due turn: %v, %v, %v", changed, err, stored(t, c))
	}
}

// TestCodecIsTheSchemas holds the hand-written codec to the generated one.
func TestCodecIsTheSchemas(t *testing.T) {
	t.Parallel()
	for _, value := range []int64{0, 1, -1, 300, math.MaxInt64, math.MinInt64} {
		for _, expires := range []int64{0, 1, now, math.MaxInt64} {
			want, err := proto.MarshalOptions{Deterministic: true}.Marshal(&storev1.CounterState{Value: value, ExpiresAtMs: expires})
			if err != nil {
				t.Fatal(err)
			}
			got, err := counterAt(t, value, expires).Append(nil)
			if err != nil || string(got) != string(want) {
				t.Errorf("%d, %d: got %x, %v; want %x", value, expires, got, err, want)
			}
		}
	}
}

func FuzzCounterRecord(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x08, 0x02})
	f.Add([]byte{0x08, 0x02, 0x10, 0x05, 0x1a, 0x01, 0x61})
	f.Add([]byte{0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, record []byte) {
		c := grains.Counter{}.New()
		ours := c.Decode(record)
		var s storev1.CounterState
		theirs := proto.Unmarshal(record, &s)
		if ours != nil {
			return // stricter: a negative time, a field of the wrong type
		}
		if theirs != nil {
			t.Fatalf("%x was taken, the schema says %v", record, theirs)
		}
		again := grains.Counter{}.New()
		b, err := c.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Decode(b); err != nil || again.Due() != c.Due() {
			t.Fatalf("%x does not come back: %v", record, err)
		}
		if got := stored(t, c); got.GetValue() != s.GetValue() || got.GetExpiresAtMs() != s.GetExpiresAtMs() {
			t.Fatalf("%x: got %v, the schema says %v", record, got, &s)
		}
	})
}
