package routing

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Local runs the operations of the shards that this node serves. All methods are
// as those of the server's backend.
type Local interface {
	handles.Invoker
	handles.ListSubmitter
	SubmitWait(op *handles.Operation, deadline time.Time, done handles.Completer) (cancel func(final bool))
	EndWaits()
	// Watch watches until the shard ends the watch.
	handles.Watcher
	OpenSession(shard uint32, done func(id string, epoch uint64, err error))
	CloseSession(shard uint32, id string, done func(epoch uint64, err error))
	// Name is the node's, Shards the cluster's number of shards.
	Name() string
	Shards() uint32
	// Serving returns the epoch under which a shard is this node's, and whether
	// it is. It is asked for every operation: it must neither block nor
	// allocate.
	Serving(shard uint32) (epoch uint64, ok bool)
}

// Config is what a Router needs.
type Config struct {
	Local Local
	// ClusterID is the id of the cluster, which those must name that are taken
	// for owners.
	ClusterID [16]byte
	// View returns the present view.
	View func() View
	// Dial opens a stream to a node's address; nil dials TCP.
	Dial func(ctx context.Context, addr string) (frame.Stream, error)
	// Logger gets changes of state; nil discards them.
	Logger *slog.Logger
	// Metrics gets the router's metrics; nil registers none.
	Metrics *metrics.Set
}

// Router takes operations on any shard. Its methods may be called concurrently.
type Router struct {
	cfg    Config
	local  Local
	self   string
	shards uint32
	table  *table
	hold   hold
	tasks  sync.Pool
	counts *counts
	log    *slog.Logger

	ctx     context.Context //nolint:containedctx // of the goroutines
	cancel  context.CancelFunc
	group   sync.WaitGroup
	noWaits atomic.Bool
	holding sync.Once // starts who looks after what is held

	mu      sync.Mutex // guards what follows
	started bool
	ended   bool
	peers   map[peerKey]*peer
	calls   map[string]*caller
	watches map[*passedWatch]struct{}
}

// How long, and how often.
const (
	// MaxHops is how often an operation is passed on.
	MaxHops = 3
	// holdTime bounds the wait for an owner.
	holdTime = 5 * time.Second
	// awayTime is how long a task that was held must have been with somebody to
	// be held as long as at first again.
	awayTime = time.Second
	// leastRetry and mostRetry bound the wait after a refusal by a node that the
	// table takes for the owner.
	leastRetry = 5 * time.Millisecond
	mostRetry  = 200 * time.Millisecond
	// movingRetry is what a client is asked to wait.
	movingRetry = 50 * time.Millisecond
)

var errIncomplete = errors.New("routing: config without Local or View")

