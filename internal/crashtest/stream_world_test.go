package crashtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/internal/faultstream"
	"github.com/quern-io/quern/server"
)

const (
	worldClients = 3
	worldWorkers = 4 // per client
	worldOps     = 12
	worldKeys    = 10
	// patient is a time in which the network lets every operation through.
	patient = 20 * time.Minute
)

// trouble is what a world sees besides the network's faults.
type trouble struct {
	// crashes and restarts of the node, sessions that the node forgets, and
	// clients that are closed in the middle.
	crashes, restarts, forgets, closes int
	// sick: the store does not know what it has written.
	sick bool
	// narrow: the node refuses what is more than a few operations at once.
	narrow bool
	// idles: workers rest for longer than a session lives.
	idles bool
	// memory: the store is not durable, so that operations are run at once. The
	// node must not be stopped then.
	memory bool
	// mixed: every other life of the node takes no columns, as one of an
	// earlier version.
	mixed bool
}

// keepsSessions says that no client loses a session, so that whoever is
// patient learns the outcome.
func (r trouble) keepsSessions() bool { return r.forgets == 0 && r.closes == 0 && !r.idles }

// world is some clients with their workers, a rough network and a node whose
// power is cut now and then. It lives in a bubble.
type world struct {
	t       *testing.T
	seed    uint64
	rand    *rand.Rand // of the controller
	trouble trouble
	breaks  breaks
	net     *faultstream.Network
	disk    *vfs.MemFS
	node    *streamNode
	lives   int // of the node, so far
	answers *firstAnswers
	ledger  *ledger
	callers callers
	clients [worldClients]atomic.Pointer[client.Client]
	stats   client.Stats // of the clients that are closed; the controller's
	// load is what the clients do; nil for adds that the ledger checks.
	load workload
}

// workload is what the clients of a world do, and what is said of it in the end.
type workload interface {
	work(i int, r *rand.Rand)
	check() (wrong []string)
}

func newWorld(t *testing.T, seed uint64, r trouble, b breaks) *world {
	t.Helper()
	return newWorldOn(t, faultstream.New(seed, faultstream.Rough()), seed, r, b)
}

func newWorldOn(t *testing.T, net *faultstream.Network, seed uint64, r trouble, b breaks) *world {
	t.Helper()
	w := &world{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), trouble: r, breaks: b,
		net: net, disk: vfs.NewCrashableMem(),
		answers: newFirstAnswers(), ledger: newLedger(),
	}
	w.callers = callers{
		ledger: w.ledger, keys: worldKeys, key: worldKey, patient: patient, sure: r.keepsSessions(),
	}
	if r.narrow {
		w.breaks.inFlight = 6
	}
	if r.memory {
		w.disk = nil
	}
	if r.sick {
		w.breaks.store = func(s actors.Store) actors.Store {
			return &sickStore{Store: s, rand: rand.New(rand.NewPCG(seed, 2))}
		}
	}
	w.start()
	for i := range w.clients {
		w.clients[i].Store(w.dial())
	}
	return w
}

// start starts the node on what is on the disk.
func (w *world) start() {
	w.t.Helper()
	var disk vfs.FS
	if w.disk != nil {
		disk = w.disk
	}
	b := w.breaks
	if w.lives++; w.trouble.mixed && w.lives%2 == 0 && b.backend == nil {
		b.backend = func(b server.Backend) server.Backend { return withoutColumns{b} }
	}
	node, err := startNode(w.t.Context(), disk, b, w.answers)
	if err != nil {
		w.t.Fatal(err)
	}
	w.node = node
	w.answers.setDeaf(false)
	w.net.Serve(node.server.ServeStream)
}

// crash cuts the power: what is not synced is lost, in part or as a whole.
func (w *world) crash() {
	w.net.Note("power cut")
	w.answers.setDeaf(true)
	w.net.Serve(nil) // what a dead node says reaches nobody
	disk := w.disk.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: w.rand.IntN(101), RNG: rand.New(rand.NewPCG(w.rand.Uint64(), 1)),
	})
	w.node.stop(w.t)
	w.disk = disk
}

