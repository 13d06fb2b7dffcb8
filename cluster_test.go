package quern_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/testservice"
)

const clusterPatience = time.Minute

// openCluster opens so many nodes, n1 and on, which own all shards between them
// when it returns.
func openCluster(t *testing.T, nodes int, store string) []*quern.Node {
	t.Helper()
	consul := testservice.Consul(t, consulproc.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), clusterPatience)
	defer cancel()
	all := make([]*quern.Node, nodes)
	var opening sync.WaitGroup
	for i := range all {
		opening.Go(func() {
			var err error
			all[i], err = quern.Open(ctx, quern.Config{
				Consul: consul.Addr(), Cluster: "test", Node: fmt.Sprintf("n%d", i+1), Store: store, Shards: 32,
			})
			if err != nil {
				t.Errorf("node %d: %v", i+1, err)
			}
		})
	}
	opening.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		for _, n := range all {
			if err := n.Close(context.WithoutCancel(ctx)); err != nil {
				t.Error(err)
			}
		}
	})
	for _, n := range all {
		settle(ctx, t, n, nodes)
	}
	return all
}

// settle waits until a node sees that so many nodes own all shards, evenly.
func settle(ctx context.Context, t *testing.T, n *quern.Node, nodes int) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		s, err := n.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ready, least := 0, s.GetShardsTotal()
		for _, m := range s.GetNodes() {
			if m.GetShards() > 0 {
				ready++
				least = min(least, m.GetShards())
			}
		}
		if ready == nodes && s.GetShardsOwned() == s.GetShardsTotal() && least >= s.GetShardsTotal()/uint32(nodes) {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("the cluster does not settle: %v", s)
		}
	}
}

// TestClusterOfThree: handles of any node and a client of one of them work on all
// keys, each key has one owner, and the client finds the owners by itself.
func TestClusterOfThree(t *testing.T) {
	t.Parallel()
	nodes := openCluster(t, 3, quern.StoreMemory)
	ctx, cancel := context.WithTimeout(t.Context(), clusterPatience)
	defer cancel()
	c, err := client.Dial(ctx, nodes[0].GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	const keys = 100
	owners := make(map[string]int)
	for k := range keys {
		key := fmt.Sprintf("key%d", k)
		for _, n := range nodes {
			if _, err := n.Counter(key).Add(ctx, 1); err != nil {
				t.Fatalf("%s on %s: %v", key, n.Name(), err)
			}
		}
		if value, err := c.Counter(key).Add(ctx, 1); err != nil || value != int64(len(nodes))+1 {
			t.Fatalf("%s by the client: %d, %v", key, value, err)
		}
		where, err := nodes[k%3].Where(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		owners[where.GetNode()]++
	}
	if len(owners) != 3 {
		t.Errorf("keys per owner: %v", owners)
	}

	// Once the client knows the owners, nobody passes on anything.
	for before := -1; ; {
		passed := 0
		for _, n := range nodes {
			passed += metric(t, n.Metrics(), "quern_routing_passed_total")
		}
		if passed == before {
			break
		}
		before = passed
		for k := range keys {
			if _, err := c.Counter(fmt.Sprintf("key%d", k)).Add(ctx, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	one, err := client.DialWith(ctx, nodes[0].GRPCAddr(), client.Options{OneNode: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = one.Close() }()
	before, elsewhere := metric(t, nodes[0].Metrics(), "quern_routing_passed_total"), keys-owners[nodes[0].Name()]
	for range 3 {
		for k := range keys {
			if _, err := one.Counter(fmt.Sprintf("key%d", k)).Add(ctx, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	if passed := metric(t, nodes[0].Metrics(), "quern_routing_passed_total") - before; passed < 3*elsewhere {
		t.Errorf("a client of one node had %d operations passed on by it, %d keys are of others", passed, elsewhere)
	}
	many := make([]string, keys)
	for k := range many {
		many[k] = fmt.Sprintf("key%d", k)
	}
	if values, err := handles.AddMany(ctx, c, many, nil); err != nil || len(values) != keys {
		t.Errorf("a bulk add over all nodes: %d values, %v", len(values), err)
	}
	if values, err := handles.AddMany(ctx, nodes[1], many, nil); err != nil || len(values) != keys {
		t.Errorf("a bulk add by a node: %d values, %v", len(values), err)
	}
	lease, err := c.Lock("key7").Acquire(ctx, quern.LockOptions{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nodes[2].Lock("key7").Try(ctx, quern.LockOptions{TTL: time.Minute}); err == nil {
		t.Error("a held lock was granted by way of another node")
	}
	if err := lease.Release(ctx); err != nil {
		t.Error(err)
	}
}

// metric reads a counter from a node's metrics.
func metric(t *testing.T, set *metrics.Set, name string) int {
	t.Helper()
	var b bytes.Buffer
	set.WritePrometheus(&b)
	value := 0
	for line := range strings.SplitSeq(b.String(), "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &value); err != nil {
				t.Fatal(err)
			}
		}
	}
	return value
}

// TestLeavingNode: a node that is closed hands its shards to the others, with all
// that was acknowledged on a store that they share.
func TestLeavingNode(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	nodes := openCluster(t, 3, server.URL())
	ctx, cancel := context.WithTimeout(t.Context(), clusterPatience)
	defer cancel()
	c, err := client.Dial(ctx, nodes[0].GRPCAddr()+","+nodes[1].GRPCAddr()+","+nodes[2].GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	const keys, workers = 50, 8
	var counts [keys]int64
	var mu sync.Mutex
	var all sync.WaitGroup
	stop := make(chan struct{})
	for w := range workers {
		all.Go(func() {
			for i := w; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_, err := c.Counter(fmt.Sprintf("key%d", i%keys)).Add(ctx, 1)
				if err != nil {
					t.Errorf("while a node leaves: %v (%v)", err, failure.OutcomeOf(err))
					return
				}
				mu.Lock()
				counts[i%keys]++
				mu.Unlock()
			}
		})
	}
	if err := nodes[0].Close(ctx); err != nil {
		t.Error(err)
	}
	settle(ctx, t, nodes[1], 2)
	close(stop)
	all.Wait()
	for i := range keys {
		value, err := nodes[2].Counter(fmt.Sprintf("key%d", i)).Get(ctx)
		if err != nil || value != counts[i] {
			t.Errorf("key%d is %d, %d were acknowledged: %v", i, value, counts[i], err)
		}
	}
}

// TestNameTaken: a second process of one name says who has it.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	consul := testservice.Consul(t, consulproc.Options{})
	cfg := quern.Config{Consul: consul.Addr(), Cluster: "test", Node: "n1", Store: quern.StoreMemory, Shards: 4}
	first, err := quern.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	second, err := quern.Open(t.Context(), cfg)
	if err == nil {
		_ = second.Close(t.Context())
		t.Fatal("a name was taken twice")
	}
	if !strings.Contains(err.Error(), "another node has this name") || !strings.Contains(err.Error(), first.GRPCAddr()) {
		t.Errorf("got %v", err)
	}
	cfg.Node, cfg.Shards = "n2", 8
	if _, err := quern.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "number of shards") {
		t.Errorf("another number of shards: %v", err)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNoConsul: a node waits for Consul, and gives up with its context.
func TestNoConsul(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := quern.Open(ctx, quern.Config{Consul: "127.0.0.1:1", Cluster: "test", Store: quern.StoreMemory})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waiting for the authority") {
		t.Errorf("got %v", err)
	}
}
