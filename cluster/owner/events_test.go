package owner_test

import (
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
)

// events are what happens to a cluster of three, with the bound on how long a
// shard may be without an owner. Counts of nodes begin with the one that leads.
var events = []struct {
	name  string
	bound time.Duration
	play  func(w *world, nodes []*node) []*node
}{
	{"kill", 5 * time.Second, func(_ *world, n []*node) []*node {
		n[1].kill()
		return []*node{n[0], n[2]}
	}},
	{"kill the leader", 5 * time.Second, func(_ *world, n []*node) []*node {
		n[0].kill()
		return n[1:]
	}},
	{"kill and restart at once", 5 * time.Second, func(w *world, n []*node) []*node {
		n[1].kill()
		return []*node{n[0], w.start("b"), n[2]}
	}},
	{"kill the leader and restart it at once", 5 * time.Second, func(w *world, n []*node) []*node {
		n[0].kill()
		return []*node{w.start("a"), n[1], n[2]}
	}},
	{"pause of 30 s", 5 * time.Second, func(w *world, n []*node) []*node {
		n[2].pause()
		w.run(30 * time.Second)
		n[2].resume()
		return n
	}},
	{"pause of 1 s", 0, func(w *world, n []*node) []*node {
		n[2].pause()
		w.run(time.Second)
		n[2].resume()
		return n
	}},
	{"cut from the authority for 30 s", 5 * time.Second, func(w *world, n []*node) []*node {
		n[1].client.Stall()
		w.run(30 * time.Second)
		n[1].client.Resume()
		return n
	}},
	{"refused by the authority for 30 s", 5 * time.Second, func(w *world, n []*node) []*node {
		n[0].client.Cut()
		w.run(30 * time.Second)
		n[0].client.Heal()
		return n
	}},
	{"cut from everything for 30 s", 5 * time.Second, func(w *world, n []*node) []*node {
		w.cutPeers("c", true)
		n[2].client.Stall()
		w.run(30 * time.Second)
		w.cutPeers("c", false)
		n[2].client.Resume()
		return n
	}},
	{"authority stalled for 1 s", 0, func(w *world, n []*node) []*node {
		w.twin.Stall()
		w.run(time.Second)
		w.twin.Resume()
		return n
	}},
	{"authority stalled for 20 s", 20*time.Second + 5*time.Second, func(w *world, n []*node) []*node {
		w.twin.Stall()
		w.run(20 * time.Second)
		w.twin.Resume()
		return n
	}},
	{"authority stopped for 10 s", 10*time.Second + 5*time.Second, func(w *world, n []*node) []*node {
		w.twin.Stop()
		w.run(10 * time.Second)
		w.twin.Start()
		return n
	}},
	{"authority emptied", 5 * time.Second, func(w *world, n []*node) []*node {
		w.twin.Empty()
		return n
	}},
	{"lock deleted", 5 * time.Second, func(w *world, n []*node) []*node {
		for shard := range uint32(5) {
			w.twin.DeleteLock(clusterName, shard)
		}
		return n
	}},
	{"session ended", 5 * time.Second, func(w *world, n []*node) []*node {
		w.twin.EndSession(w.session(n[1]))
		return n
	}},
	{"restored from a minute ago", 5 * time.Second, func(w *world, n []*node) []*node {
		s := w.twin.Snapshot()
		w.run(time.Minute)
		w.twin.Restore(s)
		return n
	}},
	{"restored where its holders are gone", 25 * time.Second, func(w *world, n []*node) []*node {
		s := w.twin.Snapshot()
		if err := n[0].owner.Leave(w.Context()); err != nil {
			w.Error(err)
		}
		n[1].kill()
		left := []*node{n[2], w.start("d")}
		w.settle(15*time.Second, left...)
		w.gap()
		w.twin.Restore(s)
		return left
	}},
	{"leave", time.Second, func(w *world, n []*node) []*node {
		if err := n[1].owner.Leave(w.Context()); err != nil {
			w.Error(err)
		}
		return []*node{n[0], n[2]}
	}},
	{"the leader leaves", time.Second, func(w *world, n []*node) []*node {
		if err := n[0].owner.Leave(w.Context()); err != nil {
			w.Error(err)
		}
		return n[1:]
	}},
	{"drained, then ready again", time.Second, func(w *world, n []*node) []*node {
		if err := n[1].owner.Announce(w.Context(), cluster.Draining); err != nil {
			w.Error(err)
		}
		w.settle(3*time.Second, n[0], n[2])
		if count := n[1].count(); count != 0 {
			w.Errorf("the drained node has %d shards", count)
		}
		if err := n[1].owner.Announce(w.Context(), cluster.Ready); err != nil {
			w.Error(err)
		}
		return n
	}},
	{"leave of a node that nobody can reach", 4 * time.Second, func(w *world, n []*node) []*node {
		w.cutPeers("b", true)
		if err := n[1].owner.Leave(w.Context()); err != nil {
			w.Error(err)
		}
		return []*node{n[0], n[2]}
	}},
}

func (w *world) cutPeers(name string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parts[name] = cut
}

// session is a node's, as the locks tell it.
func (w *world) session(n *node) cluster.Session {
	table, err := n.client.Table(w.Context(), cluster.Watch{})
	if err != nil {
		w.Fatal(err)
	}
	for _, l := range table.Locks {
		if l.Holder != "" && l.Value.Owner == n.member.Incarnation {
			return l.Holder
		}
	}
	w.Fatal("it holds nothing")
	return ""
}

// TestEvents: after each event, never two nodes answer for a shard, epochs
// rise, each shard is answered for again within the bound, and in the end all
// is even. So it is with a store that all share, and with one for each node.
func TestEvents(t *testing.T) {
	t.Parallel()
	for _, event := range events {
		for _, shared := range []bool{true, false} {
			t.Run(event.name+map[bool]string{true: "", false: ", memory"}[shared], func(t *testing.T) {
				t.Parallel()
				bubble(t, 1, 64, shared, func(w *world) {
					nodes := []*node{w.start("a"), w.start("b"), w.start("c")}
					w.settle(10*time.Second, nodes...)
					w.run(8 * time.Second)
					w.gap()
					nodes = event.play(w, nodes)
					w.run(8 * time.Second)
					w.settle(20*time.Second, nodes...)
					gap := w.gap()
					t.Logf("%s: %v without an owner", event.name, gap)
					if gap > event.bound {
						t.Errorf("a shard was without an owner for %v, not %v", gap, event.bound)
					}
				})
			})
		}
	}
}
