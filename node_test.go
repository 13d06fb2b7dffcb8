package quern_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBadConfigIsRefused(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]quern.Config{
		"no folder":           {},
		"unknown store":       {Store: "floppy"},
		"postgres":            {Store: "postgres://localhost?schema=No"},
		"no cluster":          {Store: quern.StoreMemory, Consul: "127.0.0.1:8500"},
		"cluster's name":      {Store: quern.StoreMemory, Consul: "127.0.0.1:8500", Cluster: "No"},
		"no consul":           {Store: quern.StoreMemory, Cluster: "c"},
		"no store":            {Consul: "127.0.0.1:8500", Cluster: "c"},
		"embedded, clustered": {Store: quern.StoreEmbedded, DataDir: "x", Consul: "127.0.0.1:8500", Cluster: "c"},
		"odd shards":          {Store: quern.StoreMemory, Shards: 3},
		"negative limit":      {Store: quern.StoreMemory, ResidentLimit: -1},
		"node with a break":   {Store: quern.StoreMemory, Node: "a\nb"},
		"node with umlauts":   {Store: quern.StoreMemory, Node: "mühle"},
		"node without limit":  {Store: quern.StoreMemory, Node: strings.Repeat("n", 256)},
	} {
		if _, err := quern.Open(t.Context(), cfg); !errors.Is(err, quern.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOtherShardCountIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node, err := quern.Open(t.Context(), quern.Config{DataDir: dir, Shards: 8})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := node.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := quern.Open(t.Context(), quern.Config{DataDir: dir, Shards: 16}); err == nil || !strings.Contains(err.Error(), "8") {
		t.Errorf("got %v", err)
	}
	if node, err = quern.Open(t.Context(), quern.Config{DataDir: dir}); err != nil {
		t.Fatal(err)
	}
	if err := node.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestBusyPortUndoesTheStart: the folder is free again afterwards.
func TestBusyPortUndoesTheStart(t *testing.T) {
	t.Parallel()
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := quern.Config{DataDir: t.TempDir(), Listen: taken.Addr().String()}
	if _, err := quern.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("got %v", err)
	}
	cfg.Listen = ""
	node, err := quern.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSameHandleHereAndThere uses one counter in the process and over the
// network.
func TestSameHandleHereAndThere(t *testing.T) {
	t.Parallel()
	node, err := quern.Open(t.Context(), quern.Config{DataDir: t.TempDir(), Node: "n1", Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = node.Close(context.WithoutCancel(t.Context())) }()
	c, err := client.Dial(t.Context(), node.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := node.Counter("k").Once("id").Add(t.Context(), 5); got != 5 || err != nil {
		t.Errorf("here: %d, %v", got, err)
	}
	if got, err := c.Counter("k").Once("id").Add(t.Context(), 5); got != 5 || err != nil {
		t.Errorf("there, again: %d, %v", got, err)
	}
	if _, err := c.Counter("").Get(t.Context()); !errors.Is(err, failure.InvalidKey) {
		t.Errorf("no key: %v", err)
	}
	here, err := node.Where(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	there, err := c.Where(t.Context(), "k")
	if err != nil || there.GetShard() != here.GetShard() || there.GetNode() != "n1" || there.GetEpoch() == 0 || there.GetAddr() != node.GRPCAddr() {
		t.Errorf("got %v, %v; want %v", there, err, here)
	}
	s, err := c.Status(t.Context())
	if err != nil || s.GetShardsOwned() != 256 || s.GetNodes()[0].GetState() != "ready" || !s.GetDurable() {
		t.Errorf("got %v, %v", s, err)
	}
}

// TestAddAllocatesNothing on its way from the handle to the shard and back. Under
// the race detector pools forget some of what they get, which makes 0.9 of each
// add; an allocation more makes 1.9.
func TestAddAllocatesNothing(t *testing.T) { //nolint:paralleltest // counts allocations
	node := openMemory(t)
	counter := node.Counter("k")
	adds := func(n int) {
		for range n {
			if _, err := counter.Add(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	const n = 20_000
	var before, after runtime.MemStats
	adds(100)
	runtime.ReadMemStats(&before)
	adds(n)
	runtime.ReadMemStats(&after)
	if each := float64(after.Mallocs-before.Mallocs) / n; each > 1.4 {
		t.Errorf("%.2f allocations an add", each)
	}
}
