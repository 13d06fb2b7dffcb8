package owner_test

import (
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/clustertest"
)

// owners tells who answers for each shard.
func (w *world) owners() map[uint32]string {
	owners := make(map[uint32]string)
	for _, n := range w.nodes {
		for shard := range w.shards {
			if _, ok := n.shards.answers(shard, w.clock()); ok {
				owners[shard] = n.member.Name
			}
		}
	}
	return owners
}

// TestRetake: when the authority was away, or has forgotten everything, each
// node retakes what it served, though they come back one after the other. One
// that does not come back is missed after a while.
func TestRetake(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(*world){
		"stopped": func(w *world) {
			w.twin.Stop()
			w.run(10 * time.Second)
			w.twin.Start()
		},
		"stalled": func(w *world) {
			w.twin.Stall()
			w.run(10 * time.Second)
			w.twin.Resume()
		},
		"emptied": func(w *world) { w.twin.Empty() },
	} {
		for _, shared := range []bool{true, false} {
			t.Run(name+map[bool]string{true: "", false: ", memory"}[shared], func(t *testing.T) {
				t.Parallel()
				bubble(t, 1, 64, shared, func(w *world) {
					nodes := []*node{w.start("a"), w.start("b"), w.start("c")}
					w.settle(10*time.Second, nodes...)
					w.run(10 * time.Second)
					before := w.owners()
					nodes[1].client.Stall()
					gone := nodes[2]
					away(w)
					w.run(time.Second)
					nodes[1].client.Resume()
					w.settle(10*time.Second, nodes...)
					for shard, name := range w.owners() {
						if before[shard] != name {
							t.Errorf("shard %d was on %s and is on %s", shard, before[shard], name)
						}
					}
					kept := w.witness.kept
					if !shared && kept < int(w.shards) {
						t.Errorf("of %d shards %d kept what was in memory", w.shards, kept)
					}
					gone.client.Stall()
					away(w)
					w.settle(20*time.Second, nodes[:2]...)
				})
			})
		}
	}
}

// TestLateHandoff: a clean release that an older state of the authority brings
// back gives nobody a shard without the wait.
func TestLateHandoff(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		a := w.start("a")
		w.settle(5*time.Second, a)
		w.run(10 * time.Second)
		// Just when shards are on their way to b.
		b := w.boot("b")
		var states []clustertest.Snapshot
		started := make(chan error, 1)
		go func() { started <- b.owner.Start(w.Context()) }()
		for range 400 {
			states = append(states, w.twin.Snapshot())
			pass(time.Millisecond)
			w.witness.look()
		}
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		w.settle(5*time.Second, a, b)
		// Then all goes back to a, and b is there still.
		if err := b.owner.Announce(w.Context(), cluster.Draining); err != nil {
			t.Fatal(err)
		}
		w.settle(5*time.Second, a)
		for i := 0; i < len(states); i += 3 {
			// The owner does not see it, and trusts its locks for a while.
			a.client.Stall()
			w.twin.Restore(states[i])
			w.run(300 * time.Millisecond)
			a.client.Resume()
			w.settle(30*time.Second, a)
		}
	})
}
