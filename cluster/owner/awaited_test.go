package owner_test

import (
	"testing"
	"time"
)

// TestAwaited: when the authority is back, whoever does not come back with it is
// waited for while it answers its peers, for a delay and two check TTLs at most.
// One that is gone costs a delay and a little: that is counted meanwhile.
func TestAwaited(t *testing.T) {
	t.Parallel()
	const (
		delay = 2 * time.Second
		held  = delay + 2*2*time.Second
		// again is by how much the others may come later than the authority.
		again = time.Second
	)
	for _, test := range []struct {
		name        string
		away        func(w *world, n *node)
		least, most time.Duration
	}{
		{"killed", func(_ *world, n *node) { n.kill() }, delay, delay + again},
		{"stopped", func(_ *world, n *node) { n.pause() }, delay, delay + again},
		{"cut from everything", func(w *world, n *node) {
			w.cutPeers(n.member.Name, true)
			n.client.Stall()
		}, delay, delay + again},
		{"cut from the authority", func(_ *world, n *node) { n.client.Stall() }, held, held + again},
	} {
		for which, whose := range []string{", who led", ", who did not lead"} {
			t.Run(test.name+whose, func(t *testing.T) {
				t.Parallel()
				bubble(t, 1, 64, true, func(w *world) {
					nodes := []*node{w.start("a"), w.start("b"), w.start("c")}
					w.settle(10*time.Second, nodes...)
					w.run(5 * time.Second)
					gone := nodes[which]
					left := append(nodes[:which:which], nodes[which+1:]...)
					w.twin.Stop()
					w.run(10 * time.Second)
					test.away(w, gone)
					w.twin.Start()
					began := w.clock()
					for w.unserved() > 0 && w.clock() < began+time.Minute {
						w.run(10 * time.Millisecond)
					}
					took := w.clock() - began
					t.Logf("served again after %v", took)
					if took < test.least || took > test.most {
						t.Errorf("all is served again after %v, not %v to %v", took, test.least, test.most)
					}
					w.settle(time.Second, left...)
				})
			})
		}
	}
}

// TestAwaitedComes: one that answers its peers, and comes back late but before
// it is given up, has its own shards again.
func TestAwaitedComes(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 64, true, func(w *world) {
		nodes := []*node{w.start("a"), w.start("b"), w.start("c")}
		w.settle(10*time.Second, nodes...)
		w.run(5 * time.Second)
		before := w.owners()
		nodes[2].client.Stall()
		w.twin.Stop()
		w.run(10 * time.Second)
		w.twin.Start()
		w.run(5 * time.Second)
		nodes[2].client.Resume()
		w.settle(10*time.Second, nodes...)
		for shard, name := range w.owners() {
			if before[shard] != name {
				t.Errorf("shard %d was on %s and is on %s", shard, before[shard], name)
			}
		}
	})
}
