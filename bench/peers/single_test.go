package peers

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/internal/nodeproc"
)

// TestCompareOneCaller holds the latency of a durable add by one caller alone
// to what it cannot do without: an empty unary call and one fdatasync of 4 KiB
// behind the end of a file. They take turns, call by call.
func TestCompareOneCaller(t *testing.T) {
	rounds, d := comparison(t)
	scratch := t.TempDir()
	binary, err := nodeproc.Build(t.Context(), scratch, false)
	if err != nil {
		t.Fatal(err)
	}
	to := startQuern(t, binary, filepath.Join(scratch, "data"), quern.StoreEmbedded)
	health := healthClient(t, to)
	stream, unary := connect(t, to, client.Options{}), connect(t, to, client.Options{Unary: true})
	add := func(c *client.Client) func() error {
		return func() error {
			_, err := c.Counter("alone").Add(t.Context(), 1)
			return err
		}
	}
	file, err := os.Create(filepath.Join(scratch, "appended"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	block := make([]byte, 4<<10)
	steps := []struct {
		name string
		do   func() error
	}{
		{"durable add over the stream", add(stream)},
		{"durable add by a unary call", add(unary)},
		{"empty unary call", func() error {
			_, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			return err
		}},
		{"append of 4 KiB and fdatasync", func() error {
			if _, err := file.Write(block); err != nil {
				return err
			}
			return fdatasync(file)
		}},
	}
	var ratios [2][]float64
	for range rounds {
		var p50 [4]time.Duration
		seen := make([]*hdrhistogram.Histogram, len(steps))
		for i := range seen {
			seen[i] = hdrhistogram.New(1, int64(time.Minute), 3)
		}
		for end := time.Now().Add(2 * d); time.Now().Before(end); {
			for i, s := range steps {
				began := time.Now()
				if err := s.do(); err != nil {
					t.Fatal(err)
				}
				_ = seen[i].RecordValue(int64(time.Since(began)))
			}
		}
		for i := range steps {
			p50[i] = time.Duration(seen[i].ValueAtQuantile(50))
		}
		ratios[0] = append(ratios[0], float64(p50[0])/float64(p50[1]))
		ratios[1] = append(ratios[1], float64(p50[1])/float64(p50[2]+p50[3]))
		for i, s := range steps {
			t.Logf("p50 of %d calls: %s %v", seen[i].TotalCount(), s.name, p50[i])
		}
	}
	for i, what := range []string{"stream over unary call", "unary add over empty call and fdatasync"} {
		slices.Sort(ratios[i])
		t.Logf("p50, %s: %.2f · %.2f · %.2f", what, ratios[i][0], ratios[i][len(ratios[i])/2], ratios[i][len(ratios[i])-1])
	}
}

// healthClient calls a node.
func healthClient(t *testing.T, addr string) grpc_health_v1.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return grpc_health_v1.NewHealthClient(conn)
}
