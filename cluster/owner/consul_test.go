package owner_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/consul"
	"github.com/quern-io/quern/cluster/owner"
	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/testservice"
)

// agentNode is a node on a real Consul. It serves, and counts when.
type agentNode struct {
	owner *owner.Owner
	mu    sync.Mutex
	until map[uint32]time.Duration
	began time.Time
	// news has something in it when the node begins to serve.
	news chan struct{}
}

func (r *agentNode) clock() time.Duration { return time.Since(r.began) }

func (r *agentNode) Serve(s owner.Serving) {
	r.Extend([]uint32{s.Shard}, s.Until)
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *agentNode) Extend(shards []uint32, until time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, shard := range shards {
		r.until[shard] = until
	}
}

func (r *agentNode) Stop(shard uint32, _ uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.until, shard)
}

func (r *agentNode) Drain(_ context.Context, shard uint32, epoch uint64) error {
	r.Stop(shard, epoch)
	return nil
}

func (r *agentNode) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, until := range r.until {
		if r.clock() < until {
			n++
		}
	}
	return n
}

// direct reaches the nodes of this process.
type direct map[cluster.Incarnation]*agentNode

func (d direct) Offer(_ context.Context, to cluster.Member, from cluster.Incarnation, offers []owner.Offer) error {
	if d[to.Incarnation] == nil {
		return errNoPeer
	}
	return d[to.Incarnation].owner.Offered(from, offers)
}

func (d direct) Highest(_ context.Context, of cluster.Member, asks cluster.Incarnation, shards []uint32) ([]uint64, error) {
	if d[of.Incarnation] == nil {
		return nil, errNoPeer
	}
	return d[of.Incarnation].owner.Highest(asks, shards), nil
}

// instant is a shared store without any delay.
type instant struct{ *rows }

func (s instant) Raise(_ context.Context, requests []owner.EpochRaise) ([]owner.EpochRaised, error) {
	return s.raise(requests), nil
}

// TestConsul: three owners on a real Consul; one that is gone without a word is
// replaced within 5 s, and one that leaves within 1 s.
func TestConsul(t *testing.T) {
	t.Parallel()
	agent := testservice.Consul(t, consulproc.Options{})
	const shards = 256
	store, peers, news, began := instant{newRows()}, direct{}, make(chan struct{}, 1), time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var nodes []*agentNode
	for _, name := range []string{"a", "b", "c"} {
		a, err := consul.New(consul.Config{Cluster: "c", Address: agent.Addr()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(a.Close)
		n := &agentNode{until: make(map[uint32]time.Duration), began: began, news: news}
		m := cluster.Member{Name: name, Incarnation: cluster.NewIncarnation(), Addr: net.JoinHostPort(name, "7411"), Protocol: 1}
		n.owner, err = owner.New(owner.Config{
			Authority: a, Member: m, Record: cluster.Record{Shards: shards}, Store: store, Shards: n,
			Peers: peers, Shared: true, Clock: n.clock,
		})
		if err != nil {
			t.Fatal(err)
		}
		peers[m.Incarnation] = n
		nodes = append(nodes, n)
	}
	var starting sync.WaitGroup
	for _, n := range nodes {
		starting.Go(func() {
			if err := n.owner.Start(ctx); err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(func() { _ = n.owner.Close(context.Background()) })
	}
	starting.Wait()
	served := func(nodes ...*agentNode) time.Duration {
		t.Helper()
		began := time.Now()
		for {
			total, even := 0, true
			for _, n := range nodes {
				count := n.count()
				total += count
				even = even && count >= shards/len(nodes)
			}
			if total == shards && even {
				return time.Since(began)
			}
			select {
			case <-news:
			case <-ctx.Done():
				t.Fatalf("of %d shards %d are served", shards, total)
			}
		}
	}
	t.Logf("three at once serve after %v", served(nodes...))
	_ = nodes[0].owner.Close(ctx)
	took := served(nodes[1:]...)
	t.Logf("without one that was gone: %v", took)
	if took > 5*time.Second {
		t.Errorf("the shards of one that was gone were served after %v", took)
	}
	start := time.Now()
	if err := nodes[1].owner.Leave(ctx); err != nil && !errors.Is(err, owner.ErrNotGiven) {
		t.Error(err)
	}
	served(nodes[2])
	t.Logf("without one that left: %v", time.Since(start))
}
