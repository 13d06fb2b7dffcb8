//go:build long

package longtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/nodeproc"
)

// TestTwiceTheSaturatingLoad puts twice as many callers on a node as it admits,
// for a minute. Its memory stays flat, what it refuses is refused as not done,
// and it still does at least 80 % of what it does at its best.
func TestTwiceTheSaturatingLoad(t *testing.T) {
	const (
		admitted    = 16_384 // server.Config.MaxInFlight
		connections = 16     // a connection admits 4,096 calls
		keys        = 10_000
	)
	binary, err := nodeproc.Build(t.Context(), t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	process, err := nodeproc.Serve(binary, t.TempDir(), "--store", "embedded")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	node, err := process.Ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	load := &load{keys: keys}
	for range connections {
		c, err := client.DialWith(t.Context(), node.GRPC, client.Options{Unary: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		load.clients = append(load.clients, c)
	}
	// The best of some numbers of callers is the peak.
	peak := 0.0
	for _, callers := range []int{64, 256, 1024} {
		peak = max(peak, load.run(t, callers, 10*time.Second, nil))
	}
	refused := load.overloaded.Load()
	var sizes []int
	rate := load.run(t, 2*admitted, time.Minute, func() { sizes = append(sizes, rss(t, process.PID())) })
	t.Logf("peak %.0f/s, overloaded %.0f/s (%.2f), refused %d, lost or failed otherwise %d, MiB over time %v",
		peak, rate, rate/peak, load.overloaded.Load()-refused, load.failed.Load(), sizes)
	if load.overloaded.Load() == refused {
		t.Error("nothing was refused: the load was too small to show anything")
	}
	if n := load.failed.Load(); n > 0 {
		t.Errorf("%d calls failed for another reason", n)
	}
	if rate < 0.8*peak {
		t.Errorf("%.0f/s under twice the load, %.0f/s at the peak", rate, peak)
	}
	early, last := sizes[len(sizes)/4], sizes[len(sizes)-1]
	if last > early*5/4+64 {
		t.Errorf("memory went from %d to %d MiB", early, last)
	}
	load.check(t)
}

type load struct {
	keys               int
	clients            []*client.Client
	acked              sync.Map // key number → *atomic.Int64
	overloaded, failed atomic.Int64
}

// run keeps callers busy for d and returns adds per second. A refused caller
// waits as long as it was asked to.
func (l *load) run(t *testing.T, callers int, d time.Duration, sample func()) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var done atomic.Int64
	var wg sync.WaitGroup
	for caller := range callers {
		to := l.clients[caller%len(l.clients)]
		wg.Go(func() {
			for ctx.Err() == nil {
				if l.add(ctx, to) {
					done.Add(1)
				}
			}
		})
	}
	if sample != nil {
		ticker := time.NewTicker(d / 20)
		defer ticker.Stop()
		for ctx.Err() == nil {
			select {
			case <-ticker.C:
				sample()
			case <-ctx.Done():
			}
		}
	}
	wg.Wait()
	return float64(done.Load()) / d.Seconds()
}

func (l *load) add(ctx context.Context, to *client.Client) bool {
	key := rand.IntN(l.keys)
	// An add that was begun is waited for, so that every one is accounted for.
	_, err := to.Counter("load:"+strconv.Itoa(key)).Add(context.WithoutCancel(ctx), 1)
	var e *failure.Error
	switch {
	case err == nil:
		n, _ := l.acked.LoadOrStore(key, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		return true
	case errors.As(err, &e) && e.Reason == failure.Overloaded && e.Outcome() == failure.NotDone && e.RetryAfter > 0:
		l.overloaded.Add(1)
		timer := time.NewTimer(e.RetryAfter/2 + rand.N(e.RetryAfter))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	default:
		l.failed.Add(1)
	}
	return false
}

// check compares every counter with what was acknowledged: a refused add that
// was done all the same would show.
func (l *load) check(t *testing.T) {
	t.Helper()
	for key := range l.keys {
		want := int64(0)
		if n, ok := l.acked.Load(key); ok {
			want = n.(*atomic.Int64).Load()
		}
		got, err := l.clients[0].Counter("load:" + strconv.Itoa(key)).Get(t.Context())
		if err != nil || got != want {
			t.Fatalf("key %d: %d, %v; %d were acknowledged", key, got, err, want)
		}
	}
}

// rss returns a process's resident memory in MiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if field, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(field), "kB")))
			if err != nil {
				t.Fatal(err)
			}
			return kib >> 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