// New returns a router. It does no I/O.
func New(cfg Config) (*Router, error) {
	if cfg.Local == nil || cfg.View == nil {
		return nil, errIncomplete
	}
	if cfg.Dial == nil {
		cfg.Dial = dialTCP
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Router{
		cfg: cfg, local: cfg.Local, self: cfg.Local.Name(), shards: cfg.Local.Shards(),
		table: newTable(cfg.Local.Shards()), log: cfg.Logger,
		peers: make(map[peerKey]*peer), calls: make(map[string]*caller), watches: make(map[*passedWatch]struct{}),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.hold.wake = make(chan struct{}, 1)
	r.counts = newCounts(cfg.Metrics, r)
	return r, nil
}

// Start begins to follow the view. It may be called once. What comes before it is
// held, but for what this node serves.
func (r *Router) Start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started || r.ended {
		return
	}
	r.started = true
	r.group.Go(r.follow)
	r.group.Go(r.askPeers)
}

// Stop ends the streams to other nodes and answers what is not answered:
// STOPPING where it was not done, else OUTCOME_UNKNOWN. It returns when all
// goroutines have ended or ctx has, and may be called again.
func (r *Router) Stop(ctx context.Context) error {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.cancel()
	done := make(chan struct{})
	go func() {
		r.group.Wait()
		r.closeCalls()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // the caller's own
	}
	for _, t := range r.hold.takeAll() {
		t.end(0, t.verdict(errStopping))
	}
	r.counts.unregister()
	return nil
}

// Name is the node's.
func (r *Router) Name() string { return r.self }

// ClusterID implements the server's Peer.
func (r *Router) ClusterID() []byte { return r.cfg.ClusterID[:] }

// Shards is how many there are.
func (r *Router) Shards() uint32 { return r.shards }

// follow takes each view into the table.
func (r *Router) follow() {
	for {
		v := r.cfg.View()
		changed := v.Changed()
		r.take(v)
		select {
		case <-changed:
		case <-r.ctx.Done():
			return
		}
	}
}

// take takes a view into the table.
func (r *Router) take(v View) {
	changed := false
	for shard := range r.shards {
		if o, ok := v.Owner(shard); ok {
			changed = r.table.learn(shard, o, true, r.peerOf) || changed
		} else if v.Fresh() {
			changed = r.table.vacate(shard) || changed
		}
	}
	if v.Fresh() {
		r.retire(v)
	}
	if changed {
		r.moved()
	}
}

// moved follows a change of the table.
func (r *Router) moved() {
	r.hold.rouse()
	r.endWatches()
	for shard := range r.shards {
		if p := r.table.at(shard).peer; p != nil {
			p.connect()
		}
	}
}

// learn takes what a node says of a shard's owner.
func (r *Router) learn(o *failure.Owner) {
	if o == nil || o.Shard >= r.shards {
		return
	}
	if r.table.learn(o.Shard, Owner{Node: o.Node, Addr: o.Addr, Epoch: o.Epoch}, false, r.peerOf) {
		r.moved()
	}
}

// peerOf returns the way to an owner, nil where it is this node.
func (r *Router) peerOf(o Owner) *peer {
	if o.Node == r.self || o.Addr == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := peerKey{node: o.Node, addr: o.Addr}
	p := r.peers[key]
	if p == nil {
		p = &peer{router: r, peerKey: key}
		r.peers[key] = p
	}
	return p
}

// retire closes the streams to nodes that have left and own nothing.
func (r *Router) retire(v View) {
	r.table.mu.Lock() // nobody finds a way that is closed just now
	used, addrs := make(map[peerKey]bool), make(map[string]bool)
	uses := func(node, addr string) { used[peerKey{node, addr}], addrs[addr] = true, true }
	for _, m := range v.Members() {
		uses(m.Node, m.Addr)
	}
	for shard := range r.shards {
		o := &r.table.at(shard).owner
		uses(o.Node, o.Addr)
	}
	r.mu.Lock()
	var gone []*peer
	for key, p := range r.peers {
		if !used[key] {
			gone = append(gone, p)
			delete(r.peers, key)
		}
	}
	r.mu.Unlock()
	r.table.mu.Unlock()
	for _, p := range gone {
		p.leave()
		if !addrs[p.addr] {
			r.forget(p.addr)
		}
	}
}

// here reports whether this node serves a shard.
func (r *Router) here(shard uint32) bool {
	_, ok := r.local.Serving(shard)
	return ok
}

// Invoke implements handles.Invoker.
func (r *Router) Invoke(ctx context.Context, op *handles.Operation) error {
	if op.Method.Many {
		return r.invokeMany(ctx, op)
	}
	shard := keyspace.Shard(op.Key, r.shards)
	if !r.here(shard) {
		return r.forward(ctx, op, shard, nil)
	}
	err := r.local.Invoke(ctx, op)
	if err == nil || !elsewhere(err) {
		return err //nolint:wrapcheck // a *failure.Error, meant for the caller
	}
	return r.forward(ctx, op, shard, err)
}

// elsewhere reports whether an operation was not done since its shard is
// another's, or soon will be.
func elsewhere(err error) bool {
	e, ok := errors.AsType[*failure.Error](err)
	return ok && (e.Reason == failure.NotOwner || e.Reason == failure.Moving)
}

// Submit implements handles.Submitter.
func (r *Router) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	if op.Method.Many && !r.whole(op) {
		r.submitMany(op, deadline, done)
		return
	}
	shard := r.shardOf(op)
	if r.here(shard) {
		r.local.Submit(op, deadline, done)
		return
	}
	r.pass(r.newTask(op, shard, deadline, done))
}

