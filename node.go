package quern

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/machine"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
	"github.com/quern-io/quern/storage/embedded"
	"github.com/quern-io/quern/storage/memory"
	"github.com/quern-io/quern/storage/postgres"
)

// Counter is a handle of one counter.
type Counter = handles.Counter

// Lock is a handle of one lock.
type Lock = handles.Lock

// Lease is a held lock, which renews itself.
type Lease = handles.Lease

// LockOptions say how a lock is asked for.
type LockOptions = handles.LockOptions

// MapEntry is a handle of one entry of the distributed map.
type MapEntry = handles.MapEntry

// Txn is a transaction: conditions and operations on keys of one shard, together
// or not at all.
type Txn = handles.Txn

// Guard names a lock and a fencing token under which something is written.
type Guard = handles.Guard

// Node is a running node. Its methods may be called concurrently.
type Node struct {
	cfg     Config
	store   actors.Store
	info    actors.StoreInfo
	runtime *actors.Runtime
	running atomic.Pointer[actors.Runtime] // runtime, once it has started
	server  *server.Server                 // nil where it listens nowhere
	member  *member                        // nil where it is alone
	trusted atomic.Int64                   // of a lone node on PostgreSQL, see proven

	incarnation cluster.Incarnation
	bulks       sync.Pool // of *bulk

	draining atomic.Bool
	closing  sync.Once
	closed   chan struct{}
	err      error // of Close, valid after closed
}

// undoTimeout bounds the clearing away after a start that failed.
const undoTimeout = 10 * time.Second

// Open starts a node and returns when it serves. It fails with an error that
// wraps ErrConfig where the configuration cannot work, and with one that says
// what to do where the data folder or an address cannot be used. ctx bounds
// the start, not the node's life.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, incarnation: cluster.NewIncarnation(), closed: make(chan struct{})}
	if cfg.clustered() {
		if n.member, err = newMember(n); err != nil {
			return nil, err
		}
	}
	if n.store, err = n.openStore(ctx); err != nil {
		return nil, err
	}
	n.info = n.store.Info()
	if err := n.start(ctx); err != nil {
		// What was begun is undone even where ctx has ended.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return nil, errors.Join(err, n.stop(undo))
	}
	return n, nil
}

func (n *Node) openStore(ctx context.Context) (actors.Store, error) {
	cfg := n.cfg
	if cfg.postgres() {
		o := cfg.postgresOptions()
		o.Lone, o.Cluster = n.member == nil, cfg.Cluster
		o.OnLost, o.OnProof, o.Clock = n.lost, n.proven, cfg.clock
		return postgres.Open(ctx, o) //nolint:wrapcheck // says all there is to say
	}
	if cfg.Store == StoreMemory && n.member != nil {
		return n.member.openMemory(ctx)
	}
	if cfg.Store == StoreMemory {
		shards := cfg.Shards
		if shards == 0 {
			shards = keyspace.DefaultShards
		}
		return memory.New(shards), nil
	}
	return embedded.Open(ctx, embedded.Options{ //nolint:wrapcheck // says all there is to say
		Dir: cfg.DataDir, Shards: cfg.Shards, MinFreeBytes: cfg.MinFreeBytes,
		Logger: cfg.Logger, Metrics: cfg.Metrics,
	})
}

func (n *Node) start(ctx context.Context) error {
	cfg := actors.Config{
		Store: n.store, Kinds: []actors.Kind{grains.Counter{}, grains.Lock{}, grains.Map{}, grains.Transaction{}},
		ResidentLimit: n.cfg.ResidentLimit, Logger: n.cfg.Logger, Metrics: n.cfg.Metrics,
	}
	switch {
	case n.member != nil:
		n.member.configure(&cfg)
	case n.cfg.postgres():
		cfg.Leased, cfg.Clock, cfg.Incarnation = true, n.cfg.clock, n.incarnation
	}
	var err error
	if n.runtime, err = actors.New(cfg); err != nil {
		return err
	}
	if err := n.runtime.Start(ctx); err != nil {
		return err
	}
	n.running.Store(n.runtime)
	if n.member != nil {
		return n.member.start(ctx)
	}
	if err := n.claim(ctx); err != nil {
		return err
	}
	return n.listen(ctx, backend{n})
}

// listen opens the listeners that are configured.
func (n *Node) listen(ctx context.Context, b server.Backend) error {
	if n.cfg.Listen == "" && n.cfg.HTTP == "" {
		return nil
	}
	n.server = server.New(server.Config{
		Backend: b, Listen: n.cfg.Listen, HTTP: n.cfg.HTTP, Logger: n.cfg.Logger, Metrics: n.cfg.Metrics,
	})
	return n.server.Start(ctx)
}

