package clusterproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Process is a program that runs on a side of the network and writes to a file.
// Its methods may be called concurrently.
type Process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	code   int // valid when exited is closed
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
	p := &Process{cmd: cmd, log: log, exited: make(chan struct{})}
	n.Run(side, func() { err = cmd.Start() })
	if err != nil {
		return nil, fmt.Errorf("clusterproc: %w", err)
	}
	if l, ok := n.(*loopback); ok {
		l.started(side, p.PID())
	}
	go func() {
		defer close(p.exited)
		_ = cmd.Wait() // the state says more than the error
		p.code = exitCode(cmd.ProcessState)
	}()
	return p, nil
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Signal sends a signal. A process that has ended is not an error.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("clusterproc: signal: %w", err)
	}
	return nil
}

// Kill ends the process as a power cut would, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // gone already is as good
	<-p.exited
}

// Stop asks the process to end and returns its exit code. Where ctx ends first,
// the process is killed.
func (p *Process) Stop(ctx context.Context) (int, error) {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	return p.Wait(ctx)
}

// Wait returns the exit code when the process has ended, 128+N where signal N
// ended it. Where ctx ends first, the process is killed.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.exited:
		return p.code, nil
	case <-ctx.Done():
		p.Kill()
		return 0, fmt.Errorf("clusterproc: the process had to be killed: %w\n%s", ctx.Err(), p.Log())
	}
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

func exitCode(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
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
