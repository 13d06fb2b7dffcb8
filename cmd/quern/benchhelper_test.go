package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/quern-io/quern/bench"
	"github.com/quern-io/quern/client"
)

// await returns when a counter is above 0: the load has begun.
func await(t *testing.T, addr, key string) {
	t.Helper()
	c, err := client.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for v := int64(0); v == 0; {
		if v, err = c.Counter(key).Get(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// A signal to the one process that people know of ends all and still reports.
func TestSignalEndsTheLoadOfAllProcesses(t *testing.T) {
	clearEnv(t)
	node, file := startNode(t, "--store", "memory")
	args := "bench run --duration 1h --keys 10 --concurrency 4 --processes 2 --prefix s --json --target " + file.GRPC
	p := program(t, strings.Fields(args)...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, file.GRPC, "s0")
	if err := p.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.end(t); code != 0 {
		t.Errorf("exit code %d: %s%s", code, &p.stdout, &p.stderr)
	}
	var r bench.Result
	if err := json.Unmarshal(p.stdout.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if !r.OK() || !r.Interrupted || r.Processes != 2 || r.Connections != 2 || r.Acked == 0 || r.Unknown != 0 || r.TargetCPUSeconds == 0 || r.TargetRSSBytes == 0 {
		t.Errorf("%s", &p.stdout)
	}
	_ = node.Process.Signal(syscall.SIGTERM)
	node.end(t)
}

// lockedBuffer takes what several processes say.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestAKilledProcessIsAnErrorOfTheRun(t *testing.T) {
	clearEnv(t)
	node, file := startNode(t, "--store", "memory")
	var stdout bytes.Buffer
	var stderr lockedBuffer
	var mu sync.Mutex
	var helpers []bench.Helper // guarded by mu
	a := &app{
		stdout: &stdout, stderr: &stderr,
		dial: func(ctx context.Context, addr string, _ client.Options) (connection, error) {
			return client.Dial(ctx, addr)
		},
		helper: func(args []string) (bench.Helper, error) {
			h, err := startHelper(args, &stderr)
			mu.Lock()
			defer mu.Unlock()
			helpers = append(helpers, h)
			return h, err
		},
	}
	args := "bench run --duration 1s --keys 10 --concurrency 4 --processes 2 --prefix k --json --target " + file.GRPC
	var running sync.WaitGroup
	code := 0
	running.Go(func() { code = a.run(t.Context(), strings.Fields(args)) })
	await(t, file.GRPC, "k0")
	mu.Lock()
	helpers[1].Kill()
	mu.Unlock()
	running.Wait()
	var r bench.Result
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s%s", err, &stdout, &stderr)
	}
	if code != 1 || r.Died != 1 || r.Lost+r.Doubled != 0 || r.Acked == 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "process 2 of 2 died (signal: killed)") {
		t.Errorf("exit code %d: %s", code, &stdout)
	}
	_ = node.Process.Signal(syscall.SIGTERM)
	node.end(t)
}