// stop ends the node as a deployment does.
func (w *world) stop() {
	w.net.Note("stop")
	w.node.stop(w.t)
	w.net.Serve(nil)
}

func (w *world) dial() *client.Client {
	for {
		c, err := client.Over(w.t.Context(), w.net.Open, client.Options{Connections: 1 + int(w.seed%3)})
		if err == nil {
			return c
		}
		pauseFor(10 * time.Millisecond)
	}
}

func pauseFor(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a bubble
}

// run lets the world live and returns what went wrong.
func (w *world) run() []string {
	var workers sync.WaitGroup
	for i := range worldClients * worldWorkers {
		work := w.work
		if w.load != nil {
			work = w.load.work
		}
		workers.Go(func() { work(i, rand.New(rand.NewPCG(w.seed, 1+uint64(i)))) })
	}
	w.disturb()
	workers.Wait()
	w.net.Calm()
	pauseFor(5 * time.Minute) // whatever is still on its way arrives
	if w.disk != nil && w.rand.IntN(2) == 0 {
		w.crash()
		w.start()
	}
	var wrong []string
	if w.load == nil {
		wrong = w.ledger.close(w.readAll())
	}
	for i := range w.clients {
		w.close(i)
	}
	w.net.Close()
	w.node.stop(w.t)
	if w.load != nil {
		wrong = w.load.check()
	}
	return append(wrong, w.answers.wrong...)
}

// disturb does to node and clients what the trouble says.
func (w *world) disturb() {
	var all []func()
	add := func(n int, f func()) {
		for range n {
			all = append(all, f)
		}
	}
	down := func() {
		pauseFor(time.Duration(w.rand.IntN(3000)) * time.Millisecond)
		w.start()
	}
	add(w.trouble.crashes, func() { w.crash(); down() })
	add(w.trouble.restarts, func() { w.stop(); down() })
	add(w.trouble.forgets, func() {
		for range 1 + w.rand.IntN(8) { // in a row
			w.forget()
			pauseFor(time.Duration(w.rand.IntN(30)) * time.Millisecond)
		}
	})
	add(w.trouble.closes, func() {
		i := w.rand.IntN(worldClients)
		w.net.Note("client %d is closed", i)
		w.close(i)
		w.clients[i].Store(w.dial())
	})
	w.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, f := range all {
		pauseFor(time.Duration(w.rand.ExpFloat64() * float64(300*time.Millisecond)))
		f()
	}
}

// forget lets the node forget a session, as it does when one expires.
func (w *world) forget() {
	known := w.net.Sessions()
	if len(known) == 0 {
		return
	}
	newest := max(0, len(known)-2*worldClients)
	s := known[newest+w.rand.IntN(len(known)-newest)]
	w.net.Note("session %x of shard %d is forgotten", s.ID, s.Shard)
	w.node.runtime.CloseSession(s.Shard, s.ID, func(uint64, error) {})
}

func (w *world) close(i int) {
	c := w.clients[i].Load()
	_ = c.Close()
	w.stats.Retries += c.Stats().Retries
	w.stats.Connects += c.Stats().Connects
}

// readAll reads the counters over a calm network.
func (w *world) readAll() map[string]int64 {
	c := w.dial()
	defer c.Close()
	values := make(map[string]int64)
	for i := range worldKeys {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		value, err := c.Counter(worldKey(i)).Get(ctx)
		cancel()
		if err != nil {
			w.t.Fatalf("read: %v", err)
		}
		values[worldKey(i)] = value
	}
	return values
}

func worldKey(i int) string { return fmt.Sprintf("key-%d", i) }

// work runs a worker's operations.
func (w *world) work(i int, r *rand.Rand) {
	for range worldOps {
		w.callers.operate(w.clients[i%worldClients].Load(), r)
		switch n := r.IntN(40); {
		case n == 0 && w.trouble.idles:
			pauseFor(70 * time.Minute)
		case n < 4:
			pauseFor(time.Duration(r.IntN(2000)) * time.Millisecond)
		default:
			pauseFor(time.Duration(r.IntN(20)) * time.Millisecond)
		}
	}
}
