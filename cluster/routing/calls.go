package routing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

const (
	// callTimeout bounds a call to another node that has no deadline.
	callTimeout = 2 * time.Second
	// connWatches is how many watches share a connection: a node takes 1,024.
	connWatches = 1_000
)

// caller has the gRPC connections to one node. They are made when they are needed.
type caller struct {
	conns   []*grpc.ClientConn
	watches []int // of each
}

// errEnded is the error of what is asked of a router that has ended.
var errEnded = errors.New("routing: stopped")

// conn returns a connection to a node. Where it is for a watch it counts as one
// until done is called.
func (r *Router) conn(addr string, watch bool) (_ *grpc.ClientConn, done func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil, nil, errEnded
	}
	c := r.calls[addr]
	if c == nil {
		c = new(caller)
		r.calls[addr] = c
	}
	i := 0
	for watch && i < len(c.conns) && c.watches[i] >= connWatches {
		i++
	}
	if i == len(c.conns) {
		conn, err := grpc.NewClient("passthrough:///"+addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(peerFrame)))
		if err != nil {
			return nil, nil, fmt.Errorf("routing: %w", err)
		}
		c.conns, c.watches = append(c.conns, conn), append(c.watches, 0)
	}
	if !watch {
		return c.conns[i], func() {}, nil
	}
	c.watches[i]++
	return c.conns[i], func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		c.watches[i]--
	}, nil
}

// closeCalls ends all calls.
func (r *Router) closeCalls() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.calls {
		for _, conn := range c.conns {
			_ = conn.Close()
		}
	}
	clear(r.calls)
}

// forget closes the connections to a node that has left.
func (r *Router) forget(addr string) {
	r.mu.Lock()
	c := r.calls[addr]
	delete(r.calls, addr)
	r.mu.Unlock()
	if c == nil {
		return
	}
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// callFailure is a call's error as a failure: UNREACHABLE where no node has said
// anything.
func callFailure(addr string, err error) error {
	if e, ok := errors.AsType[*failure.Error](err); ok {
		return e
	}
	if e, ok := wire.FromStatus(status.Convert(err)); ok {
		return e
	}
	return failure.Wrap(err, failure.Unreachable, "the node at %s did not answer: %v", addr, err)
}

// call makes a call to a node, bounded by its context or callTimeout.
func call[R any](ctx context.Context, r *Router, to peerKey, do func(context.Context, *grpc.ClientConn, grpc.CallOption) (*R, error)) (*R, error) {
	conn, done, err := r.conn(to.addr, false)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(r.meaning(ctx, to), callTimeout)
	defer cancel()
	var header metadata.MD
	out, err := do(ctx, conn, grpc.Header(&header))
	if err := r.answeredBy(header, to, err); err != nil {
		return nil, callFailure(to.addr, err)
	}
	return out, nil
}

// meaning puts into a call whom it is meant for.
func (r *Router) meaning(ctx context.Context, to peerKey) context.Context {
	return metadata.AppendToOutgoingContext(ctx, wire.HeaderTo, wire.Identity(r.ClusterID(), to.node))
}

// answeredBy is the end of a call: err, if it was answered by the node that was
// meant. Nothing that another one says is of any use, its errors included.
func (r *Router) answeredBy(header metadata.MD, to peerKey, err error) error {
	meant, by := wire.Identity(r.ClusterID(), to.node), header.Get(wire.HeaderBy)
	switch {
	case len(by) == 1 && by[0] == meant:
		return err
	case len(by) > 0:
		return failure.New(failure.Unreachable, "%s was meant at %s; %s answers there", wire.Describe(meant), to.addr, wire.Describe(by[0]))
	case err == nil || said(err):
		return failure.New(failure.Unreachable, "%s was meant at %s; who answers there does not say who it is", wire.Describe(meant), to.addr)
	default:
		return err // nobody has answered
	}
}

// said reports whether an error is what some node has answered.
func said(err error) bool {
	_, ok := wire.FromStatus(status.Convert(err))
	return ok
}

// Offer tells a node, by its name and address, which shards it will be left. It
// fails with what that node answers, or UNREACHABLE, also where another one
// answers.
func (r *Router) Offer(ctx context.Context, node, addr string, in *quernv1.PeerServiceOfferRequest) error {
	_, err := call(ctx, r, peerKey{node, addr}, func(ctx context.Context, c *grpc.ClientConn, o grpc.CallOption) (*quernv1.PeerServiceOfferResponse, error) {
		return quernv1.NewPeerServiceClient(c).Offer(ctx, in, o)
	})
	return err
}

// Highest asks a node for the highest epochs that it has seen. It fails as Offer
// does.
func (r *Router) Highest(ctx context.Context, node, addr string, in *quernv1.PeerServiceHighestRequest) ([]uint64, error) {
	out, err := call(ctx, r, peerKey{node, addr}, func(ctx context.Context, c *grpc.ClientConn, o grpc.CallOption) (*quernv1.PeerServiceHighestResponse, error) {
		return quernv1.NewPeerServiceClient(c).Highest(ctx, in, o)
	})
	return out.GetEpochs(), err
}

// routesOf asks a node who owns what.
func (r *Router) routesOf(ctx context.Context, to peerKey, version uint64) (*quernv1.ClusterServiceRoutesResponse, error) {
	return call(ctx, r, to, func(ctx context.Context, c *grpc.ClientConn, o grpc.CallOption) (*quernv1.ClusterServiceRoutesResponse, error) {
		return quernv1.NewClusterServiceClient(c).Routes(ctx, &quernv1.ClusterServiceRoutesRequest{Version: version}, o)
	})
}
