package quern_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// TestWatchEveryKind through the node itself and through a client.
func TestWatchEveryKind(t *testing.T) {
	t.Parallel()
	for _, store := range []string{quern.StoreMemory, quern.StoreEmbedded} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			cfg := quern.Config{Store: store, Listen: "127.0.0.1:0"}
			if store == quern.StoreEmbedded {
				cfg.DataDir = t.TempDir() + "/data"
			}
			node, err := quern.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer node.Close(context.Background())
			c, err := client.Dial(t.Context(), node.GRPCAddr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for name, to := range map[string]handles.Invoker{"node": node, "client": c} {
				watchEveryKind(t, to, name)
			}
		})
	}
}

func watchEveryKind(t *testing.T, to handles.Invoker, key string) {
	t.Helper()
	ctx := t.Context()
	counter, entry, lock := handles.NewCounter(to, key), handles.NewMapEntry(to, key), handles.NewLock(to, key)
	var token uint64
	follow(t, counter.Watch(ctx), []step[handles.CounterEvent]{
		{func(e handles.CounterEvent) bool { return !e.Found }, func() (err error) { _, err = counter.Add(ctx, 5); return err }},
		{func(e handles.CounterEvent) bool { return e.Found && e.Value == 5 }, func() (err error) { _, err = counter.Reset(ctx); return err }},
		{func(e handles.CounterEvent) bool { return !e.Found && e.Value == 0 && e.Epoch != 0 }, nil},
	})
	follow(t, entry.Watch(ctx), []step[handles.MapEvent]{
		{func(e handles.MapEvent) bool { return !e.Found() }, func() (err error) { _, err = entry.Put(ctx, []byte("v"), handles.PutOptions{}); return err }},
		{func(e handles.MapEvent) bool { return string(e.Value) == "v" && e.Found() }, func() (err error) { _, err = entry.Delete(ctx); return err }},
		{func(e handles.MapEvent) bool { return !e.Found() && e.Value == nil }, nil},
	})
	follow(t, lock.Watch(ctx), []step[handles.LockEvent]{
		{func(e handles.LockEvent) bool { return !e.Held }, func() error {
			g, err := lock.Grant(ctx, handles.LockOptions{Owner: "o"})
			token = g.Token
			return err
		}},
		{func(e handles.LockEvent) bool {
			return e.Holds == 1 && e.Holders[0].Owner == "o" && e.Holders[0].Token == token && e.Holders[0].TTL > 0
		}, func() error { return lock.Release(ctx, token) }},
		{func(e handles.LockEvent) bool { return !e.Held && len(e.Holders) == 0 }, nil},
	})
}

// step is an event that must come, and what is done when it has come.
type step[E any] struct {
	right func(E) bool
	then  func() error
}

func follow[E any](t *testing.T, events iter.Seq2[E, error], steps []step[E]) {
	t.Helper()
	for e, err := range events {
		if err != nil {
			t.Fatalf("%T: %v", e, err)
		}
		if !steps[0].right(e) {
			continue
		}
		then := steps[0].then
		if steps = steps[1:]; then == nil {
			return
		}
		if err := then(); err != nil {
			t.Fatalf("%T: %v", e, err)
		}
	}
}

// TestWatchEndsWithTheNode: in its own process there is nothing to wait for.
func TestWatchEndsWithTheNode(t *testing.T) {
	t.Parallel()
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range node.Counter("k").Watch(t.Context()) {
		if n++; n == 1 {
			if err != nil {
				t.Fatal(err)
			}
			if err := node.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !errors.Is(err, failure.Stopping) {
			t.Errorf("got %v", err)
		}
	}
	if n != 2 {
		t.Errorf("%d events", n)
	}
}

func ExampleCounter_Watch() {
	node, err := quern.Open(context.Background(), quern.Config{Store: quern.StoreMemory})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close(context.Background())
	views := node.Counter("page:42")
	for seen, err := range views.Watch(context.Background()) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(seen.Value)
		if seen.Value == 2 {
			return // which ends the watch
		}
		if _, err := views.Add(context.Background(), 1); err != nil {
			fmt.Println(err)
			return
		}
	}
	// Output:
	// 0
	// 1
	// 2
}
