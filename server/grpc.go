package server

import (
	"context"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

const (
	// maxHeaderBytes bounds the headers of a request on both listeners.
	maxHeaderBytes = 16 << 10
	// streamWorkers is the number of goroutines that are kept for calls: they
	// have grown their stacks already, which costs a new goroutine a tenth of
	// a small call. Calls beyond them get a goroutine each. More of them are
	// worse than few: their stacks shrink again while they wait.
	streamWorkers = 64
	// readMargin is how many times the largest message gRPC reads to be able
	// to refuse it with a reason. Beyond it stops reading and says
	// resource_exhausted by itself.
	readMargin = 4
	// minClientPing is how often a client may ping. Peers and the Go client
	// ping every few seconds to notice a dead node.
	minClientPing = time.Second
)

// newGRPC builds the gRPC server with all services.
func (s *Server) newGRPC() *grpc.Server {
	cfg := &s.cfg
	g := grpc.NewServer(
		grpc.Creds(newSniffer(s.takeConn)),
		grpc.MaxRecvMsgSize(min(cfg.MaxMessageBytes, math.MaxInt32/readMargin)*readMargin),
		grpc.ForceServerCodecV2(newGRPCCodec(cfg.MaxMessageBytes)),
		grpc.MaxConcurrentStreams(uint32(cfg.MaxStreams)), //nolint:gosec // bounded by withDefaults
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(cfg.HandshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
			// Half of it: a ping that is a little early must not cost the
			// connection.
			MinTime: minClientPing / 2, PermitWithoutStream: true,
		}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: cfg.KeepAlive, Timeout: cfg.KeepAlive}),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.UnknownServiceHandler(unknownMethod),
	)
	face := newGRPCFace()
	on := s.callers("grpc", face)
	registerCounters(g, newCounters(on))
	registerEntries(g, newEntries(on))
	registerLocks(g, newLocks(on))
	registerTransactions(g, newTransactions(on))
	registerClusters(g, newClusters(on))
	registerGrains(g, s.grains, s.cutConn)
	registerPeers(g, on, s.grains.peers)
	s.health.register(g)
	reflection.Register(g)
	return g
}

// registerCounters does what the generated registration does, with handlers
// that give a reason also to what does not decode.
func registerCounters(g *grpc.Server, s *counters) {
	desc := quernv1.CounterService_ServiceDesc
	desc.Methods = []grpc.MethodDesc{
		grpcMethod("Add", s.Add),
		grpcMethod("AddMany", s.AddMany),
		grpcMethod("Get", s.Get),
		grpcMethod("Set", s.Set),
		grpcMethod("GetAndSet", s.GetAndSet),
		grpcMethod("CompareAndSet", s.CompareAndSet),
		grpcMethod("Reset", s.Reset),
		grpcMethod("Expire", s.Expire),
	}
	desc.Streams = []grpc.StreamDesc{grpcWatch[quernv1.CounterServiceWatchRequest](s.watch)}
	g.RegisterService(&desc, s)
}

func registerEntries(g *grpc.Server, s *entries) {
	desc := quernv1.MapService_ServiceDesc
	desc.Methods = []grpc.MethodDesc{
		grpcMethod("Put", s.Put),
		grpcMethod("Get", s.Get),
		grpcMethod("Delete", s.Delete),
		grpcMethod("CompareAndSwap", s.CompareAndSwap),
	}
	desc.Streams = []grpc.StreamDesc{grpcWatch[quernv1.MapServiceWatchRequest](s.watch)}
	g.RegisterService(&desc, s)
}

func registerLocks(g *grpc.Server, s *locks) {
	desc := quernv1.LockService_ServiceDesc
	desc.Methods = []grpc.MethodDesc{
		grpcMethod("Acquire", s.Acquire),
		grpcMethod("Renew", s.Renew),
		grpcMethod("Release", s.Release),
		grpcMethod("ForceRelease", s.ForceRelease),
		grpcMethod("Get", s.Get),
	}
	desc.Streams = []grpc.StreamDesc{
		grpcWatch[quernv1.LockServiceWatchRequest](s.watch), grpcWatch[quernv1.LockServiceHoldRequest](s.hold),
	}
	g.RegisterService(&desc, s)
}

func registerTransactions(g *grpc.Server, s *transactions) {
	desc := quernv1.TransactionService_ServiceDesc
	desc.Methods = []grpc.MethodDesc{grpcMethod("Commit", s.Commit)}
	g.RegisterService(&desc, s)
}

func registerClusters(g *grpc.Server, s *clusters) {
	desc := quernv1.ClusterService_ServiceDesc
	desc.Methods = []grpc.MethodDesc{
		grpcMethod("Status", s.Status),
		grpcMethod("Where", s.Where),
		grpcMethod("Routes", s.Routes),
	}
	g.RegisterService(&desc, s)
}

func grpcMethod[Q any, PQ interface {
	*Q
	proto.Message
}, R any](name string, call func(context.Context, PQ) (*R, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(struct {
				received
				message Q
			})
			in.into = PQ(&in.message)
			if err := decode(&in.received); err != nil {
				return nil, err // of the transport: the client has it already
			}
			if in.refused != nil {
				return nil, in.refused
			}
			return call(ctx, &in.message)
		},
	}
}

// unknownMethod answers what no service has.
func unknownMethod(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return wire.Status(failure.New(failure.UnknownMethod, "this node has no method %s", method)).Err()
}

// grpcFace speaks gRPC.
type grpcFace struct {
	stopping, overloaded error
	// origins are the headers of the last answer of each shard (modulo their
	// number), since building them costs more than all else that a call
	// needs here.
	origins [256]atomic.Pointer[originHeaders]
}

type originHeaders struct {
	origin handles.Origin
	md     metadata.MD // shared by all calls: never changed
}

func newGRPCFace() *grpcFace {
	return &grpcFace{
		stopping:   wire.Status(errStopping).Err(),
		overloaded: wire.Status(errOverloaded).Err(),
	}
}

func (f *grpcFace) answered(ctx context.Context, o handles.Origin) {
	slot := &f.origins[o.Shard%uint32(len(f.origins))]
	h := slot.Load()
	if h == nil || h.origin != o {
		h = &originHeaders{origin: o, md: metadata.MD{
			wire.HeaderNode:  {o.Node},
			wire.HeaderShard: {strconv.FormatUint(uint64(o.Shard), 10)},
			wire.HeaderEpoch: {strconv.FormatUint(o.Epoch, 10)},
		}}
		slot.Store(h)
	}
	// SendHeader keeps the map where SetHeader would copy it. It fails only
	// for a call that is over.
	_ = grpc.SendHeader(ctx, h.md)
}

func (f *grpcFace) fail(_ context.Context, e *failure.Error) error {
	switch e {
	case errStopping:
		return f.stopping
	case errOverloaded:
		return f.overloaded
	default:
		return wire.Status(e).Err()
	}
}
