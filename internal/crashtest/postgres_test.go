package crashtest

import (
	"context"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/testservice"
)

// serverLimit is how long after a server's restart the node may take to serve
// again; a loaded machine under the race detector is given more.
const serverLimit, serverPatience = 2 * time.Second, 10 * time.Second

// TestKillPostgres kills the database server of a node under load again and
// again, and now and then the node itself: every acknowledged add must be there,
// none twice, and no reply may have shown what was lost later.
func TestKillPostgres(t *testing.T) {
	t.Parallel()
	kills := 10
	if testing.Short() {
		kills = 4
	}
	chance := chance(t)
	data, listen := dataFolder(t), addr(t, chance)
	server := testservice.Postgres(t)
	args := []string{"--listen", listen, "--store", server.URL(), "--shards", "16"}
	node := serve(t, data, args...)
	ready(t, node)

	const odd = "nul\x00key"
	c := dial(t, listen)
	if _, err := c.Counter(odd).Add(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	clients := startAdders(t, 2, listen, chance)
	var slowest time.Duration
	for kill := range kills {
		clients.wait(1 + chance.Int64N(200))
		if kill%5 == 4 {
			node.Kill()
			node = serve(t, data, args...)
			ready(t, node)
			continue
		}
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		read(ctx, t, c, odd)
		if _, err := c.Counter("after").Add(ctx, 1); err != nil {
			t.Errorf("the first add after the restart: %v", err)
		}
		cancel()
		slowest = max(slowest, time.Since(began))
	}
	clients.wait(1)
	known := clients.finish()
	acked, unknown := checkTallys(t, c, known)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if got := read(ctx, t, c, odd); got != 7 {
		t.Errorf("%q is %d, want 7", odd, got)
	}
	t.Logf("%d kills: sum %d acknowledged, unknown %d; served again at most %v after the server (meant: %v)", kills, acked, unknown, slowest, serverLimit)
	if slowest > serverPatience {
		t.Errorf("it took %v", slowest)
	}
	stop(t, node)
	node = serve(t, data, args...)
	ready(t, node)
	checkTallys(t, dial(t, listen), known)
	stop(t, node)
}

// TestSecondNodeOnOneStore: without Consul it is refused, and says who has it.
func TestSecondNodeOnOneStore(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	node := serve(t, dataFolder(t), "--store", server.URL())
	ready(t, node)
	data := dataFolder(t)
	refused(t, serve(t, data, "--store", server.URL()), data, 1, "another node has the store", "?schema=NAME")
	stop(t, node)
	node = serve(t, data, "--store", server.URL())
	ready(t, node)
	stop(t, node)
}