// Counter returns a handle of the counter with this key.
func (n *Node) Counter(key string) Counter { return handles.NewCounter(n, key) }

// Lock returns a handle of the lock with this key.
func (n *Node) Lock(key string) Lock { return handles.NewLock(n, key) }

// Map returns a handle of the map entry with this key.
func (n *Node) Map(key string) MapEntry { return handles.NewMapEntry(n, key) }

// Txn returns an empty transaction on keys of the shard of key, such as their
// common tag.
func (n *Node) Txn(key string) *Txn { return handles.NewTxn(n, key) }

// Invoke implements handles.Invoker: it runs an operation on the grain's shard,
// wherever that is.
func (n *Node) Invoke(ctx context.Context, op *handles.Operation) error {
	if n.member != nil {
		return n.member.router.Invoke(ctx, op) //nolint:wrapcheck // a *failure.Error, meant for the caller
	}
	return n.invokeHere(ctx, op)
}

// invokeHere runs an operation on a shard of this node.
func (n *Node) invokeHere(ctx context.Context, op *handles.Operation) error {
	if op.Method == handles.CounterAddMany {
		return n.addMany(ctx, op)
	}
	shard := keyspace.Shard(op.Key, n.info.Shards)
	of := operation(op)
	epoch, err := n.runtime.Invoke(ctx, shard, &of)
	op.Origin = handles.Origin{Node: n.cfg.Node, Shard: shard, Epoch: epoch}
	return err //nolint:wrapcheck // a *failure.Error, meant for the caller
}

// Watch implements handles.Watcher. It ends with STOPPING where the node does.
func (n *Node) Watch(ctx context.Context, w *handles.Watch) error {
	once := n.watchHere
	if n.member != nil {
		once = n.member.router.Watch
	}
	return handles.Rewatch(ctx, w, once, func(err error) bool { return errors.Is(err, failure.Stopping) && n.draining.Load() })
}

// watchHere watches until the key's shard ends the watch.
func (n *Node) watchHere(ctx context.Context, w *handles.Watch) error {
	shard := keyspace.Shard(w.Key, n.info.Shards)
	epoch, _ := n.runtime.Epoch(shard)
	w.Origin = handles.Origin{Node: n.cfg.Node, Shard: shard, Epoch: epoch}
	return n.runtime.Watch(ctx, shard, w.Method.Kind, w.Key, w.Idle, func(e *handles.Event) error { //nolint:wrapcheck // meant for the caller
		w.Origin.Epoch = e.Message().GetEpoch()
		return w.Each(e)
	})
}

// operation shows an operation to the runtime, which keeps none of it.
func operation(op *handles.Operation) actors.Operation {
	return actors.Operation{
		Kind: op.Method.Kind, Key: op.Key, Method: op.Method.Procedure,
		IdempotencyKey: op.IdempotencyKey, Session: actors.Session(op.Session), Memo: op.Memo, Guard: (*actors.Guard)(op.Guard()),
		Command: op.Request, Reply: op.Reply,
	}
}

// Submit implements handles.Submitter. It fills in who answers but for the
// epoch, which done gets.
func (n *Node) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	if op.Method.Many {
		n.submitMany(op, deadline, done)
		return
	}
	shard, of := n.place(op), operation(op)
	n.runtime.Submit(shard, &of, deadline, done)
}

// place fills in who answers, but for the epoch, and returns the shard.
func (n *Node) place(op *handles.Operation) (shard uint32) {
	shard = op.Origin.Shard
	if !op.Placed {
		shard = keyspace.Shard(op.Key, n.info.Shards)
	}
	op.Origin = handles.Origin{Node: n.cfg.Node, Shard: shard}
	return shard
}

// SubmitWait is Submit for a method that waits. The operation is given up by
// cancel, at any time; then it ends with CANCELED, unless its answer was there.
// final says that nobody will ask again under its number.
func (n *Node) SubmitWait(op *handles.Operation, deadline time.Time, done handles.Completer) (cancel func(final bool)) {
	shard, of := n.place(op), operation(op)
	return n.runtime.Submit(shard, &of, deadline, done).Cancel
}

// EndWaits answers all that waits with STOPPING, and from now on what would
// have to. Places in queues stay.
func (n *Node) EndWaits() { n.runtime.EndWaits() }

// OpenSession opens a session at a shard. done gets its id when it is durable;
// it must not block. It fails with OVERLOADED where the shard has too many.
func (n *Node) OpenSession(shard uint32, done func(id string, epoch uint64, err error)) {
	n.runtime.OpenSession(shard, done)
}

