package clusterfault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/clusterproc"
	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/pgproc"
	"github.com/quern-io/quern/internal/testservice"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// world is a cluster under load, and what is done to it. It belongs to one
// goroutine.
type world struct {
	t       *testing.T // the one that runs
	chance  *rand.Rand
	folder  string
	network clusterproc.Network
	cluster *clusterproc.Cluster
	consul  *clusterproc.Consul
	servers *clusterproc.Servers
	pg      *pgproc.Server
	load    *load
	witness clusterproc.Witness
	nodes   int
	away    int  // a node that does not run; 0 for none
	whole   bool // the last event has ended as it should
	store   string
	readers []*client.Client // by node less 1
}

// setting says what a world has.
type setting struct {
	nodes    int
	postgres bool
	consul   bool // one server that is on nobody's side
	servers  bool // one server on each side
	rate     int  // of all operations, a second
}

// newWorld starts services, nodes and loaders.
func newWorld(t *testing.T, s setting) *world {
	t.Helper()
	w := &world{t: t, chance: chance(t), nodes: s.nodes, store: "memory"}
	w.folder = scratch(t)
	var err error
	if w.network, err = clusterproc.New(s.nodes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.network.Close)
	testservice.Used(t, "cuts of links", w.network.Kind())
	config := clusterproc.Config{Network: w.network, Nodes: s.nodes, Binary: binary, Folder: w.folder}
	if s.consul {
		data := filepath.Join(w.folder, "consul")
		w.consul = clusterproc.NewConsul(testservice.Consul(t, consulproc.Options{Dir: data}), data)
		t.Cleanup(func() { w.consul.Kill() })
		config.Name, config.Consul = "c", clusterproc.DialTo("tcp", w.consul.Addr())
	}
	if s.servers {
		w.startServers()
		config.Name, config.LocalConsul = "c", clusterproc.ServerAddr
	}
	if s.postgres {
		w.store = "postgres"
		w.pg = testservice.Postgres(t)
		config.Postgres, config.Database = clusterproc.DialTo("unix", w.pg.Socket()), pgproc.Role
	}
	if w.cluster, err = clusterproc.NewCluster(config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.end)
	w.witness = clusterproc.Witness{Durable: s.postgres, TTL: lockTTL}
	for node := 1; node <= s.nodes; node++ {
		w.start(node)
	}
	for node := 1; node <= s.nodes; node++ {
		w.ready(node)
		w.readers = append(w.readers, w.dial(node))
	}
	if s.consul || s.servers {
		w.settle()
	}
	w.load = startLoad(t, w.network, s.nodes, s.rate, w.folder, w.chance)
	return w
}

func (w *world) startServers() {
	w.t.Helper()
	if _, err := consulproc.Find(); err != nil {
		testservice.Lacking(w.t, "consul", err.Error())
	}
	if !clusterproc.Entered() {
		testservice.Impossible(w.t, "three servers of Consul", "they need network namespaces")
	}
	var err error
	folder := filepath.Join(w.folder, "servers")
	if err := os.Mkdir(folder, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if w.servers, err = clusterproc.StartServers(soon(w.t), w.network, w.nodes, folder, clusterproc.FastConsul); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(w.servers.Kill)
}

// scratch returns a folder that stays where the test fails.
func scratch(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp(os.Getenv(logsEnv), "quern-clusterfault-logs") //nolint:usetesting // it may stay
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs are kept in %s", folder)
			return
		}
		_ = os.RemoveAll(folder)
	})
	return folder
}

// end ends the nodes; what they have logged is shown where the test failed.
func (w *world) end() {
	w.cluster.Kill()
	if w.t.Failed() {
		w.keepLogs()
	}
	for node := 1; node <= w.nodes; node++ {
		p := w.cluster.Node(node)
		if p == nil {
			continue
		}
		if w.t.Failed() {
			w.t.Logf("end of the log of n%d:\n%s", node, p.Log())
		}
		if strings.Contains(p.Log(), "DATA RACE") || strings.Contains(p.Log(), "panic: ") {
			w.t.Errorf("n%d has panicked or has a data race:\n%s", node, p.Log())
		}
	}
}

