package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/nodeproc"
)

// printed is a line of a watch with --json, of any kind.
type printed struct {
	Key      string
	Value    json.RawMessage
	Found    bool
	Held     bool
	Owner    string
	Epoch    uint64 `json:",string"`
	Sequence uint64
}

// lastEvent waits until a watch has printed a line that is right, and returns it.
// It checks the order of all lines.
func lastEvent(t *testing.T, p *nodeproc.Process, right func(printed) bool) printed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		var last printed
		for line := range strings.Lines(p.Stdout()) {
			var now printed
			if !strings.HasSuffix(line, "\n") {
				break
			}
			if err := json.NewDecoder(bytes.NewReader([]byte(line))).Decode(&now); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if now.Epoch < last.Epoch || now.Epoch == last.Epoch && now.Sequence <= last.Sequence {
				t.Fatalf("%q came after %+v", line, last)
			}
			last = now
		}
		if last.Epoch != 0 && right(last) {
			return last
		}
		select {
		case <-poll.C:
		case <-p.Exited():
			t.Fatalf("the watch has ended: %s", tail(p.Stderr()))
		case <-ctx.Done():
			t.Fatalf("the watch's last line is %+v; %s", last, tail(p.Stderr()))
		}
	}
}

// TestWatchOverKills: the watches of a shell go on when their node is killed and
// started again. What they have printed is there after each kill.
func TestWatchOverKills(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	data, listen := dataFolder(t), addr(t, chance(t))
	node := serve(t, data, "--listen", listen)
	ready(t, node)
	watch := func(args ...string) *nodeproc.Process {
		p, err := nodeproc.Start(binary(t), append(args, "--json", "--addr", listen)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		return p
	}
	counter, entry, lock := watch("counter", "watch", "k"), watch("map", "watch", "m"), watch("lock", "watch", "l")
	first := lastEvent(t, counter, func(l printed) bool { return !l.Found && l.Key == "k" })
	lastEvent(t, entry, func(l printed) bool { return !l.Found })
	lastEvent(t, lock, func(l printed) bool { return !l.Held })

	for round := range 3 {
		c := dial(t, listen)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				if _, err := c.Counter("k").Add(ctx, 1); errors.Is(err, failure.Unreachable) || errors.Is(err, failure.Canceled) || ctx.Err() != nil {
					return
				}
			}
		}()
		enough := number(first.Value) + 50
		lastEvent(t, counter, func(l printed) bool { return number(l.Value) >= enough })
		node.Kill()
		seen := lastEvent(t, counter, func(printed) bool { return true })
		_ = c.Close()
		<-ended
		node = serve(t, data, "--listen", listen)
		ready(t, node)
		c = dial(t, listen)
		if value := read(ctx, t, c, "k"); value < number(seen.Value) {
			t.Errorf("round %d: %d was printed, and after the kill there is %d", round, number(seen.Value), value)
		}
		first = lastEvent(t, counter, func(l printed) bool { return l.Epoch > seen.Epoch })
	}
	watchOtherKinds(ctx, t, listen, entry, lock)
	for _, p := range []*nodeproc.Process{counter, entry, lock} {
		if err := p.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if code := exit(t, p); code != 0 || p.Stderr() != "" {
			t.Errorf("exit code %d, %q", code, p.Stderr())
		}
	}
	stop(t, node)
}

func watchOtherKinds(ctx context.Context, t *testing.T, listen string, entry, lock *nodeproc.Process) {
	t.Helper()
	c, err := client.DialWith(ctx, listen, client.Options{Unary: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Map("m").Put(ctx, []byte("text"), handles.PutOptions{TTL: 100 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	lastEvent(t, entry, func(l printed) bool { return !l.Found && strings.Contains(entry.Stdout(), `"value":"text"`) })
	grant, err := handles.NewLock(c, "l").Grant(ctx, handles.LockOptions{Owner: "somebody"})
	if err != nil || !grant.Held {
		t.Fatal(grant, err)
	}
	lastEvent(t, lock, func(l printed) bool { return l.Held && l.Owner == "somebody" })
}

func number(raw json.RawMessage) int64 {
	var n int64
	_ = json.Unmarshal(raw, &n)
	return n
}
