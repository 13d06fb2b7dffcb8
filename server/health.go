package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// healthPoll is how often a watch of the health looks for a change.
const healthPoll = 500 * time.Millisecond

// health is grpc.health.v1. It asks the backend at every check instead of
// keeping a status, so that it is never out of date, and it ends its watches
// when the server stops, so that they do not hold up its end.
type health struct {
	healthpb.UnimplementedHealthServer
	ready func() error
	// stopping is closed when the server begins to stop.
	stopping <-chan struct{}
}

func (h *health) register(g *grpc.Server) { healthpb.RegisterHealthServer(g, h) }

// state returns the status of a service; all of them share it.
func (h *health) state(service string) healthpb.HealthCheckResponse_ServingStatus {
	switch service {
	case "", quernv1.CounterService_ServiceDesc.ServiceName, quernv1.MapService_ServiceDesc.ServiceName,
		quernv1.LockService_ServiceDesc.ServiceName, quernv1.ClusterService_ServiceDesc.ServiceName:
	default:
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	}
	if h.ready() != nil {
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
	return healthpb.HealthCheckResponse_SERVING
}

// Check implements grpc.health.v1.
func (h *health) Check(_ context.Context, in *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	state := h.state(in.GetService())
	if state == healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &healthpb.HealthCheckResponse{Status: state}, nil
}

// Watch implements grpc.health.v1: the current status, then its changes, at
// most half a second late.
func (h *health) Watch(in *healthpb.HealthCheckRequest, stream grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	tick := time.NewTicker(healthPoll)
	defer tick.Stop()
	last := healthpb.HealthCheckResponse_ServingStatus(-1)
	for {
		if now := h.state(in.GetService()); now != last {
			last = now
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err //nolint:wrapcheck // a status already
			}
		}
		select {
		case <-tick.C:
		case <-h.stopping:
			if last == healthpb.HealthCheckResponse_SERVING {
				continue // tells that it is not serving any more, then ends
			}
			return status.Error(codes.Unavailable, errStopping.Message)
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}