// keepLogs puts the logs of services beside those of the nodes.
func (w *world) keepLogs() {
	logs := make(map[string]string)
	if w.pg != nil {
		logs["postgres.log"] = w.pg.Log()
	}
	if w.consul != nil {
		logs["consul.log"] = w.consul.Log()
	}
	for name, text := range logs {
		if err := os.WriteFile(filepath.Join(w.folder, name), []byte(text), 0o600); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) start(node int) {
	w.t.Helper()
	if err := w.cluster.Start(node); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) ready(node int) {
	w.t.Helper()
	if err := w.cluster.Ready(soon(w.t), node); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) dial(node int) *client.Client {
	w.t.Helper()
	c, err := client.Dial(soon(w.t), w.network.Advertise(node))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// settle waits until every shard has an owner and all nodes that run have as many,
// give or take one.
func (w *world) settle() {
	w.t.Helper()
	var last string
	for ctx := soon(w.t); ; hold(w.t, 50*time.Millisecond) {
		if ctx.Err() != nil {
			w.t.Fatalf("the cluster does not settle: %s", last)
		}
		status, err := w.readers[w.present()-1].Status(ctx)
		if err != nil {
			last = err.Error()
			continue
		}
		last = status.String()
		if w.settled(status) {
			return
		}
	}
}

// settled counts by names: a process that has ended may be a member for a while.
func (w *world) settled(status *quernv1.ClusterServiceStatusResponse) bool {
	shards := make(map[int]uint32)
	for _, n := range status.GetNodes() {
		if node := clusterproc.Number(n.GetNode()); n.GetState() == "ready" && node != w.away {
			shards[node] += n.GetShards()
		}
	}
	running := w.nodes
	if w.away != 0 {
		running--
	}
	least, most := status.GetShardsTotal(), uint32(0)
	for _, n := range shards {
		least, most = min(least, n), max(most, n)
	}
	return len(shards) == running && most-least <= 1 && status.GetShardsOwned() == status.GetShardsTotal()
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// observed is what an event tells of itself.
type observed struct {
	// from is when pauses begin to count; 0 is the window's beginning.
	from int64
	// apart is a side whose clients had nobody to answer them; 0 for none.
	apart int
	// back is the node that has to answer again, since and within which time; 0
	// for none.
	back   int
	since  int64
	within time.Duration
	// longer is added to the bound.
	longer time.Duration
	// healing is added to it from since on.
	healing time.Duration
}

// event does something to the world while there is load.
type event struct {
	name  string
	bound time.Duration // of a key's longest pause
	do    func(w *world, o *observed)
}

// around is how long there is load before an event and after it.
const around = 500 * time.Millisecond

// run lets an event happen, judges what the clients saw and prints one line.
func (w *world) run(t *testing.T, e event) {
	t.Helper()
	w.t, w.load.t, w.whole = t, t, false
	w.load.begin()
	hold(t, around)
	if places := w.places(); places != 0 {
		t.Logf("n%d writes the placement", places)
	}
	var o observed
	e.do(w, &o)
	if o.back != 0 {
		w.await(o.back, o.since, o.within)
	}
	if w.consul != nil || w.servers != nil {
		w.settle()
	}
	w.read() // every key is answered for again
	hold(t, around)
	ops := w.load.end()
	w.whole = true
	v := w.witness.Judge(ops, w.read())
	pause := clusterproc.LongestPause(ops, o.from, func(op *clusterproc.Op) bool { return int(op.Side) != o.apart })
	bound := e.bound + o.longer
	if o.healing > 0 {
		// What was due shortly before the heal may have its answer after it.
		before := clusterproc.LongestPause(ops, o.from, func(op *clusterproc.Op) bool {
			return int(op.Side) != o.apart && (op.End < o.since || op.Due < o.since-int64(bound))
		})
		t.Logf("event=%q pause before the heal=%v bound=%v", e.name, before.Length.Round(time.Millisecond), bound)
		if before.Length > bound {
			t.Errorf("key %d had no answer for %v before the heal:\n%s", before.Key, before.Length, history(ops, before))
		}
		bound += o.healing
	}
	line := fmt.Sprintf("event=%q store=%s ops=%d acked=%d refused=%d unknown=%d lost=%d doubled=%d pause=%v bound=%v",
		e.name, w.store, v.Ops, v.Acked, v.Refused, v.Unknown, v.Lost, v.Doubled, pause.Length.Round(time.Millisecond), bound)
	if o.apart != 0 {
		cut := clusterproc.LongestPause(ops, o.from, func(op *clusterproc.Op) bool { return int(op.Side) == o.apart && !op.Only })
		line += fmt.Sprintf(" pause_of_clients_beside_n%d=%v", o.apart, cut.Length.Round(time.Millisecond))
	}
	if o.back != 0 {
		took := time.Duration(clusterproc.FirstAnswer(ops, uint8(o.back), o.since) - o.since)
		line += fmt.Sprintf(" back=%v within=%v", took.Round(time.Millisecond), o.within)
		if took < 0 || took > o.within {
			t.Errorf("n%d did not serve again within %v", o.back, o.within)
		}
	}
	t.Log(line)
	for _, wrong := range v.Wrong {
		t.Error(wrong)
	}
	if pause.Length > bound {
		t.Errorf("key %d had no answer for %v, from %v of the window on:\n%s", pause.Key, pause.Length, time.Duration(pause.From-begin(ops)), history(ops, pause))
	}
	if v.Acked < keys {
		t.Errorf("only %d of %d operations were acknowledged: that shows nothing", v.Acked, v.Ops)
	}
}

// history prints what was asked of a key around a pause, and whether others had
// one as long.
func history(ops []clusterproc.Op, p clusterproc.Pause) string {
	var b strings.Builder
	first, others := begin(ops), make(map[uint32]int)
	until := p.From + int64(p.Length)
	for i := range ops {
		op := &ops[i]
		if op.Kind == clusterproc.Grant || op.Kind == clusterproc.Release || op.End < p.From || op.Due > until {
			continue
		}
		if op.End-op.Due > int64(p.Length)*9/10 {
			others[op.Shard]++
		}
		if op.Key == p.Key {
			fmt.Fprintf(&b, "  due %v sent %v end %v from side %d (only its node: %v): kind %d, outcome %d, by n%d, shard %d, epoch %d\n",
				time.Duration(op.Due-first), time.Duration(op.Sent-first), time.Duration(op.End-first),
				op.Side, op.Only, op.Kind, op.Outcome, op.Node, op.Shard, op.Epoch)
		}
	}
	fmt.Fprintf(&b, "  as long took operations on these shards: %v", others)
	return b.String()
}

// begin is when the first operation was due.
func begin(ops []clusterproc.Op) int64 {
	first := clusterproc.Now()
	for i := range ops {
		first = min(first, ops[i].Due)
	}
	return first
}

// await waits until a node answers again; not much longer than it may take.
func (w *world) await(node int, since int64, within time.Duration) {
	w.t.Helper()
	for clusterproc.Now() < since+int64(within)+int64(5*time.Second) {
		if w.load.seen(node) > since {
			return
		}
		hold(w.t, 50*time.Millisecond)
	}
}

// read returns all counters, through any node.
func (w *world) read() map[uint32]int64 {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	b := handles.NewBatch(w.readers[w.present()-1])
	var answers []handles.CounterAnswer
	for key := range uint32(keys) {
		answers = append(answers, b.CounterGet(counterKey(key)))
	}
	if err := b.Do(ctx); err != nil {
		w.t.Fatalf("cannot read what is there: %v", err)
	}
	after := make(map[uint32]int64, keys)
	for key, a := range answers {
		value, err := a.Value()
		w.check(err)
		after[uint32(key)] = value
	}
	return after
}

// any is a node by chance.
func (w *world) any() int { return 1 + w.chance.IntN(w.nodes) }

// leader is the node whose server of Consul leads.
func (w *world) leader() int {
	w.t.Helper()
	ctx := soon(w.t)
	for ctx.Err() == nil {
		if node := w.servers.Leader(ctx, 1); node != 0 {
			return node
		}
		hold(w.t, 50*time.Millisecond)
	}
	w.t.Fatal("the servers of Consul have no leader")
	return 0
}

// accepts waits until a node's server of Consul takes writes.
func (w *world) accepts(node int) {
	w.t.Helper()
	for ctx := soon(w.t); ctx.Err() == nil; {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		ok := w.servers.Accepts(attempt, node)
		cancel()
		if ok {
			return
		}
	}
	w.t.Fatalf("the server of Consul beside n%d takes no writes:\n%s", node, w.servers.Log(node))
}

// present is a node by chance that runs.
func (w *world) present() int {
	node := w.any()
	for node == w.away {
		node = w.any()
	}
	return node
}

// places is the node that writes the placement; 0 where that is not known.
func (w *world) places() int {
	w.t.Helper()
	if w.consul == nil {
		return 0
	}
	session, err := w.consul.Holder(soon(w.t), "quern/c/leader")
	w.check(err)
	for node := 1; node <= w.nodes; node++ {
		if strings.HasPrefix(session, "quern-c-"+clusterproc.Name(node)+"-") {
			return node
		}
	}
	return 0
}

// placer is the node that writes the placement, or any if there is none; other is
// one of the others.
func (w *world) placer() int {
	if node := w.places(); node != 0 {
		return node
	}
	return w.any()
}

func (w *world) other() int {
	places := w.places()
	for {
		if node := w.any(); node != places {
			return node
		}
	}
}
