package handles

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// KindCounter is the name of the counter's kind.
const KindCounter = "counter"

// The counter's methods.
var (
	CounterAdd           = counterMethod("Add", true)
	CounterAddMany       = &Method{Kind: KindCounter, Name: "AddMany", Procedure: "/quern.v1.CounterService/AddMany", Write: true, Many: true}
	CounterGet           = counterMethod("Get", false)
	CounterSet           = counterMethod("Set", true)
	CounterGetAndSet     = counterMethod("GetAndSet", true)
	CounterCompareAndSet = counterMethod("CompareAndSet", true)
	CounterReset         = counterMethod("Reset", true)
	CounterExpire        = counterMethod("Expire", true)
)

func counterMethod(name string, write bool) *Method {
	return &Method{
		Kind:      KindCounter,
		Name:      name,
		Procedure: "/quern.v1.CounterService/" + name,
		Write:     write,
	}
}

var (
	counterAdds      = pool[quernv1.CounterServiceAddRequest, quernv1.CounterServiceAddResponse, *quernv1.CounterServiceAddRequest, *quernv1.CounterServiceAddResponse]{method: CounterAdd}
	counterGets      = pool[quernv1.CounterServiceGetRequest, quernv1.CounterServiceGetResponse, *quernv1.CounterServiceGetRequest, *quernv1.CounterServiceGetResponse]{method: CounterGet}
	counterSets      = pool[quernv1.CounterServiceSetRequest, quernv1.CounterServiceSetResponse, *quernv1.CounterServiceSetRequest, *quernv1.CounterServiceSetResponse]{method: CounterSet}
	counterExchanges = pool[quernv1.CounterServiceGetAndSetRequest, quernv1.CounterServiceGetAndSetResponse, *quernv1.CounterServiceGetAndSetRequest, *quernv1.CounterServiceGetAndSetResponse]{method: CounterGetAndSet}
	counterSwaps     = pool[quernv1.CounterServiceCompareAndSetRequest, quernv1.CounterServiceCompareAndSetResponse, *quernv1.CounterServiceCompareAndSetRequest, *quernv1.CounterServiceCompareAndSetResponse]{method: CounterCompareAndSet}
	counterResets    = pool[quernv1.CounterServiceResetRequest, quernv1.CounterServiceResetResponse, *quernv1.CounterServiceResetRequest, *quernv1.CounterServiceResetResponse]{method: CounterReset}
	counterExpiries  = pool[quernv1.CounterServiceExpireRequest, quernv1.CounterServiceExpireResponse, *quernv1.CounterServiceExpireRequest, *quernv1.CounterServiceExpireResponse]{method: CounterExpire}
)

// Counter is a handle of one counter: a signed 64-bit integer. A counter that
// was never written, was reset or has expired reads as 0.
//
// Every method returns a *failure.Error; besides what any operation can
// return, the reasons are named at the method.
type Counter struct {
	to    Invoker
	key   string
	once  string
	guard *Guard
}

// NewCounter returns a handle of the counter with this key. It does no I/O;
// an invalid key is refused by the first call.
func NewCounter(to Invoker, key string) Counter { return Counter{to: to, key: key} }

// Key returns the counter's key.
func (c Counter) Key() string { return c.key }

// Once returns a handle whose writes carry an idempotency key of 1 to 128
// bytes: the same write under the same id within 24 hours is applied once and
// gets its first answer. Another write under that id is refused with
// ID_REUSED, so use a fresh id for each write.
func (c Counter) Once(id string) Counter {
	c.once = id
	return c
}

// Add adds delta and returns the new value. It fails with OVERFLOW where the
// result does not fit into 64 bits.
func (c Counter) Add(ctx context.Context, delta int64) (int64, error) {
	k := counterAdds.get(c.key, c.once)
	k.delta = delta
	k.request.Key, k.request.IdempotencyKey, k.request.Guard, k.request.Delta = c.key, c.once, c.guard.message(), &k.delta
	if err := k.invoke(ctx, c.to); err != nil {
		return 0, err
	}
	value := k.reply.GetValue()
	counterAdds.put(k)
	return value, nil
}

// AddOptions bound an add.
type AddOptions struct {
	// Min and Max are the lowest and highest value that the add may lead to;
	// nil means no bound.
	Min, Max *int64
	// Saturate stops at the bound instead of refusing.
	Saturate bool
}

