//go:build long

package longtest

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/nodeproc"
)

// TestAMillionWaiters asks for one lock a million times over many streams, twice.
// As many wait as the lock takes; the rest is refused as not done. Meanwhile
// others are served, the node's memory stays bounded, and goes when they leave.
func TestAMillionWaiters(t *testing.T) {
	const (
		streams = 16
		each    = 62_500
		most    = 100_000 // grains.MaxLockWaiters
		rounds  = 2
		bound   = 2048 // MiB, of which much is not collected yet
	)
	binary, err := nodeproc.Build(t.Context(), t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	process, err := nodeproc.Serve(binary, t.TempDir(), "--store", "memory", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	node, err := process.Ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	polite, err := client.Dial(t.Context(), node.GRPC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = polite.Close() })
	before := allocated(t, node.HTTP)
	for round := range rounds {
		lock := polite.Lock("crowd:" + strconv.Itoa(round))
		if _, err := lock.Grant(t.Context(), handles.LockOptions{Owner: "holder", TTL: time.Hour}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		stop := alongside(t, polite)
		c := &crowd{key: lock.Key()}
		c.come(t, ctx, node.GRPC, streams, each)
		waiters := c.settled(t, lock)
		served := stop()
		grown, peak := allocated(t, node.HTTP)-before, rss(t, process.PID())
		t.Logf("round %d: %d asked, %d wait, %d were refused; others did %d operations; heap grew by %d MiB, RSS %d MiB",
			round, c.asked.Load(), waiters, c.refused.Load(), served, grown>>20, peak)
		if waiters == 0 || waiters > most || c.refused.Load() < streams*each-most {
			t.Errorf("%d wait, %d were refused", waiters, c.refused.Load())
		}
		if served == 0 {
			t.Error("nobody else was served")
		}
		if peak > bound {
			t.Errorf("RSS is %d MiB", peak)
		}
		handOver(t, lock, 100)
		cancel()
		c.readers.Wait()
		emptied(t, lock)
		fallsBack(t, node.HTTP, before+grown/4+(16<<20))
	}
}

// come opens streams at once and sends so many acquires over each.
func (c *crowd) come(t *testing.T, ctx context.Context, addr string, streams, each int) {
	t.Helper()
	var senders sync.WaitGroup
	for i := range streams {
		m, err := c.join(ctx, dialGRPC(t, addr), strconv.Itoa(i))
		if err != nil {
			t.Fatal(err)
		}
		senders.Go(func() {
			if err := m.ask(each); err != nil {
				c.note(fmt.Errorf("stream %d: %w", i, err))
			}
		})
	}
	senders.Wait()
}

// alongside adds to counters of other shards until it is stopped, and says how
// often that went well. A failure is the test's.
func alongside(t *testing.T, c *client.Client) (stop func() int) {
	t.Helper()
	end, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-end:
				done <- n
				return
			default:
			}
			if _, err := c.Counter("polite:"+strconv.Itoa(n%1000)).Add(context.Background(), 1); err != nil {
				t.Errorf("an add beside the crowd: %v", err)
			}
		}
	}()
	return func() int {
		close(end)
		return <-done
	}
}

// fallsBack waits until the node has given back what the crowd took. A
// collection that nobody else causes comes every two minutes.
func fallsBack(t *testing.T, addr string, bound int) {
	t.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for end := time.Now().Add(6 * time.Minute); ; <-tick.C {
		n := allocated(t, addr)
		if n <= bound {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the heap has %d MiB, and was to fall to %d", n>>20, bound>>20)
		}
	}
}

// allocated is the size of a node's heap, by its metrics.
func allocated(t *testing.T, addr string) int {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "go_memstats_alloc_bytes "); ok {
			n, err := strconv.ParseFloat(v, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatal("no size of the heap in /metrics")
	return 0
}
