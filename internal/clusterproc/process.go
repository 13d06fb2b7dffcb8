package clusterproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/quern-io/quern/internal/nodeproc"
)

// Process is a program that runs on a side of the network and writes to a file.
// Its methods may be called concurrently.
type Process struct {
	*nodeproc.Life

	log string
}

// Start starts a command on a side. What it prints is appended to a file, but
// for a stdout that the command has already. It ends with this process, however
// that ends, where the system can do that.
func Start(n Network, side int, cmd *exec.Cmd, log string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // the caller's file
	if err != nil {
		return nil, fmt.Errorf("clusterproc: %w", err)
	}
	defer out.Close() //nolint:errcheck // the process has its own handle
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = out
	cmd.SysProcAttr = endWithParent()
	p := &Process{log: log}
	n.Run(side, func() { err = cmd.Start() })
	if err != nil {
		return nil, fmt.Errorf("clusterproc: %w", err)
	}
	if l, ok := n.(*loopback); ok {
		l.started(side, cmd.Process.Pid)
	}
	p.Life = nodeproc.Live(cmd, p.Log)
	return p, nil
}

// Log returns the end of what the process and earlier ones with its file have
// written.
func (p *Process) Log() string {
	const most = 16 << 10
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// poll calls ready every few milliseconds until it returns true. It fails when
// ctx ends or stop is closed.
func poll(ctx context.Context, stop <-chan struct{}, ready func() bool) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !ready() {
		select {
		case <-ticker.C:
		case <-stop:
			return errEnded
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // wrapped by the caller
		}
	}
	return nil
}

var errEnded = errors.New("the process has ended")
