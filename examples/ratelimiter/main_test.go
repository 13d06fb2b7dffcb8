package main

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern"
)

func TestRun(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	want := "ann in minute 0: true\nann in minute 0: true\nann in minute 0: true\nann in minute 0: false\n" +
		"bob in minute 0: true\nann in minute 1: true\n"
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory})
	if err != nil {
		t.Fatal(err)
	}
	l := limiter{counter: node.Counter, limit: 10, window: time.Hour}
	var all sync.WaitGroup
	var allowed atomic.Int64
	for range 100 {
		all.Go(func() {
			ok, err := l.allow(t.Context(), "ann", time.Unix(0, 0))
			if err != nil {
				t.Error(err)
			}
			if ok {
				allowed.Add(1)
			}
		})
	}
	all.Wait()
	if allowed.Load() != 10 {
		t.Errorf("%d were allowed", allowed.Load())
	}
	if err := node.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
