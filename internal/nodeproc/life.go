package nodeproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Life is a process that was started, until its end. Its methods may be called
// concurrently.
type Life struct {
	cmd    *exec.Cmd
	said   func() string
	exited chan struct{}
	code   int // valid when exited is closed
}

// Live waits for the end of a command that was started. said is what the process
// has written so far, for errors.
func Live(cmd *exec.Cmd, said func() string) *Life {
	l := &Life{cmd: cmd, said: said, exited: make(chan struct{})}
	go func() {
		defer close(l.exited)
		_ = cmd.Wait() // the state says more than the error
		l.code = ExitCode(cmd.ProcessState)
	}()
	return l
}

// PID returns the process id.
func (l *Life) PID() int { return l.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (l *Life) Exited() <-chan struct{} { return l.exited }

// Signal sends a signal. A process that has ended is not an error.
func (l *Life) Signal(s os.Signal) error {
	if err := l.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("nodeproc: signal: %w", err)
	}
	return nil
}

// Kill ends the process as a power cut would, and waits until it is gone.
func (l *Life) Kill() {
	_ = l.Signal(syscall.SIGKILL) // gone already is as good
	<-l.exited
}

// Stop asks the process to end and returns its exit code. Where ctx ends
// first, the process is killed and the context's error returned.
func (l *Life) Stop(ctx context.Context) (int, error) {
	if err := l.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	return l.Wait(ctx)
}

// Wait returns the exit code when the process has ended, 128+N where signal N
// ended it. Where ctx ends first, the process is killed and the context's
// error returned.
func (l *Life) Wait(ctx context.Context) (int, error) {
	select {
	case <-l.exited:
		return l.code, nil
	case <-ctx.Done():
		l.Kill()
		return 0, fmt.Errorf("nodeproc: the process had to be killed: %w\n%s", ctx.Err(), l.said())
	}
}

// ExitCode is the exit code of a process, 128+N where signal N ended it.
func ExitCode(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}
