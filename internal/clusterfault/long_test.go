//go:build long

package clusterfault

import (
	"testing"
	"time"

	"github.com/quern-io/quern/internal/clusterproc"
)

const (
	// fault is how long a fault lasts.
	fault = 30 * time.Second
	// long says that there is time for what takes long.
	long = true
)

// TestLoneNode shows the faults and the witnesses on one node without Consul.
func TestLoneNode(t *testing.T) {
	w := newWorld(t, setting{nodes: 1, postgres: true, rate: 1000})
	w.all([]event{
		{"PostgreSQL restarted", 2 * time.Second, restartPostgres},
		{"kill -9 and restart", 2 * takeover, func(w *world, o *observed) {
			killAndRestart(w, o)
			o.apart = 0 // there is no other side
		}},
		// Nothing is promised but that it comes back.
		{"cut from the store", 10 * time.Second, func(w *world, o *observed) {
			w.cut(1, clusterproc.Store)
			hold(w.t, fault)
			o.healed(1, 10*time.Second)
			w.heal(1, clusterproc.Store)
			o.longer = fault
		}},
	})
}
