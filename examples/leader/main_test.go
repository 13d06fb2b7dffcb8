package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/quern-io/quern"
)

// candidate is a run whose output is read line by line.
type candidate struct {
	*bufio.Scanner

	name string
	end  func()
}

func start(t *testing.T, addr, name string) *candidate {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	var running sync.WaitGroup
	running.Go(func() {
		if err := run(ctx, w, addr, name); err != nil {
			t.Error(err)
		}
	})
	c := &candidate{bufio.NewScanner(r), name, func() {
		cancel()
		_ = r.Close() // what it still says is not read
		running.Wait()
	}}
	t.Cleanup(c.end)
	return c
}

// leads waits for the next term and returns its token.
func (c *candidate) leads(t *testing.T) (token uint64) {
	t.Helper()
	c.Scan()
	if _, err := fmt.Sscanf(c.Text(), c.name+" leads, token %d", &token); err != nil {
		t.Fatalf("%q: %v", c.Text(), err)
	}
	return token
}

func TestElection(t *testing.T) {
	t.Parallel()
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close(context.Background()) })
	lock := node.Lock("example:leader")

	ann := start(t, node.GRPCAddr(), "ann")
	first := ann.leads(t)
	bob := start(t, node.GRPCAddr(), "bob")
	for waiters := 0; waiters == 0; {
		info, err := lock.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		waiters = info.Waiters
	}
	ann.end()
	second := bob.leads(t)
	if _, err := lock.ForceRelease(t.Context(), "a test"); err != nil {
		t.Fatal(err)
	}
	if bob.Scan(); bob.Text() != "bob steps down" {
		t.Errorf("%q", bob.Text())
	}
	if third := bob.leads(t); first >= second || second >= third {
		t.Errorf("tokens %d, %d, %d", first, second, third)
	}
}
