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

// TestCompareRedis measures increments of 1,000 keys over loopback, the server
// in a process of its own. Redis is loaded by redis-benchmark, a C program with
// a connection per caller; Quern by its Go client: one connection that all
// callers share, or one each where the case says so.
func TestCompareRedis(t *testing.T) {
	rounds, d := comparison(t)
	scratch := t.TempDir()
	binary, err := nodeproc.Build(t.Context(), scratch, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, cases := range map[string][]redisCase{
		quern.StoreMemory: {
			{"64 callers", 64, 1, 1, LoadBatches},
			{"50 connections, pipelined 16", 50, 50, 16, LoadBatches},
			{"50 callers, one connection, pipelined 16", 50, 1, 16, LoadBatches},
			{"50 connections, pipelined 128", 50, 50, 128, LoadBatches},
			{"50 callers, one connection, pipelined 128", 50, 1, 128, LoadBatches},
			{"8 callers, columns of 1,000", 8, 8, 1000, LoadColumns},
		},
		quern.StoreEmbedded: {
			{"64 callers", 64, 1, 1, LoadBatches},
			{"50 connections, pipelined 128", 50, 50, 128, LoadBatches},
		},
	} {
		t.Run(name, func(t *testing.T) {
			to := startQuern(t, binary, filepath.Join(scratch, name), name)
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) { c.compare(t, to, name, rounds, d) })
			}
		})
	}
}

// redisCase is a load that both take.
type redisCase struct {
	name                        string
	callers, connections, batch int
	load                        func(to []handles.Batcher, callers, batch int, keys []string, d time.Duration) (float64, error)
}

func (c redisCase) compare(t *testing.T, addr, store string, rounds int, d time.Duration) {
	t.Helper()
	fsync, setting := NoFile, "no append-only file"
	if store == quern.StoreEmbedded {
		fsync, setting = Always, "appendfsync always"
	}
	redis, err := StartRedis(t.Context(), fsync)
	if errors.Is(err, ErrNoRedis) {
		testservice.Lacking(t, "redis", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Close()
	to := []handles.Batcher{connect(t, addr, client.Options{Connections: c.connections})}
	keys := Keys("counter:", 1000)
	result, err := Compare(t.Context(), rounds, d,
		Contender{"quern, " + store + " store", func(_ context.Context, d time.Duration) (float64, error) {
			return c.load(to, c.callers, c.batch, keys, d)
		}},
		Contender{"Redis " + redis.Version + ", " + setting, redis.For(c.callers, len(keys), c.batch)})
	report(t, result, err)
}

// startQuern starts a node as a process and returns its address.
func startQuern(t *testing.T, binary, data, store string) string {
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
	return at.GRPC
}

func connect(t *testing.T, addr string, o client.Options) *client.Client {
	t.Helper()
	c, err := client.DialWith(t.Context(), addr, o)
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
