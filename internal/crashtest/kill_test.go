package crashtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/nodeproc"
)

// TestKill kills the node again and again while client processes add, and
// expects every acknowledged add to be there, none twice, and no reply to have
// shown what was lost later.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := 24
	if testing.Short() {
		kills = 6
	}
	chance := chance(t)
	data, listen := dataFolder(t), addr(t, chance)

	node := serve(t, data, "--listen", listen)
	ready(t, node)
	clients := startAdders(t, 3, listen, chance)
	early := 0
	for kill := range kills {
		if kill%4 == 3 {
			// In the middle of a start, which is a recovery.
			killWhileStarting(node, chance)
			early++
		} else {
			ready(t, node)
			clients.wait(1 + chance.Int64N(400))
			node.Kill()
		}
		node = serve(t, data, "--listen", listen)
	}
	ready(t, node)
	clients.wait(1)
	known := clients.finish()

	c := dial(t, listen)
	acked, unknown := checkTallys(t, c, known)
	t.Logf("%d kills, %d of them while starting: %d adds acknowledged, sum %d, unknown %d",
		kills, early, clients.acks.Load(), acked, unknown)

	stop(t, node)
	if _, err := os.Stat(filepath.Join(data, "node.json")); !os.IsNotExist(err) {
		t.Errorf("node.json is still there after a clean stop: %v", err)
	}
	node = serve(t, data, "--listen", listen)
	ready(t, node)
	checkTallys(t, c, known)
	stop(t, node)
}

// killWhileStarting kills a node that was just started after a random part of
// the time that a start takes.
func killWhileStarting(node *nodeproc.Process, chance *rand.Rand) {
	moment := time.NewTimer(time.Duration(chance.Int64N(int64(400 * time.Millisecond))))
	defer moment.Stop()
	select {
	case <-moment.C:
	case <-node.Exited():
	}
	node.Kill()
}

// checkTallys compares every key's value with what the clients know of it and
// returns the sums of what was acknowledged and what is unknown.
func checkTallys(t *testing.T, c *client.Client, known map[string]tally) (acked, unknown int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range adderKeys {
		key := adderKey(i)
		value := read(ctx, t, c, key)
		k := known[key]
		acked += k.Acked
		unknown += k.Unknown
		switch {
		case value < k.Acked:
			t.Errorf("%s: LOST: value %d, acknowledged %d, unknown %d", key, value, k.Acked, k.Unknown)
		case value > k.Acked+k.Unknown:
			t.Errorf("%s: DOUBLED: value %d, acknowledged %d, unknown %d, refused %v", key, value, k.Acked, k.Unknown, k.Refused)
		}
		if value < k.Seen {
			t.Errorf("%s: UNDONE: a reply showed %d, now it is %d", key, k.Seen, value)
		}
	}
	if acked == 0 {
		t.Error("nothing was acknowledged: the test shows nothing")
	}
	return acked, unknown
}

// read reads a counter, again while the connection comes back.
func read(ctx context.Context, t *testing.T, c *client.Client, key string) int64 {
	t.Helper()
	for {
		value, err := c.Counter(key).Get(ctx)
		if err == nil {
			return value
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: %v", key, err)
		}
		pause(ctx)
	}
}

// pause waits a moment before a failed call is repeated.
func pause(ctx context.Context) {
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// TestIdempotencyKeys sends each add under one id from two clients at once, kills
// the node among them, and sends it again afterwards: it counts once, and all
// get the first answer.
func TestIdempotencyKeys(t *testing.T) {
	t.Parallel()
	rounds, perRound := 8, 60
	if testing.Short() {
		rounds = 2
	}
	const delta = 3
	chance := chance(t)
	data, listen := dataFolder(t), addr(t, chance)
	node := serve(t, data, "--listen", listen)
	ready(t, node)
	one, two, third := dial(t, listen), dial(t, listen), dial(t, listen)

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	want := make(map[string]int64)
	first := make(map[string]int64) // the answer by id
	keyOf := make(map[string]string)
	for round := range rounds {
		var ids []string
		for i := range perRound {
			id := fmt.Sprintf("id-%d-%d", round, i)
			key := fmt.Sprintf("once:%d", chance.IntN(4))
			ids, keyOf[id] = append(ids, id), key
			want[key] += delta
		}
		killAt := 1 + chance.Int64N(int64(2*perRound-1))
		var answers atomic.Int64
		due := make(chan struct{})
		results := make([]map[string]int64, 2)
		var all sync.WaitGroup
		for i, c := range []*client.Client{one, two} {
			results[i] = make(map[string]int64)
			all.Go(func() {
				for _, id := range ids {
					results[i][id] = addUntilAnswered(ctx, t, c, keyOf[id], id, delta)
					if answers.Add(1) == killAt {
						close(due)
					}
				}
			})
		}
		select {
		case <-due:
		case <-ctx.Done():
			t.Fatal("the clients got no answers")
		}
		node.Kill()
		node = serve(t, data, "--listen", listen)
		all.Wait()
		for _, id := range ids {
			if results[0][id] != results[1][id] {
				t.Errorf("%s: one client was told %d, the other %d", id, results[0][id], results[1][id])
			}
			first[id] = results[0][id]
		}
	}
	for id, answer := range first {
		if got := addUntilAnswered(ctx, t, third, keyOf[id], id, delta); got != answer {
			t.Errorf("%s: sent again it was told %d, at first %d", id, got, answer)
		}
	}
	for key, value := range want {
		if got := read(ctx, t, third, key); got != value {
			t.Errorf("%s: %d, want %d", key, got, value)
		}
	}
	t.Logf("%d kills, %d ids, each sent by two clients and once more", rounds, len(first))
	stop(t, node)
}

// addUntilAnswered repeats an add under its id until there is an answer.
func addUntilAnswered(ctx context.Context, t *testing.T, c *client.Client, key, id string, delta int64) int64 {
	t.Helper()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		value, err := c.Counter(key).Once(id).Add(attempt, delta)
		cancel()
		if err == nil {
			return value
		}
		var f *failure.Error
		if ctx.Err() != nil || errors.As(err, &f) && !f.Retryable() && f.Outcome() == failure.NotDone {
			t.Errorf("%s: %v", id, err)
			return 0
		}
		pause(ctx)
	}
}
