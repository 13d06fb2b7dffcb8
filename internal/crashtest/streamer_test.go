package crashtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
)

const (
	streamerRole    = "streamer"
	streamerWorkers = 8
)

// TestKillThroughFaults kills the node again and again while client processes
// work on it through a network that breaks their connections. Every add must
// have counted as its caller was told, and who is patient learns it: sessions
// survive both.
func TestKillThroughFaults(t *testing.T) {
	t.Parallel()
	kills := 6
	if testing.Short() {
		kills = 3
	}
	chance := chance(t)
	data, listen := dataFolder(t), addr(t, chance)
	node := serve(t, data, "--listen", listen)
	ready(t, node)
	network := startProxy(t, listen, chance)
	clients := startAs(t, streamerRole, 3, network.addr(), chance)
	for range kills {
		ready(t, node)
		clients.wait(1 + chance.Int64N(1000))
		node.Kill()
		node = serve(t, data, "--listen", listen)
	}
	ready(t, node)
	clients.wait(1)
	known := clients.finish()

	acked, unknown := checkTallys(t, dial(t, listen), known)
	for key, k := range known {
		for _, pair := range overlaps(k.Spans) {
			t.Errorf("%s: %s", key, pair)
		}
		for why := range k.Refused {
			t.Errorf("%s: %s", key, why)
		}
	}
	t.Logf("%d kills, %v: %d adds acknowledged, sum %d, unknown %d", kills, network, clients.acks.Load(), acked, unknown)
	stop(t, node)
}

// streamerMain is a client process that works until its stdin is closed, and
// then prints what it knows of every key. What was wrong stands there as
// refused.
func streamerMain() int {
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent at the latest
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, os.Getenv(addrEnv))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer c.Close()
	seed, err := strconv.ParseUint(os.Getenv(seedEnv), 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	o := &callers{
		ledger: newLedger(), keys: adderKeys, key: adderKey, patient: patience, sure: true,
		acked: func() { fmt.Fprintln(os.Stdout, "ack") },
	}
	var all sync.WaitGroup
	for w := range uint64(streamerWorkers) {
		all.Go(func() { stream(stop, o, c, rand.New(rand.NewPCG(seed, w))) })
	}
	all.Wait()
	report, err := json.Marshal(o.ledger.tallys())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintf(os.Stdout, "result %s\n", report)
	return 0
}

// stream runs operations until it is told to stop.
func stream(stop <-chan struct{}, o *callers, c *client.Client, r *rand.Rand) {
	for {
		o.operate(c, r)
		timer := time.NewTimer(time.Duration(r.IntN(10)) * time.Millisecond)
		select {
		case <-timer.C:
		case <-stop:
			timer.Stop()
			return
		}
	}
}

// tallys is the ledger as adders report it.
func (l *ledger) tallys() map[string]tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[string]tally)
	for key, e := range l.entries {
		all[key] = tally{Acked: e.acked, Unknown: e.unknown, Seen: e.highest, Spans: e.spans}
	}
	if len(l.wrong) > 0 {
		t := all[adderKey(0)]
		t.Refused = make(map[string]int64)
		for _, w := range l.wrong {
			t.Refused[w]++
		}
		all[adderKey(0)] = t
	}
	return all
}
