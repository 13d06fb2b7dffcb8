package quern

import (
	"context"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/owner"
	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// memberBackend shows a member of a cluster to its server. It is a server.Peer.
type memberBackend struct {
	*routing.Router

	member *member
}

// Status implements server.Backend.
func (b memberBackend) Status(ctx context.Context) (*quernv1.ClusterServiceStatusResponse, error) {
	return b.member.node.Status(ctx)
}

// Where implements server.Backend.
func (b memberBackend) Where(ctx context.Context, key string) (*quernv1.ClusterServiceWhereResponse, error) {
	return b.member.node.Where(ctx, key)
}

// Ready implements server.Backend.
func (b memberBackend) Ready() error { return b.member.ready() }

// Offer implements server.Peer.
func (b memberBackend) Offer(_ context.Context, in *quernv1.PeerServiceOfferRequest) (*quernv1.PeerServiceOfferResponse, error) {
	o, from, err := b.member.meant(in.GetTo(), in.GetFrom())
	if err != nil {
		return nil, err
	}
	offers := make([]owner.Offer, len(in.GetOffers()))
	for i, of := range in.GetOffers() {
		if len(of.GetHandoff()) != len(cluster.HandoffID{}) {
			return nil, failure.New(failure.InvalidField, "an offer's handoff has %d bytes, not %d", len(of.GetHandoff()), len(cluster.HandoffID{}))
		}
		offers[i] = owner.Offer{Shard: of.GetShard(), Epoch: of.GetEpoch(), Handoff: cluster.HandoffID(of.GetHandoff())}
	}
	if err := o.Offered(from, offers); err != nil {
		return nil, failure.Wrap(err, failure.Moving, "%v", err)
	}
	return &quernv1.PeerServiceOfferResponse{}, nil
}

// Highest implements server.Peer.
func (b memberBackend) Highest(_ context.Context, in *quernv1.PeerServiceHighestRequest) (*quernv1.PeerServiceHighestResponse, error) {
	o, from, err := b.member.meant(in.GetTo(), in.GetFrom())
	if err != nil {
		return nil, err
	}
	for _, shard := range in.GetShards() {
		if shard >= b.Shards() {
			return nil, failure.New(failure.InvalidField, "there is no shard %d", shard)
		}
	}
	return &quernv1.PeerServiceHighestResponse{Epochs: o.Highest(from, in.GetShards())}, nil
}

// meant returns the owner that a peer speaks to, and who that peer is.
func (m *member) meant(to, from []byte) (*owner.Owner, cluster.Incarnation, error) {
	if len(from) != len(cluster.Incarnation{}) || len(to) != len(from) {
		return nil, cluster.Incarnation{}, failure.New(failure.InvalidField, "incarnations have %d and %d bytes, not %d", len(to), len(from), len(cluster.Incarnation{}))
	}
	o := m.owner.Load()
	if o == nil || cluster.Incarnation(to) != m.node.incarnation {
		return nil, cluster.Incarnation{}, failure.New(failure.NotOwner, "this is the incarnation %s, not %s", m.node.incarnation, cluster.Incarnation(to))
	}
	return o, cluster.Incarnation(from), nil
}

// peers shows the other nodes to the owner.
type peers struct{ *member }

// Offer implements owner.Peers.
func (p peers) Offer(ctx context.Context, to cluster.Member, from cluster.Incarnation, offers []owner.Offer) error {
	in := &quernv1.PeerServiceOfferRequest{From: from[:], To: to.Incarnation[:]}
	for _, o := range offers {
		in.Offers = append(in.Offers, &quernv1.ShardOffer{Shard: o.Shard, Epoch: o.Epoch, Handoff: o.Handoff[:]})
	}
	return p.router.Offer(ctx, to.Name, to.Addr, in) //nolint:wrapcheck // says all there is to say
}

// Highest implements owner.Peers.
func (p peers) Highest(ctx context.Context, of cluster.Member, asks cluster.Incarnation, shards []uint32) ([]uint64, error) {
	in := &quernv1.PeerServiceHighestRequest{To: of.Incarnation[:], From: asks[:], Shards: shards}
	epochs, err := p.router.Highest(ctx, of.Name, of.Addr, in)
	if err == nil && len(epochs) != len(shards) {
		err = failure.New(failure.Internal, "%s told %d epochs of %d shards", of.Name, len(epochs), len(shards))
	}
	return epochs, err //nolint:wrapcheck // says all there is to say
}
