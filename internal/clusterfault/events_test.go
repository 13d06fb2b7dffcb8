package clusterfault

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/clusterproc"
)

const (
	// takeover is how long a key may have no answer when its owner is lost.
	takeover = 5 * time.Second
	// planned is how long when its shard is given away.
	planned = time.Second
)

// TestShared does everything to three nodes on PostgreSQL.
func TestShared(t *testing.T) {
	w := newWorld(t, setting{nodes: 3, postgres: true, consul: true, rate: 1500})
	var old, before []byte // snapshots
	w.all([]event{
		{"SIGTERM of a node, which joins again", planned, func(w *world, o *observed) {
			terminate(w, o)
			join(w, o)
		}},
		{"kill -9", takeover, func(w *world, o *observed) {
			old = w.snapshot()
			kill(w, o, w.other())
			join(w, o)
		}},
		{"kill -9 of the one who places", takeover, func(w *world, o *observed) {
			kill(w, o, w.placer())
			join(w, o)
		}},
		{"kill -9 and restart at once under its name", takeover, killAndRestart},
		{"SIGSTOP and SIGCONT", takeover, stop},
		{"cut from Consul", takeover, cutFromConsul},
		{"cut from everything", takeover, cutFromEverything},
		{"lock keys deleted by hand", takeover, func(w *world, o *observed) {
			before = w.snapshot()
			deleteLocks(w, o) // epochs rise by that
		}},
		{"Consul restored, the snapshot's holders there", takeover, func(w *world, o *observed) { w.restore(before, o) }},
		{"Consul emptied", takeover, emptyConsul},
		{"Consul restored, the snapshot's holders gone", 25 * time.Second, func(w *world, o *observed) { w.restore(old, o) }},
		{"PostgreSQL restarted", 2 * time.Second, restartPostgres},
	})
}

// TestMemory cuts and stops nodes whose store is their own memory.
func TestMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{nodes: 3, consul: true, rate: 1200})
	w.all([]event{
		{"SIGSTOP and SIGCONT", takeover, stop},
		{"cut from Consul", takeover, cutFromConsul},
		{"cut from everything", takeover, cutFromEverything},
	})
}

// TestThreeServers cuts a node and its server of Consul off: one that follows,
// where there is time for that, and the one that leads.
func TestThreeServers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setting{nodes: 3, postgres: true, servers: true, rate: 1200})
	minority := func(name string, choose func(leader int) int) event {
		return event{name, takeover, func(w *world, o *observed) {
			for side := range w.nodes {
				w.accepts(side + 1)
			}
			node := choose(w.leader())
			o.apart = node
			w.cut(node, clusterproc.Peers)
			w.accepts(node%3 + 1)
			o.from = clusterproc.Now()
			hold(w.t, fault)
			o.healed(node, patience/2)
			w.heal(node, clusterproc.Peers)
			o.healing = w.leaderless(node%3 + 1)
		}}
	}
	events := []event{
		minority("a server of Consul and a node cut off", func(leader int) int { return leader%3 + 1 }),
		minority("the leading server of Consul and a node cut off", func(leader int) int { return leader }),
	}
	if !long {
		events = events[1:]
	}
	w.all(events)
}

// leaderless is for how long at most the servers of Consul take no writes now
// that the one that was cut off is back: its votes of a later term may end the
// term of the one that leads.
func (w *world) leaderless(node int) (longest time.Duration) {
	w.t.Helper()
	for until := clusterproc.Now() + int64(takeover); clusterproc.Now() < until; hold(w.t, 50*time.Millisecond) {
		began := clusterproc.Now()
		w.accepts(node)
		longest = max(longest, time.Duration(clusterproc.Now()-began))
	}
	w.t.Logf("the servers of Consul took no writes for %v after the heal", longest.Round(time.Millisecond))
	return longest
}

// all lets events happen one after the other. What comes after one that failed
// may have failed for its sake.
func (w *world) all(events []event) {
	t := w.t
	for _, e := range events {
		w.whole = true // where it is not asked for
		if t.Run(e.name, func(t *testing.T) { w.run(t, e) }); !w.whole {
			t.Errorf("%s did not come to its end; what follows is left out", e.name)
			break
		}
	}
	w.t, w.load.t = t, t
}

