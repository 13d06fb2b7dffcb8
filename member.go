package quern

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/consul"
	"github.com/quern-io/quern/cluster/owner"
	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/storage/memory"
)

// Versions that the nodes of a cluster must have in common.
const (
	clusterFormat   = 1
	clusterProtocol = 1
)

// member is what a node has beyond a lone one.
type member struct {
	node      *Node
	authority *consul.Authority
	router    *routing.Router
	// owner is there once the listeners accept, whose address it announces.
	owner atomic.Pointer[owner.Owner]
}

// newMember prepares the way to the authority. It does no I/O.
func newMember(n *Node) (*member, error) {
	a, err := consul.New(consul.Config{Cluster: n.cfg.Cluster, Address: n.cfg.Consul})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return &member{node: n, authority: a}, nil
}

// record is what this node has of the cluster's record.
func (m *member) record() cluster.Record {
	r := cluster.Record{Store: StoreMemory, Shards: m.node.cfg.Shards, Format: clusterFormat, Protocol: clusterProtocol}
	if m.node.cfg.postgres() {
		r.Store, r.ClusterID, r.Shards = "postgres", m.node.info.ClusterID, m.node.info.Shards
	}
	return r
}

// openMemory makes the store of a cluster whose nodes share none. How many
// shards there are is the cluster's to say.
func (m *member) openMemory(ctx context.Context) (actors.Store, error) {
	r, err := owner.Establish(ctx, m.authority, m.record(), m.node.cfg.Logger)
	if err != nil {
		return nil, fmt.Errorf("quern: cluster %s: %w", m.node.cfg.Cluster, err)
	}
	return memory.NewIn(r.ClusterID, r.Shards), nil
}

// configure lets the runtime serve by leases.
func (m *member) configure(cfg *actors.Config) {
	cfg.Leased, cfg.Clock, cfg.Incarnation = true, m.node.cfg.clock, m.node.incarnation
	cfg.OnEpoch = func(shard uint32, epoch uint64) { m.owner.Load().Reraised(shard, epoch) }
	cfg.OnFenced = func(shard uint32, epoch, known uint64) { m.owner.Load().Fenced(shard, epoch, known) }
}

// start opens the listeners and makes the node a member. What comes before it
// owns anything is held, or passed on.
func (m *member) start(ctx context.Context) error {
	n := m.node
	var err error
	m.router, err = routing.New(routing.Config{Local: here{n}, ClusterID: n.info.ClusterID, View: m.view, Logger: n.cfg.Logger, Metrics: n.cfg.Metrics})
	if err != nil {
		return err //nolint:wrapcheck // a defect
	}
	if err := n.listen(ctx, memberBackend{m.router, m}); err != nil {
		return err
	}
	store := epochs{runtime: n.runtime}
	store.memory, _ = n.store.(*memory.Store)
	o, err := owner.New(owner.Config{
		Authority: m.authority,
		Member: cluster.Member{
			Name: n.cfg.Node, Incarnation: n.incarnation, Addr: n.advertised(), HTTP: n.HTTPAddr(), Protocol: clusterProtocol,
		},
		Record: m.record(), Store: store, Shards: leased{n.runtime}, Peers: peers{m}, Shared: n.info.Durable,
		Skew: m.skew(), Clock: n.cfg.clock, Logger: n.cfg.Logger, Metrics: n.cfg.Metrics,
	})
	if err != nil {
		return err //nolint:wrapcheck // a defect
	}
	m.owner.Store(o)
	if err := o.Start(ctx); err != nil {
		return fmt.Errorf("quern: join the cluster %s: %w", n.cfg.Cluster, err)
	}
	m.router.Start()
	return nil
}

// skew says how far this clock is off; nil where nobody can tell.
func (m *member) skew() func(context.Context) (time.Duration, error) {
	clock, ok := m.node.store.(interface {
		Clock(ctx context.Context) (time.Time, error)
	})
	if !ok {
		return nil
	}
	return func(ctx context.Context) (time.Duration, error) {
		before := time.Now()
		there, err := clock.Clock(ctx)
		if err != nil {
			return 0, err //nolint:wrapcheck // the store says what it is
		}
		return before.Add(time.Since(before) / 2).Sub(there), nil
	}
}

// leave gives the shards away, with which the node is no member any more.
func (m *member) leave(ctx context.Context) error {
	o := m.owner.Load()
	if o == nil {
		return nil
	}
	if err := o.Leave(ctx); !errors.Is(err, owner.ErrClosed) { // else it has not begun
		return err //nolint:wrapcheck // explained by its caller
	}
	return nil
}

// end ends what leave has left, after the listeners.
func (m *member) end(ctx context.Context) error {
	var errs []error
	if m.router != nil {
		errs = append(errs, m.router.Stop(ctx))
	}
	if o := m.owner.Load(); o != nil {
		errs = append(errs, o.Close(ctx))
	}
	m.authority.Close()
	return errors.Join(errs...)
}

// view shows the owner's view to the router.
func (m *member) view() routing.View { return view{m.seen()} }

