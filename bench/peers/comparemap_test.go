package peers

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/nodeproc"
	"github.com/quern-io/quern/internal/testservice"
)

// TestCompareMap measures puts of 100 bytes to 1,000 map entries over loopback,
// against SET by redis-benchmark. Quern numbers each put, so that a retry counts
// once, and gives the entry a version; Redis does neither.
func TestCompareMap(t *testing.T) {
	rounds, d := comparison(t)
	scratch := t.TempDir()
	binary, err := nodeproc.Build(t.Context(), scratch, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, store := range []string{quern.StoreMemory, quern.StoreEmbedded} {
		t.Run(store, func(t *testing.T) {
			to := startQuern(t, binary, filepath.Join(scratch, store), store)
			for _, c := range []mapCase{
				{"50 connections, pipelined 128", 50, 50, 50},
				{"50 callers, one connection, pipelined 128", 50, 1, 50},
				{"one caller, one connection, pipelined 128", 1, 1, 1},
			} {
				t.Run(c.name, func(t *testing.T) { c.compare(t, to, store, rounds, d) })
			}
		})
	}
}

// mapCase is a load of puts: so many callers of Quern's client on so many
// connections, against so many connections of redis-benchmark.
type mapCase struct {
	name                        string
	callers, connections, redis int
}

func (c mapCase) compare(t *testing.T, addr, store string, rounds int, d time.Duration) {
	t.Helper()
	const pipeline, size = 128, 100
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
	keys, value := Keys("entry:", 1000), bytes.Repeat([]byte("x"), size)
	result, err := Compare(t.Context(), rounds, d,
		Contender{"quern, " + store + " store", func(_ context.Context, d time.Duration) (float64, error) {
			return LoadPuts(to, c.callers, pipeline, keys, value, d)
		}},
		Contender{"Redis " + redis.Version + ", " + setting, redis.SetFor(c.redis, len(keys), pipeline, size)})
	report(t, result, err)
}

// TestPuts loads a node for a moment and finds the value under every key.
func TestPuts(t *testing.T) {
	t.Parallel()
	node, keys, value := openNode(t), Keys("entry:", 3), []byte("value")
	rate, err := LoadPuts([]handles.Batcher{node}, 2, 8, keys, value, 20*time.Millisecond)
	if err != nil || rate <= 0 {
		t.Errorf("%v puts a second, %v", rate, err)
	}
	for _, key := range keys {
		got, err := node.Map(key).Get(t.Context())
		if err != nil || !bytes.Equal(got.Value, value) {
			t.Errorf("%s: got %q and %v", key, got.Value, err)
		}
	}
}