// Added is the result of a bounded add.
type Added struct {
	// Value is the value after the add.
	Value int64
	// Applied is the amount that took effect.
	Applied int64
}

// AddBounded adds delta within bounds. Without Saturate it fails with LIMIT
// where the result would pass a bound.
func (c Counter) AddBounded(ctx context.Context, delta int64, o AddOptions) (Added, error) {
	k := counterAdds.get(c.key, c.once)
	k.delta = delta
	k.request.Key, k.request.IdempotencyKey, k.request.Guard, k.request.Delta = c.key, c.once, c.guard.message(), &k.delta
	if o.Min != nil {
		k.low, k.request.Min = *o.Min, &k.low
	}
	if o.Max != nil {
		k.high, k.request.Max = *o.Max, &k.high
	}
	k.request.Saturate = o.Saturate
	if err := k.invoke(ctx, c.to); err != nil {
		return Added{}, err
	}
	added := Added{Value: k.reply.GetValue(), Applied: k.reply.GetApplied()}
	counterAdds.put(k)
	return added, nil
}

// Get returns the value.
func (c Counter) Get(ctx context.Context) (int64, error) {
	value, _, err := c.GetTTL(ctx)
	return value, err
}

// GetTTL returns the value and what is left until the counter expires, zero
// where it does not.
func (c Counter) GetTTL(ctx context.Context) (int64, time.Duration, error) {
	k := counterGets.get(c.key, "")
	k.request.Key = c.key
	if err := k.invoke(ctx, c.to); err != nil {
		return 0, 0, err
	}
	value, ttl := k.reply.GetValue(), k.reply.GetTtl().AsDuration()
	counterGets.put(k)
	return value, ttl, nil
}

// Set replaces the value and ends a running expiry. It returns the new value
// less the old one.
func (c Counter) Set(ctx context.Context, value int64) (int64, error) {
	k := counterSets.get(c.key, c.once)
	k.request.Key, k.request.IdempotencyKey, k.request.Guard, k.request.Value = c.key, c.once, c.guard.message(), value
	if err := k.invoke(ctx, c.to); err != nil {
		return 0, err
	}
	applied := k.reply.GetApplied()
	counterSets.put(k)
	return applied, nil
}

// GetAndSet replaces the value, ends a running expiry and returns the value
// from before.
func (c Counter) GetAndSet(ctx context.Context, value int64) (int64, error) {
	k := counterExchanges.get(c.key, c.once)
	k.request.Key, k.request.IdempotencyKey, k.request.Guard, k.request.Value = c.key, c.once, c.guard.message(), value
	if err := k.invoke(ctx, c.to); err != nil {
		return 0, err
	}
	previous := k.reply.GetPrevious()
	counterExchanges.put(k)
	return previous, nil
}

// CompareAndSet replaces the value where it equals expected. It returns the
// value afterwards and whether it was replaced.
func (c Counter) CompareAndSet(ctx context.Context, expected, value int64) (int64, bool, error) {
	k := counterSwaps.get(c.key, c.once)
	k.request.Key, k.request.IdempotencyKey, k.request.Guard = c.key, c.once, c.guard.message()
	k.request.Expected, k.request.Value = expected, value
	if err := k.invoke(ctx, c.to); err != nil {
		return 0, false, err
	}
	now, swapped := k.reply.GetValue(), k.reply.GetSwapped()
	counterSwaps.put(k)
	return now, swapped, nil
}

// Reset makes the counter absent and returns the value from before.
func (c Counter) Reset(ctx context.Context) (int64, error) {
	k := counterResets.get(c.key, c.once)
	k.request.Key, k.request.IdempotencyKey, k.request.Guard = c.key, c.once, c.guard.message()
	if err := k.invoke(ctx, c.to); err != nil {
		return 0, err
	}
	previous := k.reply.GetPrevious()
	counterResets.put(k)
	return previous, nil
}

// Expire lets the counter become absent after ttl, at most 3650 days; zero
// ends a running expiry. It returns false where the counter is absent.
func (c Counter) Expire(ctx context.Context, ttl time.Duration) (bool, error) {
	k := counterExpiries.get(c.key, c.once)
	k.request.Key, k.request.IdempotencyKey, k.request.Guard = c.key, c.once, c.guard.message()
	k.request.Ttl = durationpb.New(ttl)
	if err := k.invoke(ctx, c.to); err != nil {
		return false, err
	}
	found := k.reply.GetFound()
	counterExpiries.put(k)
	return found, nil
}
