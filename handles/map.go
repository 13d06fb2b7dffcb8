package handles

import (
	"bytes"
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// KindMap is the name of the map entry's kind.
const KindMap = "map"

// The map entry's methods.
var (
	MapPut            = mapMethod("Put", true)
	MapGet            = mapMethod("Get", false)
	MapDelete         = mapMethod("Delete", true)
	MapCompareAndSwap = mapMethod("CompareAndSwap", true)
)

func mapMethod(name string, write bool) *Method {
	return &Method{Kind: KindMap, Name: name, Procedure: "/quern.v1.MapService/" + name, Write: write}
}

var (
	mapPuts    = pool[quernv1.MapServicePutRequest, quernv1.MapServicePutResponse, *quernv1.MapServicePutRequest, *quernv1.MapServicePutResponse]{method: MapPut}
	mapGets    = pool[quernv1.MapServiceGetRequest, quernv1.MapServiceGetResponse, *quernv1.MapServiceGetRequest, *quernv1.MapServiceGetResponse]{method: MapGet}
	mapDeletes = pool[quernv1.MapServiceDeleteRequest, quernv1.MapServiceDeleteResponse, *quernv1.MapServiceDeleteRequest, *quernv1.MapServiceDeleteResponse]{method: MapDelete}
	mapSwaps   = pool[quernv1.MapServiceCompareAndSwapRequest, quernv1.MapServiceCompareAndSwapResponse, *quernv1.MapServiceCompareAndSwapRequest, *quernv1.MapServiceCompareAndSwapResponse]{method: MapCompareAndSwap}
)

// MapEntry is a handle of one entry of the distributed map: up to 64 KiB under
// a key. Each change gives the entry a new version; versions rise for ever,
// also over a deletion and an expiry. The version of an absent entry is 0.
//
// Every method returns a *failure.Error; besides what any operation can
// return, the reasons are named at the method. A value that is given to a
// method must not be changed before it returns, and after an error not at all;
// a value that is returned is the caller's.
type MapEntry struct {
	to    Invoker
	key   string
	once  string
	guard *Guard
}

// NewMapEntry returns a handle of the entry with this key. It does no I/O; an
// invalid key is refused by the first call.
func NewMapEntry(to Invoker, key string) MapEntry { return MapEntry{to: to, key: key} }

// Key returns the entry's key.
func (m MapEntry) Key() string { return m.key }

// Once returns a handle whose writes carry an idempotency key; see
// [Counter.Once].
func (m MapEntry) Once(id string) MapEntry {
	m.once = id
	return m
}

// PutOptions are the conditions and the expiry of a put.
type PutOptions struct {
	// IfVersion, where not 0, is the version that the entry must have.
	IfVersion uint64
	// IfAbsent asks that there is no entry. It excludes IfVersion.
	IfAbsent bool
	// TTL lets the entry become absent after it, at most 3650 days; 0 keeps
	// it for ever and ends a running expiry.
	TTL time.Duration
}

// Put sets the value and returns the new version. It fails with
// CONDITION_FAILED where a condition does not hold and with LIMIT where the
// value is too large.
func (m MapEntry) Put(ctx context.Context, value []byte, o PutOptions) (version uint64, err error) {
	k := mapPuts.get(m.key, m.once)
	k.request.Key, k.request.IdempotencyKey, k.request.Guard, k.request.Value = m.key, m.once, m.guard.message(), value
	k.request.IfAbsent = o.IfAbsent
	if version := o.IfVersion; version != 0 {
		k.request.IfVersion = &version
	}
	if o.TTL != 0 {
		k.request.Ttl = durationpb.New(o.TTL)
	}
	if err := k.invoke(ctx, m.to); err != nil {
		return 0, err
	}
	version, k.request.Value = k.reply.GetVersion(), nil // the pool keeps no values alive
	mapPuts.put(k)
	return version, nil
}

// MapValue is what an entry holds.
type MapValue struct {
	Value []byte
	// Version is 0 where the entry is absent.
	Version uint64
	// TTL is what is left until the entry expires; 0 where it does not.
	TTL time.Duration
}

// Found reports whether there is an entry.
func (v MapValue) Found() bool { return v.Version != 0 }

// Get returns what the entry holds. That it is absent is no error.
func (m MapEntry) Get(ctx context.Context) (MapValue, error) {
	k := mapGets.get(m.key, "")
	k.request.Key = m.key
	if err := k.invoke(ctx, m.to); err != nil {
		return MapValue{}, err
	}
	// On a node the reply shares its bytes with the entry itself.
	v := MapValue{Value: bytes.Clone(k.reply.GetValue()), Version: k.reply.GetVersion(), TTL: k.reply.GetTtl().AsDuration()}
	k.reply.Value = nil
	mapGets.put(k)
	return v, nil
}

// Delete makes the entry absent, and reports whether there was one.
func (m MapEntry) Delete(ctx context.Context) (bool, error) { return m.delete(ctx, nil) }

// DeleteVersion makes the entry absent where it has this version; 0 is that of
// an absent one. It fails with CONDITION_FAILED.
func (m MapEntry) DeleteVersion(ctx context.Context, version uint64) error {
	_, err := m.delete(ctx, &version)
	return err
}

func (m MapEntry) delete(ctx context.Context, version *uint64) (bool, error) {
	k := mapDeletes.get(m.key, m.once)
	k.request.Key, k.request.IdempotencyKey, k.request.Guard, k.request.IfVersion = m.key, m.once, m.guard.message(), version
	if err := k.invoke(ctx, m.to); err != nil {
		return false, err
	}
	found := k.reply.GetFound()
	mapDeletes.put(k)
	return found, nil
}

// CompareAndSwap sets the value where the entry has the expected version, 0
// for an absent one, and keeps a running expiry. It returns the version
// afterwards and whether it was set. It fails with LIMIT where the value is
// too large.
func (m MapEntry) CompareAndSwap(ctx context.Context, expected uint64, value []byte) (version uint64, swapped bool, err error) {
	k := mapSwaps.get(m.key, m.once)
	k.request.Key, k.request.IdempotencyKey, k.request.Guard = m.key, m.once, m.guard.message()
	k.request.ExpectedVersion, k.request.Value = expected, value
	if err := k.invoke(ctx, m.to); err != nil {
		return 0, false, err
	}
	version, swapped = k.reply.GetVersion(), k.reply.GetSwapped()
	k.request.Value = nil
	mapSwaps.put(k)
	return version, swapped, nil
}
