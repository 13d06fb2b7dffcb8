package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/job"
)

// Exit codes of "lock run" besides the program's own. They are those of env and
// the shells.
const (
	exitNotLocked     = 125 // the lock was not had, or was lost
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // plus the signal's number
)

// tokenEnv has the fencing token for the program.
const tokenEnv = "QUERN_FENCING_TOKEN" //nolint:gosec // a name

const (
	// maxGrace bounds how long before the end of the lease a program is asked
	// to end, where --grace does not say it.
	maxGrace = 5 * time.Second
	// maxHurry bounds how long a program may take to end whose lock has been
	// taken away already.
	maxHurry = 500 * time.Millisecond
	// cleanup bounds giving back what is perhaps held.
	cleanup = 2 * time.Second
)

type lockRunCommand struct {
	lockTerms
	guarded
	Addr    string         `default:"127.0.0.1:7411" env:"QUERN_ADDR" placeholder:"HOST:PORT" help:"Node to call (gRPC); several, separated by commas, stand in for each other."`
	Timeout time.Duration  `default:"5s" help:"How long connecting and giving back may take."`
	Wait    time.Duration  `default:"10s" help:"How long to wait for the lock."`
	Grace   *time.Duration `placeholder:"D" help:"How long CMD may take to end on SIGTERM before SIGKILL; at most half of --ttl (default: a sixth of it, at most 5s)."`
	Key     string         `arg:"" help:"The lock's key, 1 to 512 bytes of UTF-8."`
	Command []string       `arg:"" name:"cmd" help:"The program to run and its arguments, after --."`
}

// Help implements kong.HelpProvider.
func (k *lockRunCommand) Help() string {
	return "CMD has the lock's fencing token in " + tokenEnv + `. Signals are passed on to it. The lock is held until
CMD and what it started in its process group have ended. When the lease is lost, or is about to be, all of
them are ended: SIGTERM, then SIGKILL, before the lock can be another's.

Exit code: CMD's; 125 the lock was not had, or was lost; 126 CMD cannot be run; 127 there is none; 128+N
signal N ended it.`
}

// Run runs a program under a lock. Its failures have exit codes of their own,
// so that they can be told from the program's.
func (k *lockRunCommand) Run(ctx context.Context, a *app) error {
	o, err := k.options(newOwner(), k.Wait)
	if err != nil {
		return err
	}
	switch {
	case !a.dashes:
		return usagef("put -- before the program: quern lock run KEY -- CMD")
	case k.Timeout <= 0:
		return usagef("--timeout %v: must be more than 0", k.Timeout)
	case k.Grace == nil:
		grace := min(k.TTL/6, maxGrace)
		k.Grace = &grace
	case *k.Grace < 0 || *k.Grace > k.TTL/2:
		return usagef("--grace %v: must be 0 to half of --ttl %v", *k.Grace, k.TTL)
	}
	path, err := exec.LookPath(k.Command[0])
	if err != nil && !errors.Is(err, exec.ErrDot) { // PATH says so, and a shell heeds it
		return notRun(err)
	}
	signals := make(chan os.Signal, 16) // more at once are dropped, as by the kernel
	signal.Notify(signals, job.Signals()...)
	defer signal.Stop(signals)
	return k.locked(ctx, a, path, o, signals)
}

// newOwner is unique, and tells an operator where to look.
func newOwner() string {
	host, err := os.Hostname()
	if err != nil || len(host) > 64 {
		host = "host"
	}
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:10])
}

// notRun says with which code a program that does not start fails.
func notRun(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &exitError{exitNotFound, err}
	}
	return &exitError{exitNotExecutable, err}
}

// locked connects, takes the lock, runs the program and gives the lock back.
func (k *lockRunCommand) locked(ctx context.Context, a *app, path string, o handles.LockOptions, signals <-chan os.Signal) error {
	c, err := k.dial(ctx, a)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // the lock was given back or was not
	lock := handles.NewLock(c, k.Key)
	lease, err := k.acquire(ctx, lock, o, signals)
	if err != nil {
		return err
	}
	started, err := job.Start(path, k.Command, append(os.Environ(), tokenEnv+"="+strconv.FormatUint(lease.Token(), 10)))
	if err != nil {
		_ = k.release(ctx, lease) // the start's failure says more
		return notRun(err)
	}
	w := watched{job: started, lease: lease, grace: *k.Grace, hurry: min(k.TTL/10, maxHurry), stderr: a.stderr}
	kept := w.run(signals)
	err = k.release(ctx, lease)
	switch {
	case !kept:
		return &exitError{code: exitNotLocked} // it was said
	case errors.Is(err, failure.NotHolder):
		return &exitError{exitNotLocked, fmt.Errorf("the lock was taken away before the program ended, with %d: %w", started.Code(), err)}
	case err != nil:
		fmt.Fprintf(a.stderr, "quern: the lock stays taken for up to %v: giving it back: %v\n", k.TTL, err)
	}
	if code := started.Code(); code != 0 {
		return &exitError{code: code}
	}
	return nil
}

func (k *lockRunCommand) dial(ctx context.Context, a *app) (connection, error) {
	ctx, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	c, err := a.connect(ctx, "--addr", k.Addr, client.Options{})
	if err != nil && !isUsage(err) {
		err = &exitError{exitNotLocked, err}
	}
	return c, err
}

// acquire waits for the lock until it is there, the time is over, or a signal
// asks this process to end.
func (k *lockRunCommand) acquire(ctx context.Context, lock handles.Lock, o handles.LockOptions, signals <-chan os.Signal) (*handles.Lease, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		lease *handles.Lease
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		lease, err := k.guards(lock).Acquire(ctx, o)
		answers <- answer{lease, err}
	}()
	var ended os.Signal
	for {
		select {
		case s := <-signals:
			if job.Ends(s) && ended == nil {
				ended = s
				cancel()
			}
			continue
		case got := <-answers:
			switch {
			case got.err == nil && ended != nil:
				_ = k.release(ctx, got.lease) // what stays ends with the lease
			case failure.OutcomeOf(got.err) == failure.Unknown:
				giveBack(ctx, lock, o.Owner)
			}
			switch {
			case ended != nil:
				return nil, &exitError{code: exitSignal + job.Number(ended)}
			case got.err != nil:
				return nil, &exitError{exitNotLocked, got.err}
			}
			return got.lease, nil
		}
	}
}

// giveBack releases what the owner perhaps has.
func giveBack(ctx context.Context, lock handles.Lock, owner string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
	defer cancel()
	_ = lock.ReleaseOwner(ctx, owner) // what stays ends with the lease
}

func (k *lockRunCommand) release(ctx context.Context, lease *handles.Lease) error {
	limit := k.Timeout
	if lease.Err() != nil {
		limit = min(limit, cleanup) // only to be polite
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return lease.Release(ctx) //nolint:wrapcheck // a *failure.Error says it all
}
