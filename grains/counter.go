package grains

import (
	"errors"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// MaxTTL is the longest time that an expiry can be set to.
const MaxTTL = 3650 * 24 * time.Hour

// Counter is the kind of signed 64-bit counters.
type Counter struct{}

// Name implements actors.Kind.
func (Counter) Name() string { return "counter" }

// New implements actors.Kind.
func (Counter) New() actors.State { return &counter{} }

// counter is one counter. Its zero value is an absent one.
//
// Invariant: a counter that is 0 and has no expiry is absent.
type counter struct {
	value   int64
	expires int64 // Unix milliseconds by the shard's clock; 0 is never
}

// Apply implements actors.State.
func (c *counter) Apply(t *actors.Turn, command, reply proto.Message) (bool, error) {
	switch q := command.(type) {
	case nil:
		*c = counter{} // the only turn that it asks for is its expiry
		return true, nil
	case *quernv1.CounterServiceAddRequest:
		return answer(reply, q, c.add)
	case *quernv1.CounterServiceGetRequest:
		return answer(reply, q, func(_ *quernv1.CounterServiceGetRequest, a *quernv1.CounterServiceGetResponse) (bool, error) {
			return c.get(t, a)
		})
	case *quernv1.CounterServiceSetRequest:
		return answer(reply, q, c.set)
	case *quernv1.CounterServiceGetAndSetRequest:
		return answer(reply, q, c.getAndSet)
	case *quernv1.CounterServiceCompareAndSetRequest:
		return answer(reply, q, c.compareAndSet)
	case *quernv1.CounterServiceResetRequest:
		return answer(reply, q, c.reset)
	case *quernv1.CounterServiceExpireRequest:
		return answer(reply, q, func(q *quernv1.CounterServiceExpireRequest, a *quernv1.CounterServiceExpireResponse) (bool, error) {
			return c.expire(t, q, a)
		})
	default:
		return false, failure.New(failure.UnknownMethod, "a counter has no method for %T", command)
	}
}

// answer runs a method with its reply in its own type.
func answer[Q any, A proto.Message](reply proto.Message, q Q, method func(Q, A) (bool, error)) (bool, error) {
	a, ok := reply.(A)
	if !ok {
		return false, failure.New(failure.UnknownMethod, "%T is no reply to %T", reply, q)
	}
	return method(q, a)
}

func (c *counter) add(q *quernv1.CounterServiceAddRequest, a *quernv1.CounterServiceAddResponse) (bool, error) {
	delta, low, high := int64(1), int64(math.MinInt64), int64(math.MaxInt64)
	if q.Delta != nil {
		delta = *q.Delta
	}
	if q.Min != nil {
		low = *q.Min
	}
	if q.Max != nil {
		high = *q.Max
	}
	if low > high {
		return false, failure.New(failure.InvalidField, "min %d is above max %d", low, high)
	}
	sum, fits := addInt64(c.value, delta)
	switch {
	case fits && low <= sum && sum <= high || delta == 0:
	case q.GetSaturate():
		sum = saturate(c.value, delta, low, high)
	case !fits:
		return false, overflow(c.value, delta)
	default:
		return false, failure.New(failure.Limit, "%d %+d would pass the bounds %d to %d", c.value, delta, low, high)
	}
	applied := sum - c.value
	c.value = sum
	a.Value, a.Applied = sum, applied
	return applied != 0, nil
}

// Add implements actors.Adder: an add without bounds.
func (c *counter) Add(delta int64) (value int64, changed bool, err error) {
	sum, fits := addInt64(c.value, delta)
	if !fits {
		return 0, false, overflow(c.value, delta)
	}
	c.value = sum
	return sum, delta != 0, nil
}

func overflow(value, delta int64) error {
	return failure.New(failure.Overflow, "%d %+d does not fit into 64 bits", value, delta)
}

// addInt64 adds with a check: two's complement addition overflowed where both
// operands differ in sign from the result.
func addInt64(a, b int64) (sum int64, fits bool) {
	sum = a + b
	return sum, (a^sum)&(b^sum) >= 0
}

// saturate moves value towards value+delta until the bound that lies ahead. It
// never moves against delta or further than delta: a value that no such move
// brings within the bounds stays.
func saturate(value, delta, low, high int64) int64 {
	sum, fits := addInt64(value, delta)
	if delta > 0 {
		if fits && sum < low {
			return value
		}
		if !fits || sum > high {
			sum = high
		}
		return max(sum, value)
	}
	if fits && sum > high {
		return value
	}
	if !fits || sum < low {
		sum = low
	}
	return min(sum, value)
}

func (c *counter) get(t *actors.Turn, a *quernv1.CounterServiceGetResponse) (bool, error) {
	a.Value = c.value
	if c.expires != 0 {
		a.Ttl = durationpb.New(time.Duration(c.expires-t.Now()) * time.Millisecond)
	}
	return false, nil
}

func (c *counter) replace(by counter) (changed bool) {
	changed = *c != by
	*c = by
	return changed
}

func (c *counter) set(q *quernv1.CounterServiceSetRequest, a *quernv1.CounterServiceSetResponse) (bool, error) {
	a.Value, a.Applied = q.GetValue(), q.GetValue()-c.value
	return c.replace(counter{value: q.GetValue()}), nil
}

func (c *counter) getAndSet(q *quernv1.CounterServiceGetAndSetRequest, a *quernv1.CounterServiceGetAndSetResponse) (bool, error) {
	a.Value, a.Previous = q.GetValue(), c.value
	return c.replace(counter{value: q.GetValue()}), nil
}

func (c *counter) compareAndSet(q *quernv1.CounterServiceCompareAndSetRequest, a *quernv1.CounterServiceCompareAndSetResponse) (bool, error) {
	if c.value != q.GetExpected() {
		a.Value, a.Swapped = c.value, false
		return false, nil
	}
	a.Value, a.Swapped = q.GetValue(), true
	return c.replace(counter{value: q.GetValue(), expires: c.expires}), nil
}

func (c *counter) reset(_ *quernv1.CounterServiceResetRequest, a *quernv1.CounterServiceResetResponse) (bool, error) {
	a.Previous = c.value
	return c.replace(counter{}), nil
}

func (c *counter) expire(t *actors.Turn, q *quernv1.CounterServiceExpireRequest, a *quernv1.CounterServiceExpireResponse) (bool, error) {
	if q.GetTtl() != nil && !q.GetTtl().IsValid() {
		return false, failure.New(failure.InvalidField, "ttl is no valid duration")
	}
	ttl := q.GetTtl().AsDuration()
	if ttl < 0 || ttl > MaxTTL {
		return false, failure.New(failure.InvalidField, "ttl is %v; it is 0 to %v", ttl, MaxTTL)
	}
	a.Value, a.Found = c.value, c.value != 0 || c.expires != 0
	if !a.GetFound() {
		return false, nil
	}
	next := counter{value: c.value}
	if ttl > 0 {
		// Rounded up: never shorter than what was asked for.
		next.expires = t.Now() + int64((ttl+time.Millisecond-1)/time.Millisecond)
	}
	return c.replace(next), nil
}

// Assign implements actors.State.
func (c *counter) Assign(from actors.State) {
	if other, ok := from.(*counter); ok {
		*c = *other
	}
}

// Due implements actors.State.
func (c *counter) Due() int64 { return c.expires }

// The fields of quern.store.v1.CounterState. The codec is written out because
// it runs once per counter and commit; a test holds it against the generated
// one.
const (
	counterValue   = protowire.Number(1)
	counterExpires = protowire.Number(2)
)

// Append implements actors.State.
func (c *counter) Append(b []byte) ([]byte, error) {
	if c.value != 0 {
		b = protowire.AppendTag(b, counterValue, protowire.VarintType)
		b = protowire.AppendVarint(b, protowire.EncodeZigZag(c.value))
	}
	if c.expires != 0 {
		b = protowire.AppendTag(b, counterExpires, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(c.expires)) //nolint:gosec // as protobuf encodes int64
	}
	return b, nil
}

var errCounterRecord = errors.New("grains: malformed counter record")

// Decode implements actors.State. Fields of a later version are passed over.
func (c *counter) Decode(record []byte) error {
	var next counter
	for len(record) > 0 {
		field, wire, n := protowire.ConsumeTag(record)
		if n < 0 || !field.IsValid() {
			return errCounterRecord
		}
		record = record[n:]
		if wire != protowire.VarintType || field != counterValue && field != counterExpires {
			if n = protowire.ConsumeFieldValue(field, wire, record); n < 0 {
				return errCounterRecord
			}
			record = record[n:]
			continue
		}
		v, n := protowire.ConsumeVarint(record)
		if n < 0 {
			return errCounterRecord
		}
		record = record[n:]
		if field == counterValue {
			next.value = protowire.DecodeZigZag(v)
		} else {
			next.expires = int64(v) //nolint:gosec // as protobuf decodes int64
		}
	}
	if next.expires < 0 {
		return errCounterRecord
	}
	*c = next
	return nil
}
