// Package nodeproc runs the built program as a process of its own, for tests
// and benchmarks that need a real one: to kill, to stop, to fill its disk.
package nodeproc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// pollEvery is how often Ready looks for the node's file.
const pollEvery = 2 * time.Millisecond

// Build builds the program into folder and returns its path. It runs the go
// command, from the folder of the calling test or anywhere in the module.
func Build(ctx context.Context, folder string, race bool) (string, error) {
	binary := filepath.Join(folder, "quern")
	args := []string{"build", "-buildvcs=false", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	args = append(args, "github.com/quern-io/quern/cmd/quern")
	out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput() //nolint:gosec // fixed arguments
	if err != nil {
		return "", fmt.Errorf("nodeproc: build: %w\n%s", err, out)
	}
	return binary, nil
}

// Process is a program that was started. Its methods may be called from any
// goroutine.
type Process struct {
	*Life

	data   string
	stdout output
	stderr output
}

// Start starts the program with these arguments and returns at once. It waits
// for nothing, so that a caller can kill it in the middle of its start.
func Start(binary string, args ...string) (*Process, error) {
	p := &Process{}
	//nolint:noctx,gosec // ends by a signal, not with a context; the program is the caller's
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = &p.stdout, &p.stderr
	// A child that inherited the pipes must not hold up Wait.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("nodeproc: %w", err)
	}
	p.Life = Live(cmd, p.Stderr)
	return p, nil
}

// Serve starts "quern serve" on a data folder with these further arguments.
func Serve(binary, data string, args ...string) (*Process, error) {
	p, err := Start(binary, append([]string{"serve", "--data", data}, args...)...)
	if err != nil {
		return nil, err
	}
	p.data = data
	return p, nil
}

// Node is what a running node says of itself in its data folder.
type Node struct {
	Node string `json:"node"`
	GRPC string `json:"grpc"`
	HTTP string `json:"http"`
	PID  int    `json:"pid"`
}

// ErrExited is returned by Ready when the process ended before it was ready.
var ErrExited = errors.New("nodeproc: the node exited")

// Ready waits until the node accepts calls. A file that another process left
// behind does not count.
func (p *Process) Ready(ctx context.Context) (Node, error) {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for {
		content, err := os.ReadFile(filepath.Join(p.data, "node.json"))
		if err == nil {
			var n Node
			if err := json.Unmarshal(content, &n); err != nil {
				return Node{}, fmt.Errorf("nodeproc: node.json: %w", err)
			}
			if n.PID == p.PID() {
				return n, nil
			}
		}
		select {
		case <-poll.C:
		case <-p.exited:
			return Node{}, fmt.Errorf("%w with %d:\n%s", ErrExited, p.code, p.Stderr())
		case <-ctx.Done():
			return Node{}, fmt.Errorf("nodeproc: not ready: %w\n%s", ctx.Err(), p.Stderr())
		}
	}
}

// Stdout returns what the process wrote to stdout so far.
func (p *Process) Stdout() string { return p.stdout.String() }

// Stderr returns what the process wrote to stderr so far.
func (p *Process) Stderr() string { return p.stderr.String() }

// output collects what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
