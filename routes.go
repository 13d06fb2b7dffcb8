package quern

import (
	"context"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/routing"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Routes tells who owns each shard.
func (n *Node) Routes(_ context.Context, version uint64) (*quernv1.ClusterServiceRoutesResponse, error) {
	state := cluster.Ready
	if n.draining.Load() {
		state = cluster.Draining
	}
	out := &quernv1.ClusterServiceRoutesResponse{
		ShardsTotal: n.info.Shards,
		Members:     []*quernv1.ClusterMember{{Node: n.cfg.Node, Addr: n.advertised(), Http: n.HTTPAddr(), State: string(state)}},
	}
	for shard := range n.info.Shards {
		if epoch, serving := n.runtime.Epoch(shard); serving {
			out.Routes = append(out.Routes, &quernv1.ShardRoute{Shard: shard, Node: n.cfg.Node, Epoch: epoch})
		}
	}
	return routing.Seal(out, version), nil
}
