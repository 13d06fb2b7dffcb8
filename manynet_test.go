package quern_test

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestAddManyOverTheNetwork touches each key by itself, whatever the others are,
// in columns and, where there is an idempotency key, without.
func TestAddManyOverTheNetwork(t *testing.T) {
	t.Parallel()
	to := remote(t, 2)
	for round, once := range []string{"", "", "id"} {
		prefix := "n" + once
		if _, err := handles.NewCounter(to, prefix+"full").Set(t.Context(), math.MaxInt64); err != nil {
			t.Fatal(err)
		}
		var (
			keys   []string
			deltas []int64
			want   []int64
		)
		failed := map[uint32]string{}
		put := func(key string, delta, value int64, reason string) {
			if reason != "" {
				failed[uint32(len(keys))] = reason
			}
			keys, deltas, want = append(keys, key), append(deltas, delta), append(want, value)
		}
		before := int64(round % 2) // how often it was done before
		put(prefix+"full", 1, 0, "OVERFLOW")
		put("", 1, 0, "INVALID_KEY")
		put("\xff", 1, 0, "INVALID_KEY")
		put(strings.Repeat("k", keyspace.MaxKeyBytes+1), 1, 0, "INVALID_KEY")
		for i := range 2000 {
			put(prefix+strconv.Itoa(i), int64(i)<<40, (before+1)*int64(i)<<40, "")
		}
		if once == "" { // else no key may come twice
			put(prefix+"twice", 10, 30*before+10, "")
			put(prefix+"twice", 20, 30*before+30, "")
		} else {
			keys[1], keys[2], keys[3] = prefix+"x", prefix+"y", prefix+"z"
			for i := range 3 {
				delete(failed, uint32(i+1))
				want[i+1] = 1
			}
		}
		reply := &quernv1.CounterServiceAddManyResponse{}
		err := to.Invoke(t.Context(), &handles.Operation{
			Method: handles.CounterAddMany, Reply: reply,
			Request: &quernv1.CounterServiceAddManyRequest{Keys: keys, Deltas: deltas, IdempotencyKey: once},
		})
		if err != nil || !slices.Equal(reply.GetValues(), want) {
			t.Fatalf("id %q: %v, %v", once, reply.GetValues(), err)
		}
		last := -1
		for _, f := range reply.GetFailures() {
			if failed[f.GetIndex()] != f.GetReason() || f.GetUnknown() || int(f.GetIndex()) <= last {
				t.Errorf("id %q: failure %v", once, f)
			}
			last = int(f.GetIndex())
		}
		if len(reply.GetFailures()) != len(failed) {
			t.Errorf("id %q: %d failures, want %d", once, len(reply.GetFailures()), len(failed))
		}
	}
	if _, err := handles.AddMany(t.Context(), to, make([]string, handles.MaxManyKeys+1), nil); !errors.Is(err, failure.InvalidField) {
		t.Errorf("too many keys: %v", err)
	}
	if _, err := handles.AddMany(t.Context(), to, []string{"a"}, []int64{1, 2}); !errors.Is(err, failure.InvalidField) {
		t.Errorf("too many deltas: %v", err)
	}
}
