package owner_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/clustertest"
	"github.com/quern-io/quern/cluster/owner"
)

const clusterName = "c"

// world is a cluster in one bubble: a twin, nodes, one store or one each, and a
// witness who sees all that the nodes would answer.
type world struct {
	*testing.T

	twin    *clustertest.Twin
	rng     *rand.Rand
	began   time.Time
	shards  uint32
	shared  bool
	store   *rows
	witness *witness
	log     *slog.Logger
	// lookEvery is how often the witness looks, beside each time that somebody
	// begins to serve.
	lookEvery time.Duration
	// authority, where set, stands before that of each node.
	authority func(cluster.Authority) cluster.Authority

	mu    sync.Mutex
	nodes map[cluster.Incarnation]*node
	parts map[string]bool // names that no peer reaches
}

func newWorld(t *testing.T, seed uint64, shards uint32, shared bool) *world {
	t.Helper()
	w := &world{
		T: t, twin: clustertest.New(), rng: rand.New(rand.NewPCG(seed, 7)), began: time.Now(),
		shards: shards, shared: shared, store: newRows(), nodes: make(map[cluster.Incarnation]*node),
		parts: make(map[string]bool), lookEvery: 5 * time.Millisecond, log: slog.New(slog.DiscardHandler),
	}
	w.twin.Latency = time.Millisecond
	if testing.Verbose() {
		w.log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	w.witness = newWitness(w, shards)
	return w
}

// clock is common to all.
func (w *world) clock() time.Duration { return time.Since(w.began) }

// node is one life of a node.
type node struct {
	w      *world
	member cluster.Member
	client *clustertest.Client
	owner  *owner.Owner
	shards *fakeShards
	store  *rows
	skew   time.Duration

	mu   sync.Mutex
	gate chan struct{} // closed by resume; nil while it runs
	dead bool
}

// boot makes a life of a node that was not started.
func (w *world) boot(name string) *node { w.Helper(); return w.bootAt(name, name+":1") }

// bootAt makes one that announces an address.
func (w *world) bootAt(name, addr string) *node {
	w.Helper()
	n := &node{w: w, client: w.twin.Connect(clusterName, 0), store: w.store, member: cluster.Member{
		Name: name, Incarnation: cluster.NewIncarnation(), Addr: addr, Protocol: 1,
	}}
	if !w.shared {
		n.store = newRows()
	}
	n.shards = &fakeShards{n: n, served: make(map[uint32]owner.Serving), last: make(map[uint32]uint64)}
	cfg := owner.Config{
		Authority: n.client, Member: n.member, Record: cluster.Record{Shards: w.shards},
		Store: n.store, Shards: n.shards, Peers: peers{n}, Shared: w.shared, Clock: n.clock,
		Skew:   func(context.Context) (time.Duration, error) { n.mu.Lock(); defer n.mu.Unlock(); return n.skew, nil },
		Logger: w.log.With(slog.String("node", name)),
	}
	if w.authority != nil {
		cfg.Authority = w.authority(n.client)
	}
	o, err := owner.New(cfg)
	if err != nil {
		w.Fatal(err)
	}
	n.owner = o
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes[n.member.Incarnation] = n
	return n
}

// start begins a life and returns when it has joined.
func (w *world) start(name string) *node {
	w.Helper()
	n := w.boot(name)
	if err := n.owner.Start(w.Context()); err != nil {
		w.Fatalf("start of %s: %v", name, err)
	}
	return n
}

// clock stands still for those who ask while the node is paused: they wait.
func (n *node) clock() time.Duration {
	for {
		n.mu.Lock()
		gate := n.gate
		n.mu.Unlock()
		if gate == nil {
			return n.w.clock()
		}
		<-gate
	}
}

// pause stops what the node does, as a signal does to a process.
func (n *node) pause() {
	n.mu.Lock()
	if n.gate == nil {
		n.gate = make(chan struct{})
	}
	n.mu.Unlock()
	n.client.Stall()
}

func (n *node) resume() {
	n.mu.Lock()
	if n.gate != nil {
		close(n.gate)
		n.gate = nil
	}
	n.mu.Unlock()
	n.client.Resume()
}

func (n *node) setSkew(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.skew = d
}

// kill ends a life without a word to anybody.
func (n *node) kill() {
	n.mu.Lock()
	n.dead = true
	n.mu.Unlock()
	n.client.Cut()
	n.client.Resume()
	n.resume()
	n.shards.die()
	_ = n.owner.Close(context.Background())
}

func (n *node) reachable() (alive bool, gate chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.dead, n.gate
}

// peers reaches the other nodes without a network.
type peers struct{ n *node }

var errNoPeer = errors.New("no such peer")

func (p peers) to(ctx context.Context, m cluster.Member) (*node, error) {
	w := p.n.w
	w.mu.Lock()
	other, cut := w.nodes[m.Incarnation], w.parts[m.Name] || w.parts[p.n.member.Name]
	w.mu.Unlock()
	if other == nil {
		return nil, errNoPeer
	}
	alive, gate := other.reachable()
	switch {
	case !alive:
		return nil, errNoPeer
	case gate != nil || cut:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	pass(time.Millisecond)
	return other, nil
}

func (p peers) Offer(ctx context.Context, to cluster.Member, from cluster.Incarnation, offers []owner.Offer) error {
	other, err := p.to(ctx, to)
	if err != nil {
		return err
	}
	return other.owner.Offered(from, offers)
}

func (p peers) Highest(ctx context.Context, of cluster.Member, asks cluster.Incarnation, shards []uint32) ([]uint64, error) {
	other, err := p.to(ctx, of)
	if err != nil {
		return nil, err
	}
	return other.owner.Highest(asks, shards), nil
}

// rows are a store's: shared by all nodes, or one node's own.
type rows struct {
	mu      sync.Mutex
	epochs  map[uint32]uint64
	by      map[uint32]cluster.Incarnation
	written map[uint32]uint64
	emptied int
}

func newRows() *rows {
	return &rows{epochs: map[uint32]uint64{}, by: map[uint32]cluster.Incarnation{}, written: map[uint32]uint64{}}
}

func (r *rows) Raise(_ context.Context, requests []owner.EpochRaise) ([]owner.EpochRaised, error) {
	pass(time.Millisecond)
	return r.raise(requests), nil
}

func (r *rows) raise(requests []owner.EpochRaise) []owner.EpochRaised {
	r.mu.Lock()
	defer r.mu.Unlock()
	raised := make([]owner.EpochRaised, len(requests))
	for i, q := range requests {
		was := r.epochs[q.Shard]
		ok := was < q.Epoch
		if q.From != 0 {
			ok = was == q.From || was == q.Epoch && r.by[q.Shard] == q.Incarnation
		}
		if ok {
			r.epochs[q.Shard], r.by[q.Shard] = q.Epoch, q.Incarnation
		}
		raised[i] = owner.EpochRaised{OK: ok, Epoch: r.epochs[q.Shard]}
	}
	return raised
}

// cas raises a shard's epoch by one from the owner's own, as a runtime does
// after an unclear commit.
func (r *rows) cas(shard uint32, from uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epochs[shard] != from {
		return false
	}
	r.epochs[shard]++
	return true
}

func (r *rows) Written(shard uint32) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.written[shard]
}

func (r *rows) Empty(shard uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.written, shard)
	r.emptied++
}

