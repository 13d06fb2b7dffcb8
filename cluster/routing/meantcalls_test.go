package routing_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// alike are nodes that answer under the address of the node b of another cluster's
// world, by what is said of them.
func alike(t *testing.T, w *world) map[string]string {
	t.Helper()
	other := newWorld()
	other.cluster = [16]byte{2}
	elsewhere := other.start(t, "b")
	other.give("b", 1)
	lone := server.New(server.Config{Backend: loneNode{elsewhere}, Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err := lone.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lone.Stop(context.Background()) })
	return map[string]string{
		`the node "c"`:        w.start(t, "c").srv.GRPCAddr(),
		"of the cluster 0200": elsewhere.srv.GRPCAddr(),
		`the lone node "b"`:   lone.GRPCAddr(),
		"does not say":        mute(t),
	}
}

// loneNode is of no cluster.
type loneNode struct{ server.Backend }

// muteNode answers whatever it is asked, and does not say who it is.
type muteNode struct {
	quernv1.UnimplementedPeerServiceServer
	quernv1.UnimplementedClusterServiceServer
	quernv1.UnimplementedCounterServiceServer
}

func (muteNode) Offer(context.Context, *quernv1.PeerServiceOfferRequest) (*quernv1.PeerServiceOfferResponse, error) {
	return &quernv1.PeerServiceOfferResponse{}, nil
}

func (muteNode) Highest(context.Context, *quernv1.PeerServiceHighestRequest) (*quernv1.PeerServiceHighestResponse, error) {
	return &quernv1.PeerServiceHighestResponse{Epochs: []uint64{7}}, nil
}

func (muteNode) Routes(context.Context, *quernv1.ClusterServiceRoutesRequest) (*quernv1.ClusterServiceRoutesResponse, error) {
	return &quernv1.ClusterServiceRoutesResponse{ShardsTotal: shards}, nil
}

func (muteNode) Watch(_ *quernv1.CounterServiceWatchRequest, s grpc.ServerStreamingServer[quernv1.CounterServiceWatchResponse]) error {
	return s.Send(&quernv1.CounterServiceWatchResponse{Epoch: 9}) //nolint:wrapcheck // a test's
}

func mute(t *testing.T) string {
	t.Helper()
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	quernv1.RegisterPeerServiceServer(g, muteNode{})
	quernv1.RegisterClusterServiceServer(g, muteNode{})
	quernv1.RegisterCounterServiceServer(g, muteNode{})
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestCallsToAnother: what is asked of a node and reaches another one, under its
// address, is of no use, whatever that says.
func TestCallsToAnother(t *testing.T) {
	t.Parallel()
	w := newWorld()
	a := w.start(t, "a")
	epoch := uint64(0)
	for want, addr := range alike(t, w) {
		epoch++
		a.Heard(failure.Owner{Shard: 1, Node: "b", Addr: addr, Epoch: epoch})
		for name, call := range map[string]func(context.Context) error{
			"a watch": func(ctx context.Context) error {
				return a.Watch(ctx, &handles.Watch{Method: handles.CounterWatch, Key: keyOf(1, 0), Each: func(*handles.Event) error {
					return errors.New("told")
				}})
			},
			"an offer": func(ctx context.Context) error {
				return a.Router.Offer(ctx, "b", addr, &quernv1.PeerServiceOfferRequest{})
			},
			"a question for epochs": func(ctx context.Context) error {
				_, err := a.Router.Highest(ctx, "b", addr, &quernv1.PeerServiceHighestRequest{Shards: []uint32{1}})
				return err
			},
			"a question for owners": func(ctx context.Context) error { return a.AskRoutes(ctx, "b", addr) },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			err := call(ctx)
			cancel()
			if !errors.Is(err, failure.Unreachable) {
				t.Errorf("%s, where %s: %v", name, want, err)
			} else if unserved := strings.Contains(want, "lone") && strings.Contains(err.Error(), "does not say"); !unserved && !strings.Contains(err.Error(), want) {
				t.Errorf("%s, where %s: %v", name, want, err)
			}
		}
	}
	a.Heard(failure.Owner{Shard: 1, Node: "c", Addr: w.nodes["c"].srv.GRPCAddr(), Epoch: 100})
	if err := a.AskRoutes(t.Context(), "c", w.nodes["c"].srv.GRPCAddr()); err != nil {
		t.Errorf("who is meant: %v", err)
	}
}

// TestMeantForAnother: a node refuses what is meant for another one, and says who it
// is. Clients mean nobody.
func TestMeantForAnother(t *testing.T) {
	t.Parallel()
	w := newWorld()
	n := w.start(t, "a")
	w.give("a", 1)
	conn, err := grpc.NewClient(n.srv.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	self := wire.Identity(inCluster[:], "a")
	for to, want := range map[string]bool{
		"": true, self: true, wire.Identity(inCluster[:], "b"): false, wire.Identity(nil, "a"): false, "garbage": false,
	} {
		for name, call := range map[string]func(context.Context, *metadata.MD) error{
			"Routes": func(ctx context.Context, header *metadata.MD) error {
				_, err := quernv1.NewClusterServiceClient(conn).Routes(ctx, &quernv1.ClusterServiceRoutesRequest{}, grpc.Header(header))
				return err //nolint:wrapcheck // a test's
			},
			"Offer": func(ctx context.Context, header *metadata.MD) error {
				_, err := quernv1.NewPeerServiceClient(conn).Offer(ctx, &quernv1.PeerServiceOfferRequest{}, grpc.Header(header))
				return err //nolint:wrapcheck // a test's
			},
			"Highest": func(ctx context.Context, header *metadata.MD) error {
				_, err := quernv1.NewPeerServiceClient(conn).Highest(ctx, &quernv1.PeerServiceHighestRequest{Shards: []uint32{1}}, grpc.Header(header))
				return err //nolint:wrapcheck // a test's
			},
			"Watch": func(ctx context.Context, header *metadata.MD) error {
				s, err := quernv1.NewCounterServiceClient(conn).Watch(ctx, &quernv1.CounterServiceWatchRequest{Key: keyOf(1, 0)})
				if err == nil {
					_, err = s.Recv()
					*header, _ = s.Header()
				}
				return err //nolint:wrapcheck // a test's
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			if to != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, wire.HeaderTo, to)
			}
			var header metadata.MD
			err := call(ctx, &header)
			cancel()
			e, _ := wire.FromStatus(status.Convert(err))
			if want != (err == nil) || !want && !errors.Is(e, failure.NotOwner) {
				t.Errorf("%s for %q: %v", name, to, err)
			}
			if by := header.Get(wire.HeaderBy); (to != "") != (len(by) == 1 && by[0] == self) {
				t.Errorf("%s for %q is answered by %q", name, to, by)
			}
		}
	}
}
