package quern_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
)

// owner is a runtime on a PostgreSQL store that others use too, and trusts its
// leases for ever: its clock stands still.
type owner struct {
	*actors.Runtime

	self   [16]byte
	fenced chan uint32
}

// Invoke implements handles.Invoker. All keys are of shard 0.
func (o *owner) Invoke(ctx context.Context, op *handles.Operation) (err error) {
	op.Origin.Epoch, err = o.Runtime.Invoke(ctx, 0, &actors.Operation{
		Kind: op.Method.Kind, Key: op.Key, Method: op.Method.Procedure, IdempotencyKey: op.IdempotencyKey,
		Command: op.Request, Reply: op.Reply,
	})
	return err //nolint:wrapcheck // meant for the caller
}

func newOwner(t *testing.T, url string, id byte) *owner {
	t.Helper()
	store, err := postgres.Open(t.Context(), postgres.Options{URL: url, Shards: 1, Cluster: "owners"})
	if err != nil {
		t.Fatal(err)
	}
	o := &owner{self: [16]byte{id}, fenced: make(chan uint32, 100)}
	o.Runtime, err = actors.New(actors.Config{
		Store: store, Kinds: []actors.Kind{grains.Counter{}}, Incarnation: o.self, Leased: true,
		Clock: func() time.Duration { return 0 }, OnFenced: func(shard uint32, _, _ uint64) { o.fenced <- shard },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := errors.Join(o.Stop(ctx), store.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	return o
}

func (o *owner) take(t *testing.T, epoch uint64) {
	t.Helper()
	raised, err := o.Raise(t.Context(), []actors.Raise{{Shard: 0, Epoch: epoch, Incarnation: o.self}})
	if err != nil || !raised[0].OK {
		t.Errorf("raise to %d: %+v, %v", epoch, raised, err)
		return
	}
	o.Serve(actors.Lease{Shard: 0, Epoch: epoch, Time: raised[0].Time, Until: math.MaxInt64})
}

// TestOwnersOfOneShardOnPostgres: three nodes take a shard from each other while
// none of them notices that it lost it, since their clocks stand still. The store
// fences what is stale: each acknowledged Add is applied, once.
func TestOwnersOfOneShardOnPostgres(t *testing.T) {
	t.Parallel()
	url := testservice.Postgres(t).URL("schema=owners", "pool_max_conns=4")
	owners := []*owner{newOwner(t, url, 1), newOwner(t, url, 2), newOwner(t, url, 3)}
	owners[0].take(t, 1)
	const callers, adds = 6, 40
	var clients sync.WaitGroup
	taking, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(taking)
		for epoch := uint64(2); ; epoch++ {
			owners[epoch%3].take(t, epoch)
			select {
			case <-owners[(epoch-1)%3].fenced: // it has written, and heard
			case <-stop:
				return
			}
		}
	}()
	for id := range callers {
		clients.Go(func() {
			for n := range adds {
				once := string([]byte{byte('a' + id), byte('0' + n)})
				for try := id; ; try++ {
					_, err := handles.NewCounter(owners[try%3], "k").Once(once).Add(context.Background(), 1)
					if err == nil {
						break
					}
					if !errors.Is(err, failure.NotOwner) {
						t.Errorf("add: %v", err)
						return
					}
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	<-taking
	owners[0].take(t, 1_000_000)
	if got, err := handles.NewCounter(owners[0], "k").Get(t.Context()); got != callers*adds || err != nil {
		t.Errorf("%d after %d acknowledged Adds, %v", got, callers*adds, err)
	}
	if epoch, _ := owners[0].Epoch(0); epoch != 1_000_000 {
		t.Errorf("epoch %d", epoch)
	}
}
