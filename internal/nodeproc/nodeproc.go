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
	"syscall"
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
	cmd    *exec.Cmd
	data   string
	exited chan struct{}
	code   int // valid when exited is closed
	stdout output
	stderr output
}

// Start starts the program with these arguments and returns at once. It waits
// for nothing, so that a caller can kill it in the middle of its start.
func Start(binary string, args ...string) (*Process, error) {
	p := &Process{exited: make(chan struct{})}
	//nolint:noctx,gosec // ends by a signal, not with a context; the program is the caller's
	p.cmd = exec.Command(binary, args...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	// A child that inherited the pipes must not hold up Wait.
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("nodeproc: %w", err)
	}
	go func() {
		defer close(p.exited)
		_ = p.cmd.Wait() // the state below says more than the error
		p.code = exitCode(p.cmd.ProcessState)
	}()
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

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Signal sends a signal. A process that has ended is not an error.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("nodeproc: signal: %w", err)
	}
	return nil
}

// Kill ends the process as a power cut would, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // gone already is as good
	<-p.exited
}

// Stop asks the process to end and returns its exit code. Where ctx ends
// first, the process is killed and the context's error returned.
func (p *Process) Stop(ctx context.Context) (int, error) {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	return p.Wait(ctx)
}

// Wait returns the exit code when the process has ended, 128+N where signal N
// ended it. Where ctx ends first, the process is killed and the context's
// error returned.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.exited:
		return p.code, nil
	case <-ctx.Done():
		p.Kill()
		return 0, fmt.Errorf("nodeproc: the process had to be killed: %w", ctx.Err())
	}
}

// Stdout returns what the process wrote to stdout so far.
func (p *Process) Stdout() string { return p.stdout.String() }

// Stderr returns what the process wrote to stderr so far.
func (p *Process) Stderr() string { return p.stderr.String() }

func exitCode(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

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
