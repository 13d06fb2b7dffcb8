package owner_test

import (
	"fmt"
	"testing"
	"time"
)

// TestDeadSession: a node that was cut off for a moment passes again before it
// knows that its session is gone, and then has a new one before it has read
// anything. Neither costs those a pause whose owner leaves at that moment.
func TestDeadSession(t *testing.T) {
	t.Parallel()
	// When it was cut off matters, since a session is renewed every few seconds.
	for off := time.Duration(0); off < 5*time.Second; off += 700 * time.Millisecond {
		for _, after := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond, 900 * time.Millisecond} {
			t.Run(fmt.Sprint(off, " ", after), func(t *testing.T) {
				t.Parallel()
				bubble(t, 1, 2, true, func(w *world) {
					deadSession(w, off, after)
				})
			})
		}
	}
}

func deadSession(w *world, off, after time.Duration) {
	leads, idle := w.start("b"), w.start("a") // with two shards and three nodes
	other := w.start("c")
	w.settle(10*time.Second, leads, other, idle)
	if owners := w.owners(); owners[0] == "a" || owners[1] == "a" {
		w.Fatalf("shards are on %v", owners)
	}
	w.run(10*time.Second + off)
	idle.client.Cut()
	w.run(2600 * time.Millisecond)
	idle.client.Heal()
	w.run(after)
	w.gap()
	if err := leads.owner.Leave(w.Context()); err != nil {
		w.Error(err)
	}
	w.run(10 * time.Second)
	w.settle(time.Second, other, idle)
	if gap := w.gap(); gap > time.Second {
		w.Errorf("a shard was without an owner for %v", gap)
	} else {
		w.Logf("%v without an owner", gap)
	}
}
