package quern

import (
	"context"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/cluster/local"
)

// claim takes all shards, for a node that is alone.
func (n *Node) claim(ctx context.Context) error {
	var claims []actors.Claim
	for _, c := range local.Claims(n.info.Shards, time.Now()) {
		claims = append(claims, actors.Claim{Shard: c.Shard, Epoch: c.Epoch})
	}
	if n.cfg.postgres() {
		return n.lease(ctx, claims)
	}
	return n.runtime.Activate(ctx, claims) //nolint:wrapcheck // says all there is to say
}

// lease claims shards of a store that others can open. That none of them does is
// known for a while at a time, see proven.
func (n *Node) lease(ctx context.Context, claims []actors.Claim) error {
	for left := claims; len(left) > 0; {
		asked := make([]actors.Raise, len(left))
		for i, c := range left {
			asked[i] = actors.Raise{Shard: c.Shard, Epoch: c.Epoch, Incarnation: n.incarnation}
		}
		raised, err := n.runtime.Raise(ctx, asked)
		if err != nil {
			return err //nolint:wrapcheck // says all there is to say
		}
		left = left[:0]
		for i, r := range raised {
			switch {
			case r.Err != nil:
				return r.Err
			case r.OK:
				n.runtime.Serve(actors.Lease{
					Shard: asked[i].Shard, Epoch: asked[i].Epoch, Time: r.Time, Until: time.Duration(n.trusted.Load()),
				})
			default:
				left = append(left, actors.Claim{Shard: asked[i].Shard, Epoch: r.Epoch + 1})
			}
		}
	}
	return nil
}

// proven hears until when the store is this node's alone, by the clock that runs
// on while the process is stopped. It answers for nothing beyond that.
func (n *Node) proven(until time.Duration) {
	n.trusted.Store(int64(until))
	r := n.running.Load()
	if r == nil {
		return
	}
	shards := make([]uint32, n.info.Shards)
	for i := range shards {
		shards[i] = uint32(i)
	}
	r.Extend(shards, until)
}

// lost hears that the store is perhaps another's. Nothing serves before the
// runtime is there.
func (n *Node) lost(err error) {
	if r := n.running.Load(); r != nil {
		r.Reraise(err)
	}
}
