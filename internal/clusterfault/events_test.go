package clusterfault

import (
	"syscall"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/clusterproc"
)

// fault is how long a fault lasts.
var fault = 8 * time.Second

// restartPostgres restarts the store. Its restart is part of the pause.
func restartPostgres(w *world, o *observed) {
	began := clusterproc.Now()
	w.check(w.pg.Stop())
	w.check(w.pg.Start(soon(w.t)))
	o.longer = time.Duration(clusterproc.Now() - began)
}

// kill kills a node and starts it again at once, under its name.
func killAndRestart(w *world, o *observed) {
	node := w.any()
	o.apart, o.back, o.within = node, node, 20*time.Second
	w.cluster.Node(node).Kill()
	o.since = clusterproc.Now()
	w.start(node)
	w.ready(node)
}

// pause stops a node's process and lets it go on.
func pause(w *world, o *observed) {
	node := w.any()
	o.apart, o.back, o.within = node, node, 8*time.Second
	w.check(w.cluster.Node(node).Signal(syscall.SIGSTOP))
	hold(w.t, fault)
	o.since = clusterproc.Now()
	w.check(w.cluster.Node(node).Signal(syscall.SIGCONT))
}

// cut cuts links of a node and heals them.
func (w *world) cut(o *observed, node int, links clusterproc.Link) {
	w.check(w.network.Cut(node, links))
	hold(w.t, fault)
	o.back, o.since, o.within = node, clusterproc.Now(), 10*time.Second
	w.check(w.network.Heal(node, links))
}

// TestLoneNode shows the faults and the witnesses on one node without Consul.
func TestLoneNode(t *testing.T) {
	w := newWorld(t, setting{nodes: 1, postgres: true, rate: 1000})
	for _, e := range []event{
		{"nothing", time.Second, func(*world, *observed) {}},
		{"PostgreSQL restarted", 2 * time.Second, restartPostgres},
		{"kill -9 and restart", 5 * time.Second, func(w *world, o *observed) {
			killAndRestart(w, o)
			o.apart = 0
		}},
		{"the store cut off", 10 * time.Second, func(w *world, o *observed) {
			w.cut(o, 1, clusterproc.Store)
			o.longer = fault
		}},
	} {
		t.Run(e.name, func(t *testing.T) { w.run(t, e) })
	}
}
