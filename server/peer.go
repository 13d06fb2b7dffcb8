package server

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Peer is a Backend that is one of several nodes. Where a server's backend is
// one, other nodes can pass on to it what their clients have sent, and the
// backend passes on what comes here.
type Peer interface {
	// Again takes back an operation that was submitted from the network and has
	// come to this end. It returns nil where it does, and done is called once
	// more, later; else what the client is told. It must not block, and runs
	// where Completed would.
	Again(op *handles.Operation, deadline time.Time, done handles.Completer, err error) (instead error)
	// OpenSessionHere and CloseSessionHere are OpenSession and CloseSession
	// where the shard is this node's, else NOT_OWNER or MOVING.
	OpenSessionHere(shard uint32, done func(id string, epoch uint64, err error))
	CloseSessionHere(shard uint32, id string, done func(epoch uint64, err error))
	// ClusterID is the id of the cluster, which nodes that connect look for.
	ClusterID() []byte
	// Offer and Highest are PeerService's.
	Offer(ctx context.Context, in *quernv1.PeerServiceOfferRequest) (*quernv1.PeerServiceOfferResponse, error)
	Highest(ctx context.Context, in *quernv1.PeerServiceHighestRequest) (*quernv1.PeerServiceHighestResponse, error)
}

const (
	// streamRefs is how many sessions of others a stream may give numbers to.
	streamRefs = 16_384
	// peerOpens is how many sessions a node may ask for in a minute for each
	// shard: as many as a shard has. It bounds those of its clients itself.
	peerOpens = 8192
)

// speaker is what a stream knows of a client that speaks for others. It belongs
// to the reader.
type speaker struct {
	node string   // empty: no node
	refs []*named // by number
}

// Node implements frame.Requests.
func (s *stream) Node(name string) error {
	s.speaks.node = name
	return nil
}

// Leave implements frame.Requests.
func (s *stream) Leave(id uint64) error {
	s.submit()
	s.mu.Lock()
	cancel := s.waits[id]
	s.mu.Unlock()
	if cancel != nil {
		cancel(false)
	}
	return nil
}

// refSession gives a number to a session.
func (s *stream) refSession(shard, ref uint32, id []byte) error {
	if ref > streamRefs {
		return failure.New(failure.InvalidField, "a session has the number %d, at most %d are taken", ref, streamRefs)
	}
	for len(s.speaks.refs) <= int(ref) {
		s.speaks.refs = append(s.speaks.refs, nil)
	}
	s.grains.names.release(s.speaks.refs[ref])
	s.speaks.refs[ref] = nil
	if len(id) > 0 {
		s.speaks.refs[ref] = s.grains.names.take(shard, string(id))
	}
	return nil
}

// session finds the session of an operation, nil for none: what is kept of one is
// its shard's alone.
func (s *stream) session(shard, ref uint32) *named {
	switch {
	case ref == 0:
		return s.side(shard).session
	case int(ref) < len(s.speaks.refs):
		if n := s.speaks.refs[ref]; n != nil && n.shard == shard {
			return n
		}
	}
	return nil
}

// mayOpen is how many sessions the stream may ask for in a minute.
func (s *stream) mayOpen() uint32 {
	if s.speaks.node != "" && s.grains.peers != nil {
		return peerOpens * s.grains.backend.Shards()
	}
	return streamOpens * s.grains.backend.Shards()
}

// opener and closer pass nothing on that a node has passed on.
func (s *stream) opener() func(uint32, func(string, uint64, error)) {
	if s.speaks.node != "" && s.grains.peers != nil {
		return s.grains.peers.OpenSessionHere
	}
	return s.grains.backend.OpenSession
}

func (s *stream) closer() func(uint32, string, func(uint64, error)) {
	if s.speaks.node != "" && s.grains.peers != nil {
		return s.grains.peers.CloseSessionHere
	}
	return s.grains.backend.CloseSession
}

// again lets the backend take back what it has just refused: then it returns nil,
// and o is no longer the caller's.
func (s *stream) again(o *streamOp, err error) error {
	if s.grains.peers == nil {
		return err
	}
	return s.grains.peers.Again(&o.sub.Op, o.sub.Deadline, o, err) //nolint:wrapcheck // for the client
}

// watchHops is how many nodes have passed on a watch.
func watchHops(ctx context.Context) uint32 {
	md, _ := metadata.FromIncomingContext(ctx)
	hops := md.Get(wire.HeaderHops)
	if len(hops) == 0 {
		return 0
	}
	n, err := strconv.ParseUint(hops[0], 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// Routes implements ClusterService.
func (s *clusters) Routes(ctx context.Context, in *quernv1.ClusterServiceRoutesRequest) (out *quernv1.ClusterServiceRoutesResponse, err error) {
	var nobody handles.Origin
	err = s.routes.runMeant(ctx, &nobody, workFunc(func(ctx context.Context, b Backend) (err error) {
		out, err = b.Routes(ctx, in.GetVersion())
		return err //nolint:wrapcheck // mapped by its caller
	}))
	return out, err
}

// runMeant is run for what nodes ask each other. Who is not meant says so before
// anything else, however busy it is.
func (c *caller) runMeant(ctx context.Context, origin *handles.Origin, w work) error {
	if refused := c.meant(ctx); refused != nil {
		c.metrics.fail(refused.Reason)
		return c.face.fail(ctx, refused)
	}
	return c.run(ctx, origin, w)
}

var (
	peerOffer   = &handles.Method{Kind: "peer", Name: "Offer", Procedure: quernv1.PeerService_Offer_FullMethodName}
	peerHighest = &handles.Method{Kind: "peer", Name: "Highest", Procedure: quernv1.PeerService_Highest_FullMethodName}
)

// peers is PeerService, over gRPC alone.
type peers struct {
	quernv1.UnimplementedPeerServiceServer
	to             Peer
	offer, highest *caller
}

// registerPeers registers PeerService where the backend is one of several nodes.
func registerPeers(g *grpc.Server, on func(*handles.Method) *caller, to Peer) {
	if to == nil {
		return
	}
	s := &peers{to: to, offer: on(peerOffer), highest: on(peerHighest)}
	desc := quernv1.PeerService_ServiceDesc
	desc.Methods = []grpc.MethodDesc{grpcMethod("Offer", s.Offer), grpcMethod("Highest", s.Highest)}
	g.RegisterService(&desc, s)
}

// Offer implements PeerService.
func (s *peers) Offer(ctx context.Context, in *quernv1.PeerServiceOfferRequest) (out *quernv1.PeerServiceOfferResponse, err error) {
	var nobody handles.Origin
	err = s.offer.runMeant(ctx, &nobody, workFunc(func(ctx context.Context, _ Backend) (err error) {
		out, err = s.to.Offer(ctx, in)
		return err //nolint:wrapcheck // mapped by its caller
	}))
	return out, err
}

// Highest implements PeerService.
func (s *peers) Highest(ctx context.Context, in *quernv1.PeerServiceHighestRequest) (out *quernv1.PeerServiceHighestResponse, err error) {
	var nobody handles.Origin
	err = s.highest.runMeant(ctx, &nobody, workFunc(func(ctx context.Context, _ Backend) (err error) {
		out, err = s.to.Highest(ctx, in)
		return err //nolint:wrapcheck // mapped by its caller
	}))
	return out, err
}
