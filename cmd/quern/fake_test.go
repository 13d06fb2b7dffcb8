package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// fake is a node and a connection to it; err, where set, answers every call.
type fake struct {
	mu     sync.Mutex
	values map[string]int64
	ids    []string
	err    error
	addr   string       // that was dialled
	cfg    quern.Config // that was opened
	drain  func(ctx context.Context) error
}

func (f *fake) Invoke(_ context.Context, op *handles.Operation) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.ids = append(f.ids, op.IdempotencyKey)
	old := f.values[op.Key]
	switch q := op.Request.(type) {
	case *quernv1.CounterServiceAddRequest:
		value := old + q.GetDelta()
		if q.Min != nil && value < q.GetMin() || q.Max != nil && value > q.GetMax() {
			if !q.GetSaturate() {
				return failure.New(failure.Limit, "%d is out of bounds", value)
			}
			value = old
		}
		f.values[op.Key] = value
		fill(op, &quernv1.CounterServiceAddResponse{Value: value, Applied: value - old})
	case *quernv1.CounterServiceGetRequest:
		fill(op, &quernv1.CounterServiceGetResponse{Value: old, Ttl: &durationpb.Duration{Nanos: 1}})
	case *quernv1.CounterServiceSetRequest:
		f.values[op.Key] = q.GetValue()
		fill(op, &quernv1.CounterServiceSetResponse{Value: q.GetValue(), Applied: q.GetValue() - old})
	case *quernv1.CounterServiceCompareAndSetRequest:
		if old == q.GetExpected() {
			f.values[op.Key] = q.GetValue()
		}
		fill(op, &quernv1.CounterServiceCompareAndSetResponse{Value: f.values[op.Key], Swapped: old == q.GetExpected()})
	case *quernv1.CounterServiceResetRequest:
		delete(f.values, op.Key)
		fill(op, &quernv1.CounterServiceResetResponse{Previous: old})
	case *quernv1.CounterServiceExpireRequest:
		fill(op, &quernv1.CounterServiceExpireResponse{Value: old, Found: old != 0})
	}
	return nil
}

func fill(op *handles.Operation, m proto.Message) { proto.Merge(op.Reply, m) }

func (f *fake) Status(context.Context) (*quernv1.ClusterServiceStatusResponse, error) {
	return &quernv1.ClusterServiceStatusResponse{
		Store: "memory", ShardsTotal: 256, ShardsOwned: 256,
		Nodes: []*quernv1.ClusterNode{{Node: "n1", Addr: "127.0.0.1:7411", State: "ready", Shards: 256}},
	}, f.err
}

func (f *fake) Where(_ context.Context, key string) (*quernv1.ClusterServiceWhereResponse, error) {
	return &quernv1.ClusterServiceWhereResponse{Key: key, Shard: 7, Node: "n1", Addr: "127.0.0.1:7411", Epoch: 1 << 60}, f.err
}

// The parts of a node and of a connection that differ.
type (
	fakeConnection struct{ *fake }
	fakeNode       struct{ *fake }
)

// Watch tells of a key as it is and as it is when it has gone, and fails then.
func (fakeConnection) Watch(_ context.Context, w *handles.Watch) error {
	all := map[*handles.WatchMethod][]handles.WatchMessage{
		handles.CounterWatch: {
			&quernv1.CounterServiceWatchResponse{Epoch: 1 << 60, Sequence: 1, Event: &quernv1.CounterEvent{Value: -3, Found: true, Ttl: durationpb.New(time.Second)}},
			&quernv1.CounterServiceWatchResponse{Epoch: 1 << 60, Sequence: 2, Event: &quernv1.CounterEvent{}},
		},
		handles.MapWatch: {
			&quernv1.MapServiceWatchResponse{Epoch: 1, Sequence: 1, Event: &quernv1.MapEvent{Value: []byte("a\nb"), Version: 1 << 60, Found: true}},
			&quernv1.MapServiceWatchResponse{Epoch: 1, Sequence: 2, Event: &quernv1.MapEvent{}},
		},
		handles.LockWatch: {
			&quernv1.LockServiceWatchResponse{Epoch: 1, Sequence: 1, Event: &quernv1.LockEvent{
				Held: true, Holds: 2, Waiters: 3, Holders: []*quernv1.LockHolder{{Owner: "o", Token: 1 << 60, Ttl: durationpb.New(time.Second)}},
			}},
			&quernv1.LockServiceWatchResponse{Epoch: 1, Sequence: 2, Event: &quernv1.LockEvent{}},
		},
	}
	for _, m := range all[w.Method] {
		if err := w.Each(handles.NewEvent(m)); err != nil {
			return err
		}
	}
	return failure.New(failure.Overloaded, "no more")
}

func (fakeConnection) Close() error { return nil }

func (fakeNode) Name() string     { return "n1" }
func (fakeNode) GRPCAddr() string { return "127.0.0.1:1" }
func (fakeNode) HTTPAddr() string { return "127.0.0.1:2" }
func (n fakeNode) Close(ctx context.Context) error {
	if n.drain != nil {
		return n.drain(ctx)
	}
	return nil
}

// ran is what a command did.
type ran struct {
	code           int
	stdout, stderr string
}

// try runs a command line against f. A node that it opens is told to stop.
func (f *fake) try(t *testing.T, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout, stderr bytes.Buffer
	a := &app{
		stdout: &stdout,
		stderr: &stderr,
		dial: func(_ context.Context, addr string, _ client.Options) (connection, error) {
			f.addr = addr
			return fakeConnection{f}, nil
		},
		open: func(_ context.Context, cfg quern.Config) (node, error) {
			f.cfg = cfg
			if len(args) > 0 && args[0] == "serve" {
				cancel()
			}
			return fakeNode{f}, nil
		},
	}
	code := a.run(ctx, args)
	return ran{code, stdout.String(), stderr.String()}
}

func newFake() *fake { return &fake{values: map[string]int64{"k": 10}} }

// clearEnv takes Quern's variables out of the environment.
func clearEnv(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, value, _ := strings.Cut(entry, "="); strings.HasPrefix(name, "QUERN_") {
			t.Setenv(name, value) // so that it comes back
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (r ran) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %sstderr: %s", r.code, r.stdout, r.stderr)
}
