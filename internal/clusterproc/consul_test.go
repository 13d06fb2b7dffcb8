package clusterproc_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/clusterproc"
	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/testservice"
)

// TestConsul does by hand what tests do to a Consul.
func TestConsul(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "data")
	c := clusterproc.NewConsul(testservice.Consul(t, consulproc.Options{Dir: folder}), folder)
	t.Cleanup(func() { c.Kill() })
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, c.Log())
		}
	}
	has := func(want ...string) {
		t.Helper()
		pairs, err := c.List(ctx, "a/")
		must(err)
		if len(pairs) != len(want) {
			t.Fatalf("there is %v, want %v", pairs, want)
		}
		for i, p := range pairs {
			if p.Key+"="+string(p.Value) != want[i] {
				t.Errorf("%d is %s=%s, want %s", i, p.Key, p.Value, want[i])
			}
		}
	}
	has()
	must(c.Put(ctx, "a/1", "x"))
	must(c.Put(ctx, "a/2", "y"))
	snapshot, err := c.Snapshot(ctx)
	must(err)
	must(c.Delete(ctx, "a/1"))
	must(c.Put(ctx, "a/2", "z"))
	has("a/2=z")
	must(c.Restore(ctx, snapshot))
	has("a/1=x", "a/2=y")
	c.Kill()
	must(c.Again(ctx))
	has("a/1=x", "a/2=y")
	must(c.Empty(ctx))
	has()
}

// TestServers cuts one of three servers off: the others go on, and it does not.
func TestServers(t *testing.T) {
	t.Parallel()
	if !clusterproc.Entered() {
		testservice.Impossible(t, "three servers of Consul", "they need network namespaces")
	}
	if _, err := consulproc.Find(); err != nil {
		testservice.Lacking(t, "consul", err.Error())
	}
	n, err := clusterproc.New(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := clusterproc.StartServers(ctx, n, 3, t.TempDir(), "performance { raft_multiplier = 1 }")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Kill)
	leader := s.Leader(ctx, 1)
	if leader == 0 || leader != s.Leader(ctx, 2) || leader != s.Leader(ctx, 3) {
		t.Fatalf("leaders are %d, %d, %d", leader, s.Leader(ctx, 2), s.Leader(ctx, 3))
	}
	if err := n.Cut(leader, clusterproc.Peers); err != nil {
		t.Fatal(err)
	}
	other := leader%3 + 1
	until(ctx, t, "the others have a leader", func() bool { l := s.Leader(ctx, other); return l != leader && l != 0 && s.Accepts(ctx, other) })
	moment, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if s.Accepts(moment, leader) {
		t.Error("the one that was cut off takes writes")
	}
}

func until(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not after %v: %s", time.Since(began), what)
		}
	}
	t.Log(what, time.Since(began))
}
