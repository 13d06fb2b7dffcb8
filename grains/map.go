package grains

import (
	"bytes"
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// MaxValueBytes is the size limit of a map entry's value.
const MaxValueBytes = 64 << 10

// Map is the kind of map entries: a value under each key, with a version.
type Map struct{}

// Name implements actors.Kind.
func (Map) Name() string { return "map" }

// New implements actors.Kind.
func (Map) New() actors.State { return &entry{} }

// entry is one map entry. Its zero value is an absent one.
//
// Invariant: version is 0 exactly where the entry is absent, and then all else
// is zero, too.
type entry struct {
	// value is never changed, only replaced: replies, and the state that is
	// kept for undoing, share it.
	value   []byte
	version uint64
	expires int64 // Unix milliseconds by the shard's clock; 0 is never
}

// Apply implements actors.State.
func (e *entry) Apply(t *actors.Turn, command, reply proto.Message) (bool, error) {
	switch q := command.(type) {
	case nil:
		*e = entry{} // the only turn that it asks for is its expiry
		return true, nil
	case *quernv1.MapServicePutRequest:
		return method(e, t, q, reply, (*entry).put)
	case *quernv1.MapServiceGetRequest:
		return method(e, t, q, reply, (*entry).get)
	case *quernv1.MapServiceDeleteRequest:
		return method(e, t, q, reply, (*entry).delete)
	case *quernv1.MapServiceCompareAndSwapRequest:
		return method(e, t, q, reply, (*entry).compareAndSwap)
	default:
		return false, failure.New(failure.UnknownMethod, "a map entry has no method for %T", command)
	}
}

func (e *entry) put(t *actors.Turn, q *quernv1.MapServicePutRequest, a *quernv1.MapServicePutResponse) (bool, error) {
	if q.GetIfAbsent() && q.GetIfVersion() != 0 {
		return false, failure.New(failure.InvalidField, "if_version and if_absent cannot both hold; give one of them")
	}
	expires, err := expiry(t, q.GetTtl(), 0)
	if err != nil {
		return false, err
	}
	if err := checkValue(q.GetValue()); err != nil {
		return false, err
	}
	if q.IfVersion != nil || q.GetIfAbsent() {
		if err := e.require(q.GetIfVersion()); err != nil {
			return false, err
		}
	}
	a.Found = e.version != 0
	a.Version = e.set(t, q.GetValue(), expires)
	return true, nil
}

// require fails where the entry does not have a version.
func (e *entry) require(version uint64) error {
	switch {
	case e.version == version:
		return nil
	case version == 0:
		return failure.New(failure.ConditionFailed, "there is an entry already, of version %d", e.version)
	case e.version == 0:
		return failure.New(failure.ConditionFailed, "there is no entry; version %d was asked for", version)
	default:
		return failure.New(failure.ConditionFailed, "the entry has version %d; %d was asked for", e.version, version)
	}
}

func checkValue(value []byte) error {
	if len(value) > MaxValueBytes {
		return failure.New(failure.Limit, "the value has %d bytes; at most %d are taken", len(value), MaxValueBytes)
	}
	return nil
}

// expiry is the time at which a ttl from now ends; keep where there is none.
func expiry(t *actors.Turn, ttl *durationpb.Duration, keep int64) (int64, error) {
	if ttl == nil {
		return keep, nil
	}
	ms, err := millis("ttl", ttl, 0, MaxTTL)
	if err != nil || ms == 0 {
		return 0, err
	}
	return t.Now() + ms, nil
}

// set replaces the entry and returns its version. The value is copied: the
// request's belongs to its sender.
func (e *entry) set(t *actors.Turn, value []byte, expires int64) uint64 {
	*e = entry{value: bytes.Clone(value), version: t.Next(), expires: expires}
	return e.version
}

func (e *entry) get(t *actors.Turn, _ *quernv1.MapServiceGetRequest, a *quernv1.MapServiceGetResponse) (bool, error) {
	a.Value, a.Version, a.Found = e.value, e.version, e.version != 0
	if e.expires != 0 {
		a.Ttl = duration(e.expires - t.Now())
	}
	return false, nil
}

func (e *entry) delete(_ *actors.Turn, q *quernv1.MapServiceDeleteRequest, a *quernv1.MapServiceDeleteResponse) (bool, error) {
	if q.IfVersion != nil {
		if err := e.require(q.GetIfVersion()); err != nil {
			return false, err
		}
	}
	a.Found, a.Version = e.version != 0, e.version
	*e = entry{}
	return a.GetFound(), nil
}

func (e *entry) compareAndSwap(t *actors.Turn, q *quernv1.MapServiceCompareAndSwapRequest, a *quernv1.MapServiceCompareAndSwapResponse) (bool, error) {
	expires, err := expiry(t, q.GetTtl(), e.expires)
	if err != nil {
		return false, err
	}
	if err := checkValue(q.GetValue()); err != nil {
		return false, err
	}
	if e.version != q.GetExpectedVersion() {
		a.Swapped, a.Version = false, e.version
		return false, nil
	}
	a.Swapped, a.Version = true, e.set(t, q.GetValue(), expires)
	return true, nil
}

// Assign implements actors.State. It shares the value.
func (e *entry) Assign(from actors.State) {
	if other, ok := from.(*entry); ok {
		*e = *other
	}
}

// Due implements actors.State.
func (e *entry) Due() int64 { return e.expires }

// Size implements actors.Sizer.
func (e *entry) Size() int {
	const numbers = 24
	return len(e.value) + numbers
}

// The fields of quern.store.v1.MapState. The codec is written out because it
// runs once per entry and commit; a test holds it against the generated one.
const (
	mapValue   = protowire.Number(1)
	mapVersion = protowire.Number(2)
	mapExpires = protowire.Number(3)
)

// Append implements actors.State.
func (e *entry) Append(b []byte) ([]byte, error) {
	if len(e.value) > 0 {
		b = protowire.AppendTag(b, mapValue, protowire.BytesType)
		b = protowire.AppendBytes(b, e.value)
	}
	b = appendUint(b, mapVersion, e.version)
	return appendUint(b, mapExpires, uint64(e.expires)), nil //nolint:gosec // as protobuf encodes int64
}

var errMapRecord = errors.New("grains: malformed map record")

// Decode implements actors.State. Fields of a later version are passed over.
func (e *entry) Decode(record []byte) error {
	var next entry
	ok := eachField(record, func(field protowire.Number, v uint64, b []byte) bool {
		switch {
		case field == mapValue && b != nil:
			next.value = bytes.Clone(b)
		case field == mapVersion && b == nil:
			next.version = v
		case field == mapExpires && b == nil:
			next.expires = int64(v) //nolint:gosec // as protobuf decodes int64
		default:
			return field > mapExpires
		}
		return true
	})
	absent := next.version == 0 && (len(next.value) > 0 || next.expires != 0)
	if !ok || absent || next.expires < 0 {
		return errMapRecord
	}
	*e = next
	return nil
}
