package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/quern-io/quern/bench"
)

// benchHelperCommand is a process of "bench run --processes". It takes its
// orders from stdin and answers on stdout.
type benchHelperCommand struct {
	Target      string        `required:""`
	Connections int           `default:"1"`
	Timeout     time.Duration `default:"5s"`
}

// helperArgs are the arguments of the processes that apply the load.
func (k *benchRunCommand) helperArgs() []string {
	return []string{
		"bench", "helper", "--target", k.Target, "--connections", fmt.Sprint(k.Connections), "--timeout", k.Timeout.String(),
	}
}

// Run applies a share of a load. A signal ends it early, as it does the run.
func (k *benchHelperCommand) Run(ctx context.Context, a *app) error {
	ctx, release := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer release()
	context.AfterFunc(ctx, release)
	dialing, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	to, stop, err := a.connections(dialing, k.Target, k.Connections)
	if err != nil {
		return err
	}
	return errors.Join(bench.Help(ctx, to, a.stdin, a.stdout), stop())
}

// startHelper starts this program again. What it has to say of a failure goes
// to stderr.
func startHelper(args []string, stderr io.Writer) (bench.Helper, error) {
	self, err := os.Executable()
	if err != nil {
		return bench.Helper{}, fmt.Errorf("this program's file: %w", err)
	}
	//nolint:noctx,gosec // ends by its orders, not with a context; the program is this one
	c := exec.Command(self, args...)
	c.Stderr = stderr
	in, err := c.StdinPipe()
	if err != nil {
		return bench.Helper{}, err //nolint:wrapcheck // the bench says what it was for
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return bench.Helper{}, err //nolint:wrapcheck // the bench says what it was for
	}
	if err := c.Start(); err != nil {
		return bench.Helper{}, err //nolint:wrapcheck // names the file
	}
	return bench.Helper{
		In: in, Out: out, Wait: c.Wait,
		Kill: func() { _ = c.Process.Kill() }, // gone already is as good
	}, nil
}