// seen is what is known of the cluster now.
func (m *member) seen() *owner.View {
	if o := m.owner.Load(); o != nil {
		return o.View()
	}
	return &owner.View{Self: cluster.Member{Name: m.node.cfg.Node, Incarnation: m.node.incarnation, State: cluster.Joining}}
}

type view struct{ *owner.View }

// Owner implements routing.View.
func (v view) Owner(shard uint32) (routing.Owner, bool) {
	m, epoch, ok := v.View.Owner(shard)
	return routing.Owner{Node: m.Name, Addr: m.Addr, Epoch: epoch}, ok
}

// Members implements routing.View.
func (v view) Members() []routing.Member {
	all := make([]routing.Member, len(v.View.Members))
	for i := range all {
		m := &v.View.Members[i]
		all[i] = routing.Member{Node: m.Name, Addr: m.Addr, HTTP: m.HTTP, State: stateOf(m)}
	}
	return all
}

// Fresh implements routing.View.
func (v view) Fresh() bool { return v.View.Fresh }

// stateOf is what a member is about, as others tell it.
func stateOf(m *cluster.Member) string {
	switch {
	case !m.Passing:
		return "unreachable"
	case m.State == "":
		return string(cluster.Ready)
	default:
		return string(m.State)
	}
}

// epochs shows the store to the owner. Epochs are raised by way of the runtime,
// which may have something to write under the last one.
type epochs struct {
	runtime *actors.Runtime
	memory  *memory.Store // nil where the store is shared
}

// Raise implements owner.Store.
func (e epochs) Raise(ctx context.Context, requests []owner.EpochRaise) ([]owner.EpochRaised, error) {
	asked := make([]actors.Raise, len(requests))
	for i, q := range requests {
		asked[i] = actors.Raise{Shard: q.Shard, Epoch: q.Epoch, From: q.From, Incarnation: q.Incarnation}
	}
	raised, err := e.runtime.Raise(ctx, asked)
	answers := make([]owner.EpochRaised, len(raised))
	for i, r := range raised {
		answers[i] = owner.EpochRaised{OK: r.OK, Epoch: r.Epoch, Time: r.Time, Err: r.Err}
	}
	return answers, err //nolint:wrapcheck // the store says what it is
}

// Written implements owner.Store.
func (e epochs) Written(shard uint32) uint64 { return e.memory.Written(shard) }

// Empty implements owner.Store.
func (e epochs) Empty(shard uint32) { e.memory.Empty(shard) }

// leased shows the runtime to the owner.
type leased struct{ *actors.Runtime }

// Serve implements owner.Shards.
func (l leased) Serve(s owner.Serving) {
	l.Runtime.Serve(actors.Lease{Shard: s.Shard, Epoch: s.Epoch, Time: s.Time, Until: s.Until})
}

// Stop implements owner.Shards.
func (l leased) Stop(shard uint32, epoch uint64) { l.Revoke(shard, epoch) }

// here shows the shards of this node to the router.
type here struct{ *Node }

// Invoke implements routing.Local.
func (h here) Invoke(ctx context.Context, op *handles.Operation) error { return h.invokeHere(ctx, op) }

// Watch implements routing.Local.
func (h here) Watch(ctx context.Context, w *handles.Watch) error { return h.watchHere(ctx, w) }

// Serving implements routing.Local.
func (h here) Serving(shard uint32) (epoch uint64, ok bool) { return h.runtime.Epoch(shard) }

// status tells of all nodes.
func (m *member) status() *quernv1.ClusterServiceStatusResponse {
	v := m.seen()
	out := &quernv1.ClusterServiceStatusResponse{
		Cluster: m.node.cfg.Cluster, Store: m.node.info.Name, Durable: m.node.info.Durable, ShardsTotal: m.node.info.Shards,
	}
	for i, owned := range v.Owned() {
		member := &v.Members[i]
		c := &quernv1.ClusterNode{Node: member.Name, Addr: member.Addr, State: stateOf(member), Shards: uint32(owned)} //nolint:gosec // at most keyspace.MaxShards
		if member.Incarnation == m.node.incarnation {
			weigh(c)
		}
		out.ShardsOwned += c.GetShards()
		out.Nodes = append(out.Nodes, c)
	}
	return out
}

// where finds the owner of a key.
func (m *member) where(key string) (*quernv1.ClusterServiceWhereResponse, error) {
	shard := keyspace.Shard(key, m.node.info.Shards)
	of, epoch, ok := m.seen().Owner(shard)
	if !ok {
		return nil, failure.New(failure.Moving, "shard %d has no owner at present", shard).After(100 * time.Millisecond)
	}
	return &quernv1.ClusterServiceWhereResponse{Key: key, Shard: shard, Node: of.Name, Addr: of.Addr, Epoch: epoch}, nil
}

// ready says why the node cannot take operations.
func (m *member) ready() error {
	v := m.seen()
	switch {
	case v.Err != nil:
		return v.Err
	case v.Self.State == cluster.Joining:
		return errors.New("quern: the node has not joined the cluster yet")
	default:
		return nil
	}
}
