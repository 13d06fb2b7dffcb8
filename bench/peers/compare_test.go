package peers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/nodeproc"
	"github.com/quern-io/quern/internal/testservice"
)

const (
	// compareEnv asks for the comparisons, which take minutes and the whole
	// machine; `make bench-peers` sets it.
	compareEnv = "QUERN_BENCH_PEERS"
	// roundsEnv and roundEnv change the number of rounds and their length.
	roundsEnv = "QUERN_BENCH_PEERS_ROUNDS"
	roundEnv  = "QUERN_BENCH_PEERS_ROUND"
)

// TestCompareInProcess measures counters that are not durable, in one process: a map
// under mutexes is the limit, Proto.Actor the engine below Quern.
func TestCompareInProcess(t *testing.T) {
	rounds, d := comparison(t)
	keys := Keys("k", 1000)
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := node.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	actors := NewActors(keys)
	defer actors.Close()
	grains := NewGrains()
	defer grains.Close()

	for _, callers := range []int{1, 1000} {
		t.Run("callers="+strconv.Itoa(callers), func(t *testing.T) {
			load := func(add func(string, int64) (int64, error)) func(context.Context, time.Duration) (float64, error) {
				return func(_ context.Context, d time.Duration) (float64, error) { return Load(callers, keys, d, add) }
			}
			result, err := Compare(t.Context(), rounds, d,
				Contender{"quern, embedded in the program, memory store", load(adder(t.Context(), node))},
				Contender{"map under mutexes (limit)", load(NewMap().Add)},
				Contender{"Proto.Actor actor, Future", load(actors.Add)},
				Contender{"Proto.Actor grain", load(grains.Add)})
			report(t, result, err)
		})
	}
}

// TestCompareRedis measures single increments of 1,000 keys over loopback, the
// server in a process of its own. Redis is loaded by redis-benchmark, a C
// program with a connection per caller; Quern by its Go client, whose callers
// share a connection.
func TestCompareRedis(t *testing.T) {
	rounds, d := comparison(t)
	const callers = 64
	scratch := t.TempDir()
	binary, err := nodeproc.Build(t.Context(), scratch, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		store string
		fsync Fsync
	}{
		{"durable when acknowledged", quern.StoreEmbedded, Always},
		{"in memory", quern.StoreMemory, NoFile},
	} {
		t.Run(c.name, func(t *testing.T) {
			redis, err := StartRedis(t.Context(), c.fsync)
			if errors.Is(err, ErrNoRedis) {
				testservice.Lacking(t, "redis", err.Error())
			}
			if err != nil {
				t.Fatal(err)
			}
			defer redis.Close()
			to := startQuern(t, binary, filepath.Join(scratch, c.store), c.store)
			setting := "no append-only file"
			if c.fsync != NoFile {
				setting = "appendfsync " + string(c.fsync)
			}
			keys := Keys("counter:", 1000)
			result, err := Compare(t.Context(), rounds, d,
				Contender{"quern, " + c.store + " store, gRPC", func(ctx context.Context, d time.Duration) (float64, error) {
					return Load(callers, keys, d, adder(ctx, to))
				}},
				Contender{"Redis " + redis.Version + ", " + setting, redis.For(callers, len(keys), 1)})
			report(t, result, err)
		})
	}
}

// startQuern starts a node as a process and connects to it.
func startQuern(t *testing.T, binary, data, store string) *client.Client {
	t.Helper()
	node, err := nodeproc.Serve(binary, data, "--store", store, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Kill)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	at, err := node.Ready(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(ctx, at.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// adder returns the add of the counters behind an invoker.
func adder(ctx context.Context, to handles.Invoker) func(key string, delta int64) (int64, error) {
	return func(key string, delta int64) (int64, error) { return handles.NewCounter(to, key).Add(ctx, delta) }
}

// comparison skips the test unless it was asked for, and returns how many
// rounds of which length to run.
func comparison(t *testing.T) (rounds int, d time.Duration) {
	t.Helper()
	if os.Getenv(compareEnv) == "" {
		t.Skipf("a measurement: set %s=1, or call `make bench-peers`", compareEnv)
	}
	if raced {
		t.Skip("the race detector spoils every figure")
	}
	rounds, d = 7, 2*time.Second
	if s := os.Getenv(roundsEnv); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("%s: %q is no number of rounds", roundsEnv, s)
		}
		rounds = n
	}
	if s := os.Getenv(roundEnv); s != "" {
		length, err := time.ParseDuration(s)
		if err != nil || length <= 0 {
			t.Fatalf("%s: %q is no duration", roundEnv, s)
		}
		d = length
	}
	return rounds, d
}

func report(t *testing.T, r Result, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Write(t.Output()); err != nil {
		t.Fatal(err)
	}
	for i, name := range r.Names {
		t.Logf("every round, operations per second, %s: %.0f", name, r.Rates[i])
	}
}
