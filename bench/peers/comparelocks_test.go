package peers

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/nodeproc"
)

// What is asked of a lock for which 64 wait, in hand-overs per second.
const (
	handOverNetwork   = 5_000
	handOverInProcess = 200_000
)

// TestCompareLocks measures cycles over loopback: 64 callers, each takes a lock
// of its own out of 1,000 and gives it back, one request each. All servers run
// at the same time, and the clients, in this process, take turns. Nobody waits
// for a lock, and nobody renews a lease.
//
// Not all promise the same: the rows say what is durable before the reply, and
// Redis gives no fencing token.
func TestCompareLocks(t *testing.T) {
	rounds, d := comparison(t)
	const callers = 64
	keys := Keys("lock:", 1000)
	scratch := t.TempDir()
	binary, err := nodeproc.Build(t.Context(), scratch, false)
	if err != nil {
		t.Fatal(err)
	}
	var all []Contender
	add := func(name, how string, locks Locks) {
		t.Logf("%s: %s", name, how)
		all = append(all, Contender{name, func(_ context.Context, d time.Duration) (float64, error) {
			return LoadLocks(locks, callers, keys, d)
		}})
	}
	for _, store := range []struct{ name, says string }{
		{quern.StoreMemory, "quern, memory store (not durable)"},
		{quern.StoreEmbedded, "quern, embedded store (durable)"},
	} {
		to := connect(t, startQuern(t, binary, filepath.Join(scratch, store.name), store.name), client.Options{})
		add(store.says, "Go client, one connection; Acquire with a lease of 30 s, Release by the token", NewQuernLocks(to, callers))
	}
	addRedisLocks(t, callers, add)
	addEtcdLocks(t, callers, add)
	addConsulLocks(t, callers, add)
	result, err := Compare(t.Context(), rounds, d, all...)
	report(t, result, err)
	t.Log("the same rounds, beside the durable one:")
	if err := result.From(1).Write(t.Output()); err != nil {
		t.Fatal(err)
	}
}

func addRedisLocks(t *testing.T, callers int, add func(name, how string, locks Locks)) {
	t.Helper()
	for _, setting := range []struct {
		fsync Fsync
		says  string
	}{
		{NoFile, "no append-only file (not durable)"},
		{Always, "appendfsync always (durable)"},
	} {
		redis, err := StartRedis(t.Context(), setting.fsync)
		if errors.Is(err, ErrNoRedis) {
			t.Logf("left out: %v", err)
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(redis.Close)
		locks, err := redis.Locks(t.Context(), callers)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(locks.Close)
		add("Redis "+redis.Version+", "+setting.says, "a connection per caller; SET NX PX 30000, EVALSHA of compare and delete", locks)
	}
}

func addEtcdLocks(t *testing.T, callers int, add func(name, how string, locks Locks)) {
	t.Helper()
	etcd, err := StartEtcd(t.Context())
	if errors.Is(err, ErrNoEtcd) {
		t.Logf("left out: %v", err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	locks, err := etcd.Locks(t.Context(), callers)
	if err != nil {
		t.Fatal(err)
	}
	add("etcd "+etcd.Version+" (durable)",
		"one member, one gRPC connection; a transaction that creates and one that deletes, under a lease per caller", locks)
}

func addConsulLocks(t *testing.T, callers int, add func(name, how string, locks Locks)) {
	t.Helper()
	binary, err := consulproc.Find()
	if err != nil {
		t.Logf("left out: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	version, _, _, err := consulproc.Version(ctx, binary)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := consulproc.Start(ctx, consulproc.Options{Binary: binary, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(agent.Kill)
	locks, err := NewConsulLocks(ctx, agent.Addr(), callers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(locks.Close)
	add("Consul "+version+" (durable)",
		"one server, an HTTP connection per caller; acquire and release under a session per caller", locks)
}

// TestCompareHandOver measures a lock for which 64 wait: how often it is handed
// to the next one. Quern alone, beside what is asked of it.
func TestCompareHandOver(t *testing.T) {
	rounds, d := comparison(t)
	const waiters = 64
	scratch := t.TempDir()
	binary, err := nodeproc.Build(t.Context(), scratch, false)
	if err != nil {
		t.Fatal(err)
	}
	handOver := func(to handles.Invoker) func(context.Context, time.Duration) (float64, error) {
		return func(_ context.Context, d time.Duration) (float64, error) {
			return LoadHandOver(to, waiters, "contended", d)
		}
	}
	network := func(store string) handles.Invoker {
		return connect(t, startQuern(t, binary, filepath.Join(scratch, store), store), client.Options{})
	}
	result, err := Compare(t.Context(), rounds, d,
		Contender{"in process, memory store", handOver(openNode(t))},
		Contender{"over loopback, memory store, one connection", handOver(network(quern.StoreMemory))},
		Contender{"over loopback, embedded store, one connection", handOver(network(quern.StoreEmbedded))})
	report(t, result, err)
	for i, target := range []float64{handOverInProcess, handOverNetwork, handOverNetwork} {
		t.Logf("hand-overs per second, %s: %.0f, %.2f of the %.0f that are asked for",
			result.Names[i], result.Rate(i).Median, result.Rate(i).Median/target, target)
	}
}
