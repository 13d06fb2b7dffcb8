// Command leader elects one of its processes: start it several times against a
// node, and end the one that leads.
//
//	quern serve --store memory &
//	go run ./examples/leader -name ann &
//	go run ./examples/leader -name bob
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
)

// campaign leads whenever the lock lets it, until ctx ends. lead does the
// leader's work and returns soon after its context has ended; token rises with
// every term, and belongs into whatever it writes, so that a late leader can be
// told from the present one.
func campaign(ctx context.Context, lock quern.Lock, ttl time.Duration, lead func(ctx context.Context, token uint64)) error {
	for ctx.Err() == nil {
		lease, err := lock.Acquire(ctx, quern.LockOptions{TTL: ttl})
		if ctx.Err() != nil && err != nil {
			return nil //nolint:nilerr // it was asked to end
		}
		if err != nil {
			return err
		}
		serve(ctx, lease, lead)
	}
	return nil
}

// serve is one term.
func serve(ctx context.Context, lease *quern.Lease, lead func(ctx context.Context, token uint64)) {
	term, stepDown := context.WithCancel(ctx)
	defer stepDown()
	go func() {
		select {
		case <-lease.Lost():
			stepDown()
		case <-term.Done():
		}
	}()
	lead(term, lease.Token())
	// The next one need not wait for the lease to end. Where that fails, it
	// waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = lease.Release(ctx)
}

func main() {
	addr := flag.String("addr", "127.0.0.1:7411", "the node")
	name := flag.String("name", fmt.Sprint(os.Getpid()), "who this is")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *addr, *name); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, addr, name string) error {
	c, err := client.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // the lease was given back or ends
	return campaign(ctx, c.Lock("example:leader"), 3*time.Second, func(ctx context.Context, token uint64) {
		fmt.Fprintf(out, "%s leads, token %d\n", name, token)
		<-ctx.Done() // here a leader works
		fmt.Fprintf(out, "%s steps down\n", name)
	})
}
