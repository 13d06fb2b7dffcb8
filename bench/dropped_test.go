package bench_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/bench"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	"github.com/quern-io/quern/storage/memory"
)

// forgetful is a store that says Done to one commit of a shard in a hundred
// without writing it.
type forgetful struct {
	actors.Store
	forgets bool
	n       atomic.Int64
}

func (f *forgetful) Info() actors.StoreInfo {
	info := f.Store.Info()
	info.Durable = true
	return info
}

func (f *forgetful) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	verdicts := make([]actors.Verdict, len(batches))
	for i := range batches {
		if f.forgets && f.n.Add(1)%100 == 0 {
			continue // the zero verdict is Done
		}
		verdicts[i] = f.Store.Commit(ctx, batches[i:i+1])[0]
	}
	return verdicts
}

// shards is a runtime as a target.
type shards struct {
	*actors.Runtime
	n uint32
}

func (s shards) Invoke(ctx context.Context, op *handles.Operation) error {
	_, err := s.Runtime.Invoke(ctx, keyspace.Shard(op.Key, s.n), &actors.Operation{
		Kind: op.Method.Kind, Key: op.Key, Method: op.Method.Procedure,
		IdempotencyKey: op.IdempotencyKey, Command: op.Request, Reply: op.Reply,
	})
	return err
}

func (s shards) InvokeAll(ctx context.Context, ops []*handles.Operation) {
	for _, op := range ops {
		op.Err = s.Invoke(ctx, op)
	}
}

// TestAStoreThatDropsCommitsIsCaught: the target has little memory, so that
// what it forgot shows as soon as a counter comes back from the store.
func TestAStoreThatDropsCommitsIsCaught(t *testing.T) {
	t.Parallel()
	forgets := true
	for _, pipeline := range []int{1, 1, 20, 20} {
		forgets = !forgets
		store := &forgetful{Store: memory.New(16), forgets: forgets}
		rt, err := actors.New(actors.Config{Store: store, Kinds: []actors.Kind{grains.Counter{}}, ResidentLimit: 16})
		if err != nil {
			t.Fatal(err)
		}
		if err := rt.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		var claims []actors.Claim
		for shard := range uint32(16) {
			claims = append(claims, actors.Claim{Shard: shard, Epoch: 1})
		}
		if err := rt.Activate(t.Context(), claims); err != nil {
			t.Fatal(err)
		}
		r, err := bench.Run(t.Context(), bench.Config{
			Target: shards{rt, 16}, Workload: "counter-add", Keys: 1000, Concurrency: 16, Duration: 300 * time.Millisecond, Pipeline: pipeline,
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.OK() == forgets || (r.Lost > 0) != forgets {
			t.Errorf("forgetful %v: ok %v, acked %d, applied %d, lost %d", forgets, r.OK(), r.Acked, r.Applied, r.Lost)
		}
		if err := rt.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
}
