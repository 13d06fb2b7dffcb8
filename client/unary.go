package client

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// unary sends an operation as a call of its own.
func (c *Client) unary(ctx context.Context, op *handles.Operation) error {
	f := feedbacks.Get().(*feedback) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	err := c.conn.Invoke(ctx, op.Method.Procedure, op.Request, op.Reply, f.options[:]...)
	header, sent := f.header, f.node.Addr != nil
	f.header, f.node = nil, peer.Peer{}
	feedbacks.Put(f)
	op.Origin = origin(header)
	if err != nil {
		return c.failure(ctx, err, sent)
	}
	return nil
}

// feedback is what gRPC tells of a call besides its reply. It is filled in
// until Invoke returns, and not later.
type feedback struct {
	header  metadata.MD
	node    peer.Peer // set where the call got a stream
	options [2]grpc.CallOption
}

var feedbacks = sync.Pool{New: func() any {
	f := new(feedback)
	f.options = [2]grpc.CallOption{grpc.Header(&f.header), grpc.Peer(&f.node)}
	return f
}}

// origin reads who answered; what is missing stays zero.
func origin(header metadata.MD) handles.Origin {
	node := header[wire.HeaderNode]
	if len(node) == 0 {
		return handles.Origin{}
	}
	o := handles.Origin{Node: node[0]}
	if v := header[wire.HeaderShard]; len(v) > 0 {
		shard, err := strconv.ParseUint(v[0], 10, 32)
		if err == nil {
			o.Shard = uint32(shard)
		}
	}
	if v := header[wire.HeaderEpoch]; len(v) > 0 {
		epoch, err := strconv.ParseUint(v[0], 10, 64)
		if err == nil {
			o.Epoch = epoch
		}
	}
	return o
}

// errNoCalls is the answer of a client that has nothing but a stream.
var errNoCalls = failure.New(failure.Unreachable, "this client has streams only")

// Status lists the nodes, as the node that is connected sees them.
func (c *Client) Status(ctx context.Context) (*quernv1.ClusterServiceStatusResponse, error) {
	if c.conn == nil {
		return nil, errNoCalls
	}
	var node peer.Peer
	out, err := c.cluster.Status(ctx, &quernv1.ClusterServiceStatusRequest{}, grpc.Peer(&node))
	if err != nil {
		return nil, c.failure(ctx, err, node.Addr != nil)
	}
	return out, nil
}

// Where tells which shard a key belongs to and which node owns it.
func (c *Client) Where(ctx context.Context, key string) (*quernv1.ClusterServiceWhereResponse, error) {
	if !utf8.ValidString(key) {
		return nil, failure.New(failure.InvalidKey, "the key is not valid UTF-8")
	}
	if c.conn == nil {
		return nil, errNoCalls
	}
	var node peer.Peer
	out, err := c.cluster.Where(ctx, &quernv1.ClusterServiceWhereRequest{Key: key}, grpc.Peer(&node))
	if err != nil {
		return nil, c.failure(ctx, err, node.Addr != nil)
	}
	return out, nil
}

// failure says what err means. sent tells whether the call got a stream on
// some connection: gRPC fills the peer in then, and only then. Without one not
// a byte of it has left.
func (c *Client) failure(ctx context.Context, err error, sent bool) *failure.Error {
	st := status.Convert(err)
	if ended := ctx.Err(); ended != nil {
		if e, ok := wire.FromStatus(st); ok && e.Outcome() == failure.NotDone {
			return e // the refusal arrived in time
		}
		return contextEnded(ended)
	}
	if e, ok := wire.FromStatus(st); ok {
		return remote(ctx, e)
	}
	switch {
	case !sent && st.Code() != codes.DeadlineExceeded:
		// Nothing of it has left.
		return failure.Wrap(&unreachable{err: err}, failure.Unreachable, "no node can be reached at %s: %s", c.addrs, st.Message())
	case st.Code() == codes.Unimplemented:
		return failure.Wrap(err, failure.UnknownMethod, "%s", st.Message())
	case st.Code() == codes.DeadlineExceeded:
		// gRPC's timer or the node's was a moment ahead of the context's.
		return contextEnded(context.DeadlineExceeded)
	default:
		return failure.Wrap(err, failure.OutcomeUnknown, "the call perhaps happened: %s", st.Message())
	}
}

// remote adapts a failure that a node answered with. The end of a context
// there is the end of this one's deadline, or nothing that the caller did.
func remote(ctx context.Context, e *failure.Error) *failure.Error {
	switch e.Reason {
	case failure.DeadlineExceeded:
		if _, ok := ctx.Deadline(); ok {
			return contextEnded(context.DeadlineExceeded)
		}
	case failure.Canceled:
	default:
		return e
	}
	return failure.New(failure.OutcomeUnknown, "the node gave up: %s", e.Message)
}

func contextEnded(err error) *failure.Error {
	if errors.Is(err, context.DeadlineExceeded) {
		return failure.Wrap(err, failure.DeadlineExceeded, "the deadline passed before the reply was there")
	}
	return failure.Wrap(err, failure.Canceled, "the caller gave up before the reply was there")
}

// unreachable is ErrUnreachable and what gRPC said of it.
type unreachable struct{ err error }

func (u *unreachable) Error() string { return ErrUnreachable.Error() + ": " + u.err.Error() }

func (u *unreachable) Unwrap() []error { return []error{ErrUnreachable, u.err} }
