package handles

import (
	"bytes"

	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// MapAnswer is where the answer to an operation on a map entry will be. It is
// good until the batch is Reset.
type MapAnswer struct{ op *Operation }

type (
	batchedPut struct {
		op      Operation
		request quernv1.MapServicePutRequest
		reply   quernv1.MapServicePutResponse
	}
	batchedMapGet struct {
		op      Operation
		request quernv1.MapServiceGetRequest
		reply   quernv1.MapServiceGetResponse
	}
)

// MapPut puts [MapEntry.Put] without options into the batch. The answer's
// version is the new one. The value must not be changed before Do returns, and
// after an error not at all.
func (b *Batch) MapPut(key string, value []byte) MapAnswer {
	s := b.puts.next()
	s.request.Reset()
	s.reply.Reset()
	s.request.Key, s.request.Value = key, value
	s.op = Operation{Method: MapPut, Key: key, Request: &s.request, Reply: &s.reply}
	b.add(&s.op)
	return MapAnswer{&s.op}
}

// MapGet puts [MapEntry.Get] into the batch.
func (b *Batch) MapGet(key string) MapAnswer {
	s := b.look.next()
	s.request.Reset()
	s.reply.Reset()
	s.request.Key = key
	s.op = Operation{Method: MapGet, Key: key, Request: &s.request, Reply: &s.reply}
	b.add(&s.op)
	return MapAnswer{&s.op}
}

// release lets go of the value, and says whether the slot can be used again.
func (s *batchedPut) release() bool {
	if !reusable(&s.op) {
		return false
	}
	s.request.Value = nil
	return true
}

func (s *batchedMapGet) release() bool {
	if !reusable(&s.op) {
		return false
	}
	s.reply.Value = nil
	return true
}

// Once gives a put an idempotency key, as [MapEntry.Once] does. It comes before
// Do; reads take none.
func (a MapAnswer) Once(id string) MapAnswer {
	if q, ok := a.op.Request.(*quernv1.MapServicePutRequest); ok {
		q.IdempotencyKey, a.op.IdempotencyKey = id, id
	}
	return a
}

// Version returns the entry's version, 0 where it is absent, or why the
// operation failed: a *failure.Error or the context's.
func (a MapAnswer) Version() (uint64, error) {
	if err := a.op.Err; err != nil {
		return 0, err
	}
	m, ok := a.op.Reply.(interface{ GetVersion() uint64 })
	if !ok {
		return 0, failure.New(failure.Internal, "%T in a batch", a.op.Reply)
	}
	return m.GetVersion(), nil
}

// Value returns what the entry holds, or why the operation failed; of a put
// its version alone. The bytes are the caller's.
func (a MapAnswer) Value() (MapValue, error) {
	version, err := a.Version()
	if err != nil {
		return MapValue{}, err
	}
	m, _ := a.op.Reply.(*quernv1.MapServiceGetResponse)
	// On a node the reply shares its bytes with the entry itself.
	return MapValue{Value: bytes.Clone(m.GetValue()), Version: version, TTL: m.GetTtl().AsDuration()}, nil
}

// Origin says who answered, as far as known.
func (a MapAnswer) Origin() Origin { return a.op.Origin }