// CloseSession forgets a session, of which done hears when that is durable; it
// must not block. A session that is not known is no error.
func (n *Node) CloseSession(shard uint32, id string, done func(epoch uint64, err error)) {
	n.runtime.CloseSession(shard, id, done)
}

// Shards returns how many shards there are.
func (n *Node) Shards() uint32 { return n.info.Shards }

// Status tells who is there and who owns how much.
func (n *Node) Status(context.Context) (*quernv1.ClusterServiceStatusResponse, error) {
	if n.member != nil {
		return n.member.status(), nil
	}
	owned := uint32(0)
	for shard := range n.info.Shards {
		if _, serving := n.runtime.Epoch(shard); serving {
			owned++
		}
	}
	state := cluster.Ready
	switch {
	case n.draining.Load():
		state = cluster.Draining
	case owned == 0:
		state = cluster.Joining
	}
	self := &quernv1.ClusterNode{Node: n.cfg.Node, Addr: n.advertised(), State: string(state), Shards: owned}
	weigh(self)
	return &quernv1.ClusterServiceStatusResponse{
		Store: n.info.Name, Durable: n.info.Durable, Nodes: []*quernv1.ClusterNode{self},
		ShardsTotal: n.info.Shards, ShardsOwned: owned,
	}, nil
}

// weigh fills in what this process uses of the machine.
func weigh(n *quernv1.ClusterNode) {
	n.CpuSeconds, n.MemoryBytes = machine.CPUTime().Seconds(), machine.ResidentBytes()
}

// Where tells which shard a key belongs to and who owns it. It fails with
// INVALID_KEY, and with NOT_OWNER or MOVING where nobody owns the shard.
func (n *Node) Where(_ context.Context, key string) (*quernv1.ClusterServiceWhereResponse, error) {
	if err := keyspace.Check(key); err != nil {
		return nil, err //nolint:wrapcheck // a *failure.Error
	}
	if n.member != nil {
		return n.member.where(key)
	}
	shard := keyspace.Shard(key, n.info.Shards)
	epoch, serving := n.runtime.Epoch(shard)
	if !serving {
		return nil, failure.New(failure.NotOwner, "shard %d has no owner at present", shard)
	}
	return &quernv1.ClusterServiceWhereResponse{
		Key: key, Shard: shard, Node: n.cfg.Node, Addr: n.advertised(), Epoch: epoch,
	}, nil
}

func (n *Node) advertised() string {
	if n.cfg.Advertise != "" {
		return n.cfg.Advertise
	}
	return n.GRPCAddr()
}

// Name returns the node's name.
func (n *Node) Name() string { return n.cfg.Node }

// GRPCAddr returns the gRPC listener's host and port, empty without one.
func (n *Node) GRPCAddr() string {
	if n.server == nil {
		return ""
	}
	return n.server.GRPCAddr()
}

// HTTPAddr returns the HTTP listener's host and port, empty without one.
func (n *Node) HTTPAddr() string {
	if n.server == nil {
		return ""
	}
	return n.server.HTTPAddr()
}

// Metrics returns the set that holds the node's metrics.
func (n *Node) Metrics() *metrics.Set { return n.cfg.Metrics }

// Close refuses new operations, answers those that were begun, and ends the
// node. Where ctx ends first, what is left is answered "outcome unknown" and
// Close returns an error. Every call waits for the first one's end and returns
// its error.
func (n *Node) Close(ctx context.Context) error {
	n.draining.Store(true)
	n.closing.Do(func() {
		n.err = n.stop(ctx)
		close(n.closed)
	})
	<-n.closed
	return n.err
}

// stop ends the parts in the order in which work flows through them.
func (n *Node) stop(ctx context.Context) error {
	var errs []error
	if n.member != nil {
		errs = append(errs, n.member.leave(ctx))
	}
	if n.server != nil {
		errs = append(errs, n.server.Stop(ctx))
	}
	if n.member != nil {
		errs = append(errs, n.member.end(ctx))
	}
	if n.runtime != nil {
		errs = append(errs, n.runtime.Stop(ctx))
	}
	errs = append(errs, n.store.Close(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("quern: close: %w", err)
	}
	return nil
}

// backend shows the node to its server.
type backend struct{ *Node }

// Watch implements server.Backend: whoever watches over the network begins anew
// by itself, perhaps elsewhere.
func (b backend) Watch(ctx context.Context, w *handles.Watch) error { return b.watchHere(ctx, w) }

// Ready implements server.Backend: every shard must have an epoch.
func (b backend) Ready() error {
	for shard := range b.info.Shards {
		if !b.runtime.Serving(shard) {
			return fmt.Errorf("quern: shard %d is not served at present", shard)
		}
	}
	return nil
}