// fakeShards is a runtime that answers for nothing but remembers whether it
// would.
type fakeShards struct {
	n      *node
	mu     sync.Mutex
	dead   bool
	served map[uint32]owner.Serving
	last   map[uint32]uint64
	// drains is how long one takes.
	drains time.Duration
}

func (f *fakeShards) Serve(s owner.Serving) {
	f.n.w.witness.serves(f.n, s)
	f.mu.Lock()
	// A runtime does not serve under an epoch that it had.
	if !f.dead && s.Epoch > f.last[s.Shard] {
		f.served[s.Shard], f.last[s.Shard] = s, s.Epoch
	}
	f.mu.Unlock()
	f.n.w.witness.look(s.Shard)
}

func (f *fakeShards) Extend(shards []uint32, until time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, shard := range shards {
		if s, ok := f.served[shard]; ok {
			s.Until = max(s.Until, until)
			f.served[shard] = s
		}
	}
}

func (f *fakeShards) Stop(shard uint32, epoch uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.served[shard]; ok && s.Epoch == epoch {
		delete(f.served, shard)
	}
}

func (f *fakeShards) Drain(ctx context.Context, shard uint32, epoch uint64) error {
	f.mu.Lock()
	took := f.drains
	f.mu.Unlock()
	if took > 0 {
		timer := time.NewTimer(took)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.Stop(shard, epoch)
	return nil
}

func (f *fakeShards) die() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	clear(f.served)
}

// answers says under which epoch the node would answer at a time.
func (f *fakeShards) answers(shard uint32, at time.Duration) (uint64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.served[shard]
	return s.Epoch, ok && at < s.Until
}

// reraise raises the epoch of a shard that is served as a runtime does.
func (f *fakeShards) reraise(shard uint32) {
	f.mu.Lock()
	s, ok := f.served[shard]
	f.mu.Unlock()
	if !ok || !f.n.store.cas(shard, s.Epoch) {
		return
	}
	f.mu.Lock()
	if now, still := f.served[shard]; still && now.Epoch == s.Epoch {
		now.Epoch++
		f.served[shard] = now
	}
	f.last[shard] = max(f.last[shard], s.Epoch+1)
	f.mu.Unlock()
	f.n.w.witness.rose(f.n, shard, s.Epoch+1)
	f.n.owner.Reraised(shard, s.Epoch+1)
}

// witness looks at all nodes again and again by a common clock.
type witness struct {
	w    *world
	mu   sync.Mutex
	all  []uint32
	last []lastServed
	// silent is since when nobody answers for a shard, longest how long that
	// was at most since it was asked last.
	silent  []time.Duration
	longest time.Duration
	wrong   string
	served  int
	kept    int
	// forgets: epochs need not rise.
	forgets bool
}

type lastServed struct {
	epoch uint64
	by    cluster.Incarnation
}

