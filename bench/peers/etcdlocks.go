package peers

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

// EtcdLocks is the lock that a transaction makes of an entry under the caller's
// lease: it is created where it was absent, and deleted where it is still the
// one that was created. That is what etcd's own clients do for a lock that
// nobody waits for. All callers share one gRPC connection, as they would there.
type EtcdLocks struct {
	to        *Etcd
	leases    []uint64 // by caller
	revisions []uint64 // by caller: where the lock was created
}

// Locks grants a lease to each of so many callers.
func (e *Etcd) Locks(ctx context.Context, callers int) (*EtcdLocks, error) {
	l := &EtcdLocks{to: e, revisions: make([]uint64, callers)}
	for range callers {
		lease, err := e.lease(ctx)
		if err != nil {
			return nil, err
		}
		l.leases = append(l.leases, lease)
	}
	return l, nil
}

// Take implements Locks.
func (l *EtcdLocks) Take(ctx context.Context, caller int, key string) (bool, error) {
	put := appendText(nil, 1, key)
	put = appendNumber(put, 3, l.leases[caller])
	done, revision, err := l.to.when(ctx, key, 0, appendMessage(nil, 2, put))
	if done {
		l.revisions[caller] = revision
	}
	return done, err
}

// Give implements Locks.
func (l *EtcdLocks) Give(ctx context.Context, caller int, key string) (bool, error) {
	done, _, err := l.to.when(ctx, key, l.revisions[caller], appendMessage(nil, 3, appendText(nil, 1, key)))
	return done, err
}

// when runs one operation (etcdserverpb.RequestOp) where the entry was created
// in this revision, 0 for an absent one. It returns whether it did, and the
// store's revision.
func (e *Etcd) when(ctx context.Context, key string, created uint64, operation []byte) (done bool, revision uint64, err error) {
	const target = 1 // CREATE; the result asked for is EQUAL, 0
	compare := appendNumber(nil, 2, target)
	compare = appendText(compare, 3, key)
	compare = appendNumber(compare, 5, created)
	request := appendMessage(appendMessage(nil, 1, compare), 2, operation)
	answer, err := e.call(ctx, "/etcdserverpb.KV/Txn", request)
	if err != nil {
		return false, 0, err
	}
	header, succeeded, err := etcdField(answer, 1, 2)
	if err != nil {
		return false, 0, err
	}
	_, revision, err = etcdField(header, 0, 3)
	return succeeded != 0, revision, err
}

// lease grants one of peerSession.
func (e *Etcd) lease(ctx context.Context) (uint64, error) {
	answer, err := e.call(ctx, "/etcdserverpb.Lease/LeaseGrant", appendNumber(nil, 1, uint64(peerSession.Seconds())))
	if err != nil {
		return 0, err
	}
	_, id, err := etcdField(answer, 0, 2)
	if err == nil && id == 0 {
		err = fmt.Errorf("peers: etcd granted no lease: %x", answer)
	}
	return id, err
}

func (e *Etcd) call(ctx context.Context, method string, request []byte) (answer []byte, err error) {
	err = e.conn.Invoke(ctx, method, request, &answer, grpc.ForceCodec(asBytes{}), grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("peers: etcd: %s: %w", method, err)
	}
	return answer, nil
}

// asBytes passes encoded messages: the few that are needed are not worth
// etcd's generated code.
type asBytes struct{}

// Marshal implements encoding.Codec.
func (asBytes) Marshal(v any) ([]byte, error) {
	if b, ok := v.([]byte); ok {
		return b, nil
	}
	return nil, fmt.Errorf("peers: a %T as an encoded message", v)
}

// Unmarshal implements encoding.Codec.
func (asBytes) Unmarshal(data []byte, v any) error {
	to, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("peers: a %T for an encoded message", v)
	}
	*to = append([]byte(nil), data...)
	return nil
}

// Name implements encoding.Codec.
func (asBytes) Name() string { return "proto" }

func appendNumber(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendText(b []byte, field protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendMessage(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// etcdField returns a field of a message that is itself one, and one that is a
// number. An absent one is empty or 0.
func etcdField(b []byte, message, number protowire.Number) (content []byte, v uint64, err error) {
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, 0, fmt.Errorf("peers: etcd's answer: %w", protowire.ParseError(n))
		}
		value := b[n:]
		size := protowire.ConsumeFieldValue(field, kind, value)
		if size < 0 {
			return nil, 0, fmt.Errorf("peers: etcd's answer: %w", protowire.ParseError(size))
		}
		switch {
		case field == message && kind == protowire.BytesType:
			content, _ = protowire.ConsumeBytes(value)
		case field == number && kind == protowire.VarintType:
			v, _ = protowire.ConsumeVarint(value)
		}
		b = value[size:]
	}
	return content, v, nil
}
