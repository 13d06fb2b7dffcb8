package routing

import (
	"sync"
	"sync/atomic"
)

// Owner is who owns a shard.
type Owner struct {
	// Node is its name, empty for nobody; Addr its gRPC listener's HOST:PORT.
	Node, Addr string
	Epoch      uint64
}

// Member is a node of the cluster.
type Member struct {
	// Node is its name, Addr and HTTP are its listeners, State as of
	// cluster.State.
	Node, Addr, HTTP, State string
}

// View is who owns what at one moment, as this node knows it from the authority.
// It does not change.
type View interface {
	// Owner returns a shard's owner; false where it has none.
	Owner(shard uint32) (Owner, bool)
	// Members are the nodes of the cluster, this one among them.
	Members() []Member
	// Fresh reports whether the authority has answered lately.
	Fresh() bool
	// Changed is closed when there is another view.
	Changed() <-chan struct{}
}

// route is an entry of the table. It does not change.
type route struct {
	owner Owner // Node empty: nobody; the epoch is then the last one's
	// peer leads to the owner, nil where it is this node or nobody.
	peer *peer
	// viewed: the View says so, and may take it back.
	viewed bool
}

var nowhere route

// table is who owns what.
type table struct {
	routes  []atomic.Pointer[route]
	changes atomic.Uint64

	mu sync.Mutex // held to change a route
}

func newTable(shards uint32) *table { return &table{routes: make([]atomic.Pointer[route], shards)} }

func (t *table) at(shard uint32) *route {
	if r := t.routes[shard].Load(); r != nil {
		return r
	}
	return &nowhere
}

// learn takes what somebody says of a shard, unless more is known. peerOf finds
// the way to an owner. It reports whether the owner is another now.
func (t *table) learn(shard uint32, o Owner, viewed bool, peerOf func(Owner) *peer) bool {
	if int(shard) >= len(t.routes) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.at(shard)
	switch {
	case o.Node == "" || o.Epoch < now.owner.Epoch:
		return false
	case o.Epoch == now.owner.Epoch && now.owner.Node != "" && now.owner.Node != o.Node:
		return false // an epoch has one owner
	case o.Addr == "" && o.Node == now.owner.Node:
		o.Addr = now.owner.Addr
	}
	if o == now.owner {
		if viewed && !now.viewed {
			t.routes[shard].Store(&route{owner: o, peer: now.peer, viewed: true})
		}
		return false
	}
	t.routes[shard].Store(&route{owner: o, peer: peerOf(o), viewed: viewed || o.Epoch == now.owner.Epoch && now.viewed})
	t.changes.Add(1)
	return true
}

// vacate takes the View's word that a shard has no owner. What others have said
// of a later one stands.
func (t *table) vacate(shard uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.at(shard)
	if now.owner.Node == "" || !now.viewed {
		return false
	}
	t.routes[shard].Store(&route{owner: Owner{Epoch: now.owner.Epoch}, viewed: true})
	t.changes.Add(1)
	return true
}
