package routing_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestEveryMethodIsPassedOn: whatever a client of one node asks for, of keys of
// another.
func TestEveryMethodIsPassedOn(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	for name, o := range map[string]client.Options{"stream": {}, "grpc": {GRPC: true}, "unary": {Unary: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			c := a.dial(t, o)
			key := keyOf(1, len(name))
			counter := handles.NewCounter(c, key)
			for n := int64(1); n <= 3; n++ {
				if got, err := counter.Add(ctx, 2); err != nil || got != 2*n {
					t.Fatalf("Add: %d, %v", got, err)
				}
			}
			if got, err := counter.Get(ctx); err != nil || got != 6 {
				t.Errorf("Get: %d, %v", got, err)
			}
			for range 2 {
				if got, err := counter.Once("id").Add(ctx, 1); err != nil || got != 7 {
					t.Errorf("Add under a key: %d, %v", got, err)
				}
			}
			large := make([]byte, 60_000)
			if v, err := handles.NewMapEntry(c, key).Put(ctx, large, handles.PutOptions{}); err != nil || v != uint64(len(large)) {
				t.Errorf("Put: %d, %v", v, err)
			}
			op := handles.Operation{
				Method: handles.CounterGet, Key: key, Request: &quernv1.CounterServiceGetRequest{Key: key}, Reply: &quernv1.CounterServiceGetResponse{},
			}
			if err := c.Invoke(ctx, &op); err != nil || op.Origin != (handles.Origin{Node: "b", Shard: 1, Epoch: 1}) {
				t.Errorf("the answer is of %v, %v", op.Origin, err)
			}
			if name == "unary" {
				return
			}
			passLock(ctx, t, w, c, key)
		})
	}
}

// passLock waits for a lock of another node, is granted one and gives up another.
func passLock(ctx context.Context, t *testing.T, w *world, c *client.Client, key string) {
	t.Helper()
	acquire := func(ctx context.Context) error {
		q := &quernv1.LockServiceAcquireRequest{Key: key, Owner: "o", Wait: durationpb.New(time.Minute)}
		return c.Invoke(ctx, &handles.Operation{Method: handles.LockAcquire, Key: key, Request: q, Reply: &quernv1.LockServiceAcquireResponse{}}) //nolint:wrapcheck // a test's
	}
	if err := acquire(ctx); err != nil {
		t.Fatal(err)
	}
	leaving, leave := context.WithCancel(ctx)
	given, granted := make(chan error, 1), make(chan error, 1)
	go func() { given <- acquire(leaving) }()
	until(t, func() bool { return w.waiters(key) == 1 })
	leave()
	if err := <-given; !errors.Is(err, failure.Canceled) {
		t.Errorf("given up: %v", err)
	}
	until(t, func() bool { return w.waiters(key) == 0 })
	go func() { granted <- acquire(ctx) }()
	until(t, func() bool { return w.waiters(key) == 1 })
	q := &quernv1.LockServiceReleaseRequest{Key: key, Token: 7}
	if err := c.Invoke(ctx, &handles.Operation{Method: handles.LockRelease, Key: key, Request: q, Reply: &quernv1.LockServiceReleaseResponse{}}); err != nil {
		t.Error(err)
	}
	if err := <-granted; err != nil {
		t.Errorf("granted: %v", err)
	}
}

// TestBulkOfAllNodes: a bulk add whose keys are of all nodes, numbered and not.
func TestBulkOfAllNodes(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	for name, o := range map[string]client.Options{"numbered": {}, "unary": {Unary: true}} {
		var keys []string
		for shard := range uint32(shards) {
			keys = append(keys, keyOf(shard, 1000+len(name)), keyOf(shard, 2000+len(name)))
		}
		deltas := make([]int64, len(keys))
		for i := range deltas {
			deltas[i] = int64(i) + 1
		}
		op := handles.Operation{
			Method:  handles.CounterAddMany,
			Request: &quernv1.CounterServiceAddManyRequest{Keys: keys, Deltas: deltas}, Reply: &quernv1.CounterServiceAddManyResponse{},
		}
		if err := a.dial(t, o).Invoke(ctx, &op); err != nil {
			t.Fatal(err)
		}
		out, _ := op.Reply.(*quernv1.CounterServiceAddManyResponse)
		if len(out.GetFailures()) > 0 || len(out.GetValues()) != len(keys) {
			t.Fatalf("%s: %d values, failures %v", name, len(out.GetValues()), out.GetFailures())
		}
		for i, key := range keys {
			if w.value(key) != deltas[i] || out.GetValues()[i] != deltas[i] {
				t.Errorf("%s: %s is %d, answered %d, want %d", name, key, w.value(key), out.GetValues()[i], deltas[i])
			}
		}
	}
}

// TestHeadersNameTheOwner, not the node that was asked.
func TestHeadersNameTheOwner(t *testing.T) {
	t.Parallel()
	_, a, _, _ := three(t)
	conn := plain(t, a)
	var header metadata.MD
	key := keyOf(2, 0)
	_, err := quernv1.NewCounterServiceClient(conn).Add(t.Context(), &quernv1.CounterServiceAddRequest{Key: key}, grpc.Header(&header))
	if err != nil || header.Get(wire.HeaderNode)[0] != "c" || header.Get(wire.HeaderEpoch)[0] != "1" || header.Get(wire.HeaderShard)[0] != "2" {
		t.Errorf("%v, %v", header, err)
	}
}

// TestTransactionIsPassedOn as bytes that this node decodes only for their key.
func TestTransactionIsPassedOn(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	key := keyOf(1, 0)
	_, err := quernv1.NewTransactionServiceClient(plain(t, a)).Commit(t.Context(), &quernv1.TransactionServiceCommitRequest{Key: key})
	if err != nil || w.value(key) != 100 {
		t.Errorf("%d, %v", w.value(key), err)
	}
}

// plain is a connection of gRPC.
func plain(t *testing.T, n *node) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(n.srv.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// until waits for what has no signal.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it does not come to pass")
		}
		<-time.After(time.Millisecond) //nolint:forbidigo // looks again
	}
}

// TestInvokeAll: operations on keys of all nodes, and one that is given up.
func TestInvokeAll(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	var ops []*handles.Operation
	for shard := range uint32(shards) {
		ops = append(ops, addOf(keyOf(shard, 0)))
	}
	a.InvokeAll(ctx, ops)
	for shard, op := range ops {
		want := handles.Origin{Node: []string{"a", "b", "c"}[shard%3], Shard: uint32(shard), Epoch: 1}
		if op.Err != nil || op.Origin != want || w.value(op.Key) != 1 {
			t.Errorf("%s: %v by %v, the counter is %d", op.Key, op.Err, op.Origin, w.value(op.Key))
		}
	}
	w.mu.Lock()
	w.lock(ops[1].Key).held = true
	w.mu.Unlock()
	short, leave := context.WithCancel(ctx)
	ops = []*handles.Operation{addOf(ops[1].Key), acquireOf(ops[1].Key)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.InvokeAll(short, ops)
	}()
	until(t, func() bool { return w.waiters(ops[1].Key) == 1 && w.value(ops[0].Key) == 2 })
	leave()
	<-ended
	if !errors.Is(ops[1].Err, failure.Canceled) {
		t.Errorf("given up: %v", ops[1].Err)
	}
	until(t, func() bool { return w.waiters(ops[1].Key) == 0 })
}
