package peers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/testservice"
)

// TestCounters adds from many callers to each in-process system and looks for
// every add in the end: what does not count right is no peer.
func TestCounters(t *testing.T) {
	t.Parallel()
	if raced {
		t.Skip("Proto.Actor's Future races with itself; run without -race")
	}
	keys := Keys("k", 10)
	actors := NewActors(keys)
	defer actors.Close()
	grains := NewGrains()
	defer grains.Close()

	for name, counters := range map[string]Counters{"map": NewMap(), "actors": actors, "grains": grains} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkCounters(t, counters, keys)
		})
	}
}

// TestMap is the part of TestCounters that runs under the race detector.
func TestMap(t *testing.T) {
	t.Parallel()
	checkCounters(t, NewMap(), Keys("k", 10))
}

func checkCounters(t *testing.T, counters Counters, keys []string) {
	t.Helper()
	const callers, rounds = 8, 20
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range rounds {
				for _, key := range keys {
					if _, err := counters.Add(key, 2); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	for _, key := range keys {
		if got, err := counters.Add(key, 0); err != nil || got != 2*callers*rounds {
			t.Errorf("%s: got %d and %v, want %d", key, got, err, 2*callers*rounds)
		}
	}
}

// TestRedis runs the private server at both settings, briefly.
func TestRedis(t *testing.T) {
	t.Parallel()
	for _, fsync := range []Fsync{NoFile, Always} {
		redis, err := StartRedis(t.Context(), fsync)
		if errors.Is(err, ErrNoRedis) {
			testservice.Impossible(t, "redis", "not installed; a peer to measure only, `make redis` fetches it")
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(redis.Close)
		rate, err := redis.Incr(t.Context(), 2000, 10, 100, 1)
		if err != nil || rate <= 0 {
			t.Errorf("appendfsync %q: %v requests a second, %v", fsync, rate, err)
		}
		if rate, err = redis.Set(t.Context(), 2000, 10, 100, 16, 100); err != nil || rate <= 0 {
			t.Errorf("appendfsync %q: %v puts a second, %v", fsync, rate, err)
		}
		testservice.Used(t, "redis", redis.Version)
	}
}

func TestParseRedisRate(t *testing.T) {
	t.Parallel()
	const header = `"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"` + "\n"
	for _, c := range []struct {
		out  string
		want float64
		bad  bool
	}{
		{out: header + `"INCR","66666.67","0.300","0.100","0.295","0.400","0.600","1.000"` + "\n", want: 66666.67},
		{out: header, bad: true},
		{out: "", bad: true},
		{out: strings.Replace(header, "rps", "x", 1) + `"INCR","1","1","1","1","1","1","1"` + "\n", bad: true},
		{out: header + `"INCR","inf?","1","1","1","1","1","1"` + "\n", bad: true},
		{out: header + `"INCR","0.00","1","1","1","1","1","1"` + "\n", bad: true},
	} {
		got, err := parseRedisRate(c.out)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%q: got %v and %v", c.out, got, err)
		}
	}
}

func TestCompareAlternates(t *testing.T) {
	t.Parallel()
	var order []string
	contender := func(name string, rates ...float64) Contender {
		return Contender{Name: name, Run: func(context.Context, time.Duration) (float64, error) {
			order = append(order, name)
			rate := rates[0]
			rates = rates[1:]
			return rate, nil
		}}
	}
	r, err := Compare(t.Context(), 3, time.Millisecond,
		contender("a", 1, 10, 30, 20), contender("b", 1, 10, 10, 10))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "a", "b", "b", "a", "a", "b"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if got, want := r.Ratio(0, 1), (Spread{Min: 1, Median: 2, Max: 3}); got != want {
		t.Errorf("ratio %v, want %v", got, want)
	}
	if got, want := r.From(1).Rate(0), (Spread{Min: 10, Median: 10, Max: 10}); got != want {
		t.Errorf("rate of the second %v, want %v", got, want)
	}
	if got, want := r.Rate(0), (Spread{Min: 10, Median: 20, Max: 30}); got != want {
		t.Errorf("rate %v, want %v", got, want)
	}
}

func TestLoadStopsAtAnError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	_, err := Load(4, Keys("k", 3), time.Hour, func(string, int64) (int64, error) { return 0, broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
