package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/internal/nodeproc"
	"github.com/quern-io/quern/internal/testservice"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestCompareRedisLean is TestCompareRedis with a client written in C on both
// sides: h2load (Debian's nghttp2-client) speaks unary gRPC, so that the two
// servers have the processors more nearly to themselves. It sends one body, so
// all adds go to one counter.
func TestCompareRedisLean(t *testing.T) {
	rounds, d := comparison(t)
	const callers = 64
	h2load, err := exec.LookPath("h2load")
	if err != nil {
		testservice.Impossible(t, "h2load", "not installed; a load generator of nghttp2")
	}
	scratch := t.TempDir()
	binary, err := nodeproc.Build(t.Context(), scratch, false)
	if err != nil {
		t.Fatal(err)
	}
	body := filepath.Join(scratch, "body")
	if err := os.WriteFile(body, frame(t, &quernv1.CounterServiceAddRequest{Key: "lean"}), 0o600); err != nil {
		t.Fatal(err)
	}
	redis, err := StartRedis(t.Context(), Always)
	if errors.Is(err, ErrNoRedis) {
		testservice.Lacking(t, "redis", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Close()
	to := startQuern(t, binary, filepath.Join(scratch, "data"), quern.StoreEmbedded)
	contender := func(connections int) Contender {
		return Contender{
			fmt.Sprintf("quern, embedded store, h2load, %d connections", connections),
			func(ctx context.Context, d time.Duration) (float64, error) {
				return runH2Load(ctx, h2load, to, body, connections, callers/connections, d)
			},
		}
	}
	for _, connections := range []int{1, 4} {
		result, err := Compare(t.Context(), rounds, d, contender(connections),
			Contender{"Redis " + redis.Version + ", appendfsync always", redis.For(callers, 1, 1)})
		report(t, result, err)
	}
}

// frame is a request as gRPC sends it: uncompressed, four bytes of length.
func frame(t *testing.T, request proto.Message) []byte {
	t.Helper()
	message, err := proto.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

var (
	h2Rate   = regexp.MustCompile(`finished in [^,]+, ([\d.]+) req/s`)
	h2Failed = regexp.MustCompile(`, (\d+) failed, (\d+) errored, (\d+) timeout`)
)

// runH2Load keeps streams of connections busy for d.
func runH2Load(ctx context.Context, program, addr, body string, connections, streams int, d time.Duration) (float64, error) {
	cmd := exec.CommandContext(ctx, program, "-D", fmt.Sprintf("%dms", d.Milliseconds()), "-t", "1",
		"-c", strconv.Itoa(connections), "-m", strconv.Itoa(streams),
		"-H", "content-type: application/grpc", "-H", "te: trailers", "-d", body,
		"http://"+addr+"/quern.v1.CounterService/Add")
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("peers: h2load: %w", err)
	}
	rate, failed := h2Rate.FindSubmatch(out), h2Failed.FindSubmatch(out)
	if rate == nil || failed == nil {
		return 0, fmt.Errorf("peers: h2load said %q", out)
	}
	for _, n := range failed[1:] {
		if string(n) != "0" {
			return 0, fmt.Errorf("peers: h2load had failures: %q", out)
		}
	}
	return strconv.ParseFloat(string(rate[1]), 64)
}
