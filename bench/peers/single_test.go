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
// behind the end of a file. The three take turns, call by call.
func TestCompareOneCaller(t *testing.T) {
	rounds, d := comparison(t)
	scratch := t.TempDir()
	binary, err := nodeproc.Build(t.Context(), scratch, false)
	if err != nil {
		t.Fatal(err)
	}
	to := startQuern(t, binary, filepath.Join(scratch, "data"), quern.StoreEmbedded)
	health := healthClient(t, to)
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
		{"durable add", func() error {
			_, err := to.Counter("alone").Add(t.Context(), 1)
			return err
		}},
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
	var ratios []float64
	for range rounds {
		var p50 [3]time.Duration
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
		ratio := float64(p50[0]) / float64(p50[1]+p50[2])
		ratios = append(ratios, ratio)
		t.Logf("p50 of %d calls: %s %v, %s %v, %s %v: ratio %.2f", seen[0].TotalCount(),
			steps[0].name, p50[0], steps[1].name, p50[1], steps[2].name, p50[2], ratio)
	}
	slices.Sort(ratios)
	t.Logf("the add's p50 over the sum of the others': %.2f · %.2f · %.2f", ratios[0], ratios[len(ratios)/2], ratios[len(ratios)-1])
}

// healthClient calls the node that a client is connected to.
func healthClient(t *testing.T, to *client.Client) grpc_health_v1.HealthClient {
	t.Helper()
	where, err := to.Where(t.Context(), "alone")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(where.GetAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return grpc_health_v1.NewHealthClient(conn)
}
