package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/wire"
)

// meant refuses what another node has meant for somebody else: addresses are used
// again, and a lone node, or one of another cluster, would do whatever it is
// asked. It tells the caller who answers. A client, which means nobody, passes.
func (c *core) meant(ctx context.Context) *failure.Error {
	to := metadata.ValueFromIncomingContext(ctx, wire.HeaderTo)
	if len(to) == 0 {
		return nil
	}
	var cluster []byte
	if p, ok := c.backend.(Peer); ok {
		cluster = p.ClusterID()
	}
	self := wire.Identity(cluster, c.backend.Name())
	_ = grpc.SetHeader(ctx, metadata.Pairs(wire.HeaderBy, self)) // fails only for a call that is over
	if len(to) == 1 && to[0] == self {
		return nil
	}
	return failure.New(failure.NotOwner, "this is %s; the call is meant for %s", wire.Describe(self), wire.Describe(to[0]))
}
