//go:build long

package longtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/nodeproc"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// neighbourEnv makes this program a neighbour of the given kind, of the node at
// neighbourAddrEnv, until it is killed.
const (
	neighbourEnv     = "QUERN_TEST_NEIGHBOUR"
	neighbourAddrEnv = "QUERN_TEST_NEIGHBOUR_ADDR"
)

// neighbours are the ways to be a bad one.
var neighbours = map[string]func(addr string) error{
	"a million tiny frames": func(addr string) error {
		return floods(addr, 1, func(id uint64) *quernv1.GrainServiceStreamRequest {
			return &quernv1.GrainServiceStreamRequest{Operations: []*quernv1.StreamOperation{get(id)}}
		})
	},
	"empty frames": func(addr string) error {
		return floods(addr, 4, func(uint64) *quernv1.GrainServiceStreamRequest { return &quernv1.GrainServiceStreamRequest{} })
	},
	"large frames without end": func(addr string) error {
		return floods(addr, 4, func(id uint64) *quernv1.GrainServiceStreamRequest {
			m := &quernv1.GrainServiceStreamRequest{}
			for i := range uint64(10_000) {
				m.Operations = append(m.Operations, get(id*10_000+i+1))
			}
			return m
		})
	},
	"sessions without end": func(addr string) error {
		return floods(addr, 4, func(id uint64) *quernv1.GrainServiceStreamRequest {
			return &quernv1.GrainServiceStreamRequest{OpenSessions: []uint32{uint32(id % 256)}}
		})
	},
	"10,000 idle connections": func(addr string) error {
		for range 10_000 {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return err
			}
			// The preface of HTTP/2 and empty settings.
			if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")); err != nil {
				return err
			}
		}
		select {}
	},
}

func TestMain(m *testing.M) {
	if kind := os.Getenv(neighbourEnv); kind != "" {
		fmt.Fprintln(os.Stderr, kind, neighbours[kind](os.Getenv(neighbourAddrEnv)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func get(id uint64) *quernv1.StreamOperation {
	b, err := proto.Marshal(&quernv1.CounterServiceGetRequest{Key: "neighbour:" + strconv.FormatUint(id%1000, 10)})
	if err != nil {
		panic(err)
	}
	return &quernv1.StreamOperation{Id: id, Method: 1, Request: b}
}

// floods sends frames over so many connections as fast as they are taken, and
// reads what comes back.
func floods(addr string, connections int, next func(id uint64) *quernv1.GrainServiceStreamRequest) error {
	ended := make(chan error, connections)
	for range connections {
		go func() { ended <- flood(addr, next) }()
	}
	return <-ended
}

func flood(addr string, next func(id uint64) *quernv1.GrainServiceStreamRequest) error {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		return err
	}
	stream, err := quernv1.NewGrainServiceClient(conn).Stream(context.Background(), grpc.ForceCodecV2(wire.NewCodec()))
	if err != nil {
		return err
	}
	go func() {
		var raw wire.Frame
		for stream.RecvMsg(&raw) == nil {
		}
	}()
	first := &quernv1.GrainServiceStreamRequest{Methods: []*quernv1.StreamMethod{{Ref: 1, Procedure: handles.CounterGet.Procedure}}}
	for id := uint64(1); ; id++ {
		if err := stream.Send(first); err != nil {
			return err
		}
		first = next(id)
	}
}

// starved is a p99 that says that others are not served any more. How many
// times the usual one it is beside each neighbour is in the log, and a figure of
// docs/benchmarks.md: with the node and all clients on the same few CPUs it is
// mostly the operating system's.
const starved = 50 * time.Millisecond

// TestNeighbours: clients that behave badly, each kind in a process of its own,
// leave the others their answers and the node its memory. A neighbour gets what
// CPU is left.
func TestNeighbours(t *testing.T) {
	binary, err := nodeproc.Build(t.Context(), t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	process, err := nodeproc.Serve(binary, t.TempDir(), "--store", "memory", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	node, err := process.Ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(t.Context(), node.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	before := rss(t, process.PID())
	for kind := range neighbours {
		t.Run(kind, func(t *testing.T) {
			usual := p99(t, c)
			stop := neighbour(t, kind, node.GRPC)
			crowded := p99(t, c)
			grown := rss(t, process.PID()) - before
			stop()
			t.Logf("p99 %v alone, %v beside it (%.1f times); memory grew by %d MiB", usual, crowded, float64(crowded)/float64(usual), grown)
			if grown > 1024 {
				t.Errorf("the node's memory grew by %d MiB", grown)
			}
			if crowded > starved {
				t.Errorf("p99 went from %v to %v", usual, crowded)
			}
		})
	}
}

// neighbour starts a process that behaves badly, and ends it.
func neighbour(t *testing.T, kind, addr string) (stop func()) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nice", "-n", "19", program)
	cmd.Env = append(os.Environ(), neighbourEnv+"="+kind, neighbourAddrEnv+"="+addr)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// p99 is that of adds by 16 callers over some seconds.
func p99(t *testing.T, c *client.Client) time.Duration {
	t.Helper()
	const callers, d = 16, 5 * time.Second
	var (
		mu  sync.Mutex
		all []time.Duration
		wg  sync.WaitGroup
	)
	end := time.Now().Add(d)
	for caller := range callers {
		wg.Go(func() {
			counter := c.Counter("polite:" + strconv.Itoa(caller))
			var took []time.Duration
			for time.Now().Before(end) {
				began := time.Now()
				if _, err := counter.Add(t.Context(), 1); err != nil {
					t.Error(err)
					return
				}
				took = append(took, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all[len(all)*99/100]
}
