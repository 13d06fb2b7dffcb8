package actors_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	"github.com/quern-io/quern/storage/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a runtime with handles, on a store of the test's choice.
type rig struct {
	*actors.Runtime
	shards uint32
	store  actors.Store
}

func (r *rig) Invoke(ctx context.Context, op *handles.Operation) error {
	shard := keyspace.Shard(op.Key, r.shards)
	epoch, err := r.Runtime.Invoke(ctx, shard, &actors.Operation{
		Kind: op.Method.Kind, Key: op.Key, Method: op.Method.Procedure,
		IdempotencyKey: op.IdempotencyKey, Session: actors.Session(op.Session), Guard: (*actors.Guard)(op.Guard()), Command: op.Request, Reply: op.Reply,
	})
	op.Origin = handles.Origin{Shard: shard, Epoch: epoch}
	return err
}

func (r *rig) counter(key string) handles.Counter { return handles.NewCounter(r, key) }

// newRig starts a runtime; the test's end stops it, unless it was stopped.
func newRig(tb testing.TB, store actors.Store, change ...func(*actors.Config)) *rig {
	tb.Helper()
	cfg := actors.Config{Store: store, Kinds: []actors.Kind{grains.Counter{}}}
	for _, f := range change {
		f(&cfg)
	}
	rt, err := actors.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if err := rt.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	r := &rig{rt, store.Info().Shards, store}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := rt.Stop(ctx); err != nil {
			tb.Errorf("stop: %v", err)
		}
	})
	claims := make([]actors.Claim, r.shards)
	for i := range claims {
		claims[i] = actors.Claim{Shard: uint32(i), Epoch: 1}
	}
	if err := rt.Activate(tb.Context(), claims); err != nil {
		tb.Fatal(err)
	}
	return r
}

func newMemory() actors.Store { return memory.New(64) }

func (r *rig) shardOf(key string) uint32 { return keyspace.Shard(key, r.shards) }

func (r *rig) epoch(key string) uint64 {
	epoch, _ := r.Epoch(r.shardOf(key))
	return epoch
}

// Waiting returns how many calls wait in the key's shard.
func (r *rig) Waiting(key string) int { return r.WaitingAt(r.shardOf(key)) }

// Queued returns how many calls were left at the key's shard.
func (r *rig) Queued(key string) int { return r.QueuedAt(r.shardOf(key)) }