// shardOf is the shard of an operation whose keys are of one.
func (r *Router) shardOf(op *handles.Operation) uint32 {
	switch {
	case op.Placed:
		return op.Origin.Shard
	case op.Method.Many:
		if in, ok := op.Request.(*quernv1.CounterServiceAddManyRequest); ok && len(in.GetKeys()) > 0 {
			return keyspace.Shard(in.GetKeys()[0], r.shards)
		}
	}
	return keyspace.Shard(op.Key, r.shards)
}

// SubmitList implements handles.ListSubmitter.
func (r *Router) SubmitList(first *handles.Submission) {
	shard := first.Op.Origin.Shard
	here := r.here(shard)
	for s := first; s != nil; s = s.Next {
		if s.Op.Method.Many && !r.whole(&s.Op) {
			r.submitEach(first)
			return
		}
	}
	if here {
		r.local.SubmitList(first)
		return
	}
	r.passList(first, shard)
}

func (r *Router) submitEach(first *handles.Submission) {
	for s := first; s != nil; {
		next := s.Next
		s.Next = nil
		r.Submit(&s.Op, s.Deadline, s.Done)
		s = next
	}
}

// SubmitWait is Submit for a method that waits.
func (r *Router) SubmitWait(op *handles.Operation, deadline time.Time, done handles.Completer) (cancel func(final bool)) {
	shard := r.shardOf(op)
	here, may := r.here(shard), op.MayWait()
	switch {
	case here && !may:
		return r.local.SubmitWait(op, deadline, done)
	case may && r.noWaits.Load():
		done.Completed(0, errStopping)
		return nil
	}
	t := r.newTask(op, shard, deadline, done)
	t.wait = new(waiting)
	if here {
		t.submitHere()
	} else {
		r.pass(t)
	}
	return t.cancel
}

// EndWaits answers all that waits, for others or for an owner, with STOPPING, and
// from now on what would have to. Places in queues stay.
func (r *Router) EndWaits() {
	r.noWaits.Store(true)
	r.local.EndWaits()
	r.mu.Lock()
	all := make([]*peer, 0, len(r.peers))
	for _, p := range r.peers {
		all = append(all, p)
	}
	r.mu.Unlock()
	for _, p := range all {
		if l := p.link.Load(); l != nil {
			l.endWaits()
		}
	}
	for _, t := range r.hold.take(func(*task) bool { return true }) {
		t.end(0, t.verdict(errStopping))
	}
}

// Again implements the server's Peer: it takes back what the runtime has
// refused since the shard is another's by now.
//
// It returns nil where it does, else what the client is told.
func (r *Router) Again(op *handles.Operation, deadline time.Time, done handles.Completer, err error) (instead error) {
	if !elsewhere(err) {
		return err
	}
	p := op.Passage
	if p == nil || p.Routed {
		return err
	}
	shard := r.shardOf(op)
	if p.Hops > 0 {
		return r.explain(shard, err)
	}
	t := r.newTask(op, shard, deadline, done)
	t.refused(r, r.self, err)
	r.keep(t)
	return nil
}

// explain says in a refusal who owns the shard.
func (r *Router) explain(shard uint32, err error) error {
	e, ok := errors.AsType[*failure.Error](err)
	if !ok || e.Owner != nil {
		return err
	}
	o := r.table.at(shard).owner
	if o.Node == "" || o.Node == r.self {
		return err
	}
	return e.Owned(failure.Owner{Shard: shard, Node: o.Node, Addr: o.Addr, Epoch: o.Epoch})
}

var (
	errStopping = failure.New(failure.Stopping, "the node is stopping; ask another one or try again later").After(time.Second)
	errGivenUp  = failure.New(failure.Canceled, "the caller gave up before the operation was begun")
)
