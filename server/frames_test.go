package server_test

import (
	"context"
	"strings"
	"testing"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// large is a backend whose Status is large.
type large struct {
	answering
	store string
}

func (l *large) Status(context.Context) (*quernv1.ClusterServiceStatusResponse, error) {
	return &quernv1.ClusterServiceStatusResponse{Store: l.store}, nil
}

// BenchmarkFrames is what a message costs by its size and way: small, large
// requests, large replies.
func BenchmarkFrames(b *testing.B) {
	payload := strings.Repeat("x", 64<<10)
	conn := plain(b, start(b, &large{store: payload}).GRPCAddr())
	counters, clusters := quernv1.NewCounterServiceClient(conn), quernv1.NewClusterServiceClient(conn)
	add := func(key string) call {
		return func(ctx context.Context, _ string) error {
			_, err := counters.Add(ctx, &quernv1.CounterServiceAddRequest{Key: key})
			return err //nolint:wrapcheck // fails the benchmark
		}
	}
	status := func(ctx context.Context, _ string) error {
		_, err := clusters.Status(ctx, &quernv1.ClusterServiceStatusRequest{})
		return err //nolint:wrapcheck // fails the benchmark
	}
	b.Run("small", func(b *testing.B) { perCallers(b, add("k")) })
	b.Run("request=64KiB", func(b *testing.B) { perCallers(b, add(payload)) })
	b.Run("reply=64KiB", func(b *testing.B) { perCallers(b, status) })
}
