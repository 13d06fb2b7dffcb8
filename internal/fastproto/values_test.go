package fastproto_test

import (
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/internal/fastproto"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestValuesOneByOne are the message that has them all.
func TestValuesOneByOne(t *testing.T) {
	t.Parallel()
	some := []int64{0, 1, -1, 63, 64, -65, 1 << 40, math.MaxInt64, math.MinInt64}
	for n := 1; n < 300; n = n*3/2 + 1 {
		want := make([]int64, n)
		b := fastproto.BeginValues(nil)
		for i := range want {
			want[i] = some[i%len(some)]
			b = fastproto.AppendValue(b, want[i])
		}
		b = fastproto.EndValues(b, 0)
		var m quernv1.CounterServiceAddManyResponse
		if err := proto.Unmarshal(b, &m); err != nil || !slices.Equal(m.GetValues(), want) {
			t.Errorf("%d values: %v, %v", n, m.GetValues(), err)
		}
		values, plain := fastproto.PlainValues(b)
		var got []int64
		for plain && len(values) > 0 {
			v, k := fastproto.NextValue(values)
			if k < 0 {
				t.Fatalf("%d values: cut off", n)
			}
			got, values = append(got, v), values[k:]
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d values: read %v", n, got)
		}
		m.Failures = []*quernv1.AddManyFailure{{Index: 1}}
		more, err := proto.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		if _, plain := fastproto.PlainValues(more); plain {
			t.Errorf("%d values: failures were not seen", n)
		}
	}
	for _, b := range [][]byte{nil, {0x0a}, {0x0a, 1}, {0x12, 0}} {
		if _, plain := fastproto.PlainValues(b); plain {
			t.Errorf("%x is taken", b)
		}
	}
	for _, b := range [][]byte{nil, {0x80}} {
		if _, n := fastproto.NextValue(b); n > 0 {
			t.Errorf("%x is taken", b)
		}
	}
}
