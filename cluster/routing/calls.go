package routing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
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
	if e, ok := wire.FromStatus(status.Convert(err)); ok {
		return e
	}
	return failure.Wrap(err, failure.Unreachable, "the node at %s did not answer: %v", addr, err)
}

// call makes a call to a node, bounded by its context or callTimeout.
func call[R any](ctx context.Context, r *Router, addr string, do func(context.Context, *grpc.ClientConn) (R, error)) (out R, err error) {
	conn, done, err := r.conn(addr, false)
	if err != nil {
		return out, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if out, err = do(ctx, conn); err != nil {
		return out, callFailure(addr, err)
	}
	return out, nil
}

// Offer tells the node at addr which shards it will be left. It fails with what
// that node answers, or UNREACHABLE.
func (r *Router) Offer(ctx context.Context, addr string, in *quernv1.PeerServiceOfferRequest) error {
	_, err := call(ctx, r, addr, func(ctx context.Context, c *grpc.ClientConn) (*quernv1.PeerServiceOfferResponse, error) {
		return quernv1.NewPeerServiceClient(c).Offer(ctx, in)
	})
	return err
}

// Highest asks the node at addr for the highest epochs that it has seen. It fails
// as Offer does.
func (r *Router) Highest(ctx context.Context, addr string, in *quernv1.PeerServiceHighestRequest) ([]uint64, error) {
	out, err := call(ctx, r, addr, func(ctx context.Context, c *grpc.ClientConn) (*quernv1.PeerServiceHighestResponse, error) {
		return quernv1.NewPeerServiceClient(c).Highest(ctx, in)
	})
	return out.GetEpochs(), err
}

// routesOf asks the node at addr who owns what.
func (r *Router) routesOf(ctx context.Context, addr string, version uint64) (*quernv1.ClusterServiceRoutesResponse, error) {
	return call(ctx, r, addr, func(ctx context.Context, c *grpc.ClientConn) (*quernv1.ClusterServiceRoutesResponse, error) {
		return quernv1.NewClusterServiceClient(c).Routes(ctx, &quernv1.ClusterServiceRoutesRequest{Version: version})
	})
}
