package owner_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs a test on a cluster of its own.
func bubble(t *testing.T, seed uint64, shards uint32, shared bool, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, shards, shared)
		defer w.end()
		test(w)
	})
}

// TestOneToFive starts nodes one after the other, and lets them leave.
func TestOneToFive(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		var nodes []*node
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			nodes = append(nodes, w.start(name))
			w.settle(5*time.Second, nodes...)
		}
		w.gap()
		for len(nodes) > 1 {
			began := w.clock()
			if err := nodes[0].owner.Leave(w.Context()); err != nil {
				w.Fatal(err)
			}
			took := w.clock() - began
			nodes = nodes[1:]
			w.settle(5*time.Second, nodes...)
			if gap := w.gap(); gap > time.Second || took > time.Second {
				w.Errorf("a leave took %v, with a gap of %v", took, gap)
			}
		}
	})
}
