package clustertest_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/clustertest"
)

// TestIdleNodesAskLittle lets three nodes hold 256 shards for a minute at the
// default cadence, and counts what they ask.
func TestIdleNodesAskLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const nodes, shards = 3, 256
		twin := clustertest.New()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range uint32(nodes) {
			n := &idler{T: t, authority: twin.Connect("c", 0)}
			n.join(ctx, i*shards/nodes, (i+1)*shards/nodes)
			n.run(ctx, &wg)
		}
		sleep(time.Minute) // what comes of the start is over
		before := twin.Requests()
		sleep(time.Minute)
		cancel()
		wg.Wait()
		if perSecond := float64(twin.Requests()-before) / 60 / nodes; perSecond > 6 {
			t.Errorf("an idle node asks %.2f times a second", perSecond)
		}
	})
}

// idler is a node that keeps what it has.
type idler struct {
	*testing.T

	authority cluster.Authority
	session   cluster.Session
	shards    []uint32
}

func (n *idler) join(ctx context.Context, from, to uint32) {
	n.Helper()
	self := cluster.Member{Name: "n", Incarnation: cluster.NewIncarnation(), Addr: "127.0.0.1:7411"}
	var err error
	if n.session, err = n.authority.Join(ctx, self, cluster.DefaultLockDelay); err != nil {
		n.Fatal(err)
	}
	var locks []cluster.LockWrite
	for s := from; s < to; s++ {
		n.shards = append(n.shards, s)
		locks = append(locks, cluster.LockWrite{Shard: s})
	}
	created, err := n.authority.Create(ctx, locks)
	if err != nil {
		n.Fatal(err)
	}
	for i := range locks {
		locks[i].Index = created[i].Index
	}
	if _, err := n.authority.Acquire(ctx, n.session, locks); err != nil {
		n.Fatal(err)
	}
}

func (n *idler) run(ctx context.Context, wg *sync.WaitGroup) {
	const wait = 30 * time.Second
	members, table := cluster.Watch{Wait: wait}, cluster.Watch{Wait: wait}
	n.every(ctx, wg, cluster.DefaultProofEvery, func() error {
		results, err := n.authority.Prove(ctx, n.session, n.shards)
		for _, r := range results {
			if err == nil && r.Verdict != cluster.Done {
				n.Errorf("shard %d is %v", r.Shard, r.Verdict)
			}
		}
		return err
	})
	n.every(ctx, wg, cluster.DefaultCheckTTL/3, func() error { return n.authority.KeepAlive(ctx, n.session) })
	n.every(ctx, wg, 0, func() error {
		got, err := n.authority.Members(ctx, members)
		members.Index = got.Index
		return err
	})
	n.every(ctx, wg, 0, func() error {
		got, err := n.authority.Table(ctx, table)
		table.Index = got.Index
		return err
	})
}

// every makes a call again and again until ctx ends.
func (n *idler) every(ctx context.Context, wg *sync.WaitGroup, period time.Duration, call func() error) {
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := call(); err != nil && ctx.Err() == nil {
				n.Error(err)
				return
			}
			sleep(period)
		}
	})
}