func newWitness(w *world, shards uint32) *witness {
	v := &witness{w: w, last: make([]lastServed, shards), silent: make([]time.Duration, shards)}
	for shard := range shards {
		v.all = append(v.all, shard)
	}
	return v
}

func (v *witness) fail(format string, args ...any) {
	if v.wrong == "" {
		v.wrong = fmt.Sprintf("%v ", v.w.clock()) + fmt.Sprintf(format, args...)
	}
}

// serves notes the beginning of a time under an epoch.
func (v *witness) serves(n *node, s owner.Serving) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.served++
	last := &v.last[s.Shard]
	// A runtime may have raised its own epoch as the owner was about to.
	if !v.forgets && (s.Epoch < last.epoch || s.Epoch == last.epoch && last.by != n.member.Incarnation) {
		v.fail("%s serves %d#%d after #%d", n.member.Name, s.Shard, s.Epoch, last.epoch)
	}
	was := *last
	*last = lastServed{s.Epoch, n.member.Incarnation}
	n.store.mu.Lock()
	defer n.store.mu.Unlock()
	if !n.w.shared {
		// What was there before, and was not emptied, is to be what was served last.
		if written := n.store.written[s.Shard]; written != 0 && was != (lastServed{written, n.member.Incarnation}) {
			v.fail("%s serves %d#%d with states of #%d, and %d was served under #%d meanwhile", n.member.Name, s.Shard, s.Epoch, written, s.Shard, was.epoch)
		} else if written != 0 {
			v.kept++
		}
		n.store.written[s.Shard] = s.Epoch
	} else {
		if row := n.store.epochs[s.Shard]; row < s.Epoch {
			v.fail("%s serves %d#%d, the store has #%d", n.member.Name, s.Shard, s.Epoch, row)
		}
	}
}

func (v *witness) rose(n *node, shard uint32, epoch uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if last := &v.last[shard]; last.by == n.member.Incarnation {
		last.epoch = max(last.epoch, epoch)
	}
}

// look checks that no shard is answered for twice, and notes silence.
func (v *witness) look(shards ...uint32) {
	v.w.mu.Lock()
	nodes := make([]*node, 0, len(v.w.nodes))
	for _, n := range v.w.nodes {
		nodes = append(nodes, n)
	}
	v.w.mu.Unlock()
	now := v.w.clock()
	v.mu.Lock()
	defer v.mu.Unlock()
	if shards == nil {
		shards = v.all
	}
	for _, shard := range shards {
		var by *node
		for _, n := range nodes {
			if _, ok := n.shards.answers(shard, now); ok {
				if by != nil {
					v.fail("shard %d is answered for by %s and by %s", shard, by.member.Name, n.member.Name)
				}
				by = n
			}
		}
		if by != nil {
			v.silent[shard] = now
		} else {
			v.longest = max(v.longest, now-v.silent[shard])
		}
	}
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a bubble
}

// run lets time pass and looks meanwhile.
func (w *world) run(d time.Duration) {
	w.Helper()
	for end := w.clock() + d; w.clock() < end; {
		pass(w.lookEvery)
		w.witness.look()
	}
	w.witness.mu.Lock()
	defer w.witness.mu.Unlock()
	if w.witness.wrong != "" {
		w.Fatal(w.witness.wrong)
	}
}

// gap returns the longest silence of a shard since it was called last.
func (w *world) gap() time.Duration {
	v := w.witness
	v.mu.Lock()
	defer v.mu.Unlock()
	longest := v.longest
	v.longest = 0
	for shard := range v.silent {
		v.silent[shard] = w.clock()
	}
	return longest
}

// unserved counts the shards that nobody answers for.
func (w *world) unserved() int {
	v := w.witness
	v.look()
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, at := range v.silent {
		if at != w.clock() {
			n++
		}
	}
	return n
}

// settle waits until each shard is served, and evenly by these nodes.
func (w *world) settle(bound time.Duration, nodes ...*node) {
	w.Helper()
	for end := w.clock() + bound; ; w.run(50 * time.Millisecond) {
		counts, even := make([]int, len(nodes)), w.unserved() == 0
		for i, n := range nodes {
			counts[i] = n.count()
			share := int(w.shards) / len(nodes)
			even = even && (counts[i] == share || counts[i] == share+1)
		}
		if even {
			return
		}
		if w.clock() > end {
			w.Fatalf("after %v the nodes serve %v, and %d shards are not served", bound, counts, w.unserved())
		}
	}
}

// count is how many shards a node answers for.
func (n *node) count() int {
	count := 0
	for shard := range n.w.shards {
		if _, ok := n.shards.answers(shard, n.w.clock()); ok {
			count++
		}
	}
	return count
}

// end closes all nodes.
func (w *world) end() {
	w.mu.Lock()
	nodes := make([]*node, 0, len(w.nodes))
	for _, n := range w.nodes {
		nodes = append(nodes, n)
	}
	w.mu.Unlock()
	w.twin.Resume()
	w.twin.Start()
	for _, n := range nodes {
		n.resume()
		_ = n.owner.Close(context.Background())
	}
}