// healed says that a node is to answer again, from now on within some time.
func (o *observed) healed(node int, within time.Duration) {
	o.back, o.since, o.within = node, clusterproc.Now(), within
}

func (w *world) cut(node int, links clusterproc.Link) {
	w.t.Helper()
	w.check(w.network.Cut(node, links))
	w.t.Logf("n%d is cut from %v", node, links)
}

func (w *world) heal(node int, links clusterproc.Link) {
	w.t.Helper()
	w.check(w.network.Heal(node, links))
}

func cutFromConsul(w *world, o *observed) {
	node := w.any()
	w.cut(node, clusterproc.Authority)
	hold(w.t, fault)
	o.healed(node, patience/2) // how soon is not promised
	w.heal(node, clusterproc.Authority)
}

func cutFromEverything(w *world, o *observed) {
	node := w.any()
	o.apart = node
	w.cut(node, clusterproc.Everything)
	hold(w.t, fault)
	o.healed(node, 10*time.Second)
	w.heal(node, clusterproc.Everything)
}

// terminate ends a node in good order.
func terminate(w *world, o *observed) {
	node := w.any()
	o.apart = node
	began := clusterproc.Now()
	code, err := w.cluster.Node(node).Stop(soon(w.t))
	w.check(err)
	w.t.Logf("n%d ended after %v", node, time.Duration(clusterproc.Now()-began))
	if code != 0 {
		w.t.Errorf("n%d exited with %d", node, code)
	}
	w.away = node
	w.settle()
}

// kill kills a node, and waits until others have taken over.
func kill(w *world, o *observed, node int) {
	o.apart = node
	w.cluster.Node(node).Kill()
	w.t.Logf("n%d is killed", node)
	w.away = node
	hold(w.t, takeover)
	w.settle()
}

// join starts the node that is away. Its own clients have it only when it is
// there.
func join(w *world, o *observed) {
	o.apart = w.away
	w.start(w.away)
	w.ready(w.away)
	o.healed(w.away, 10*time.Second)
	w.away = 0
}

// killAndRestart kills a node and starts it again at once, under its name.
func killAndRestart(w *world, o *observed) {
	node := w.any()
	o.apart = node
	w.cluster.Node(node).Kill()
	w.t.Logf("n%d is killed", node)
	w.start(node)
	w.ready(node)
	o.healed(node, 20*time.Second)
}

// stop stops a node's process for a time.
func stop(w *world, o *observed) {
	node := w.any()
	o.apart = node
	w.check(w.cluster.Node(node).Signal(syscall.SIGSTOP))
	w.t.Logf("n%d is stopped for %v", node, fault)
	hold(w.t, fault)
	o.healed(node, 8*time.Second)
	w.check(w.cluster.Node(node).Signal(syscall.SIGCONT))
}

// deleteLocks deletes the locks of some shards.
func deleteLocks(w *world, _ *observed) {
	for range 3 {
		shard := w.chance.IntN(256)
		w.t.Logf("the lock of shard %d is deleted", shard)
		w.check(w.consul.Delete(soon(w.t), fmt.Sprintf("quern/c/shards/%05d", shard)))
	}
	hold(w.t, takeover)
}

// emptyConsul lets Consul lose everything. Pauses count from when it takes
// writes again.
func emptyConsul(w *world, o *observed) {
	w.check(w.consul.Empty(soon(w.t)))
	o.from = clusterproc.Now()
	hold(w.t, fault)
}

func (w *world) snapshot() []byte {
	w.t.Helper()
	b, err := w.consul.Snapshot(soon(w.t))
	w.check(err)
	return b
}

func (w *world) restore(snapshot []byte, o *observed) {
	w.t.Helper()
	w.check(w.consul.Restore(soon(w.t), snapshot))
	o.from = clusterproc.Now()
	hold(w.t, max(fault, takeover))
}

// restartPostgres restarts the store. Its restart is part of the pause.
func restartPostgres(w *world, o *observed) {
	began := clusterproc.Now()
	w.check(w.pg.Stop())
	w.check(w.pg.Start(soon(w.t)))
	o.longer = time.Duration(clusterproc.Now() - began)
}
