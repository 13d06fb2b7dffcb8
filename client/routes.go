package client

import (
	"context"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Any node takes any operation. One that is sent to the owner of its shard saves
// the others the work of passing it on: once an answer came from another node
// than the one that was asked, the client asks who owns what, and keeps a stream
// to each owner beside its own.

const (
	// routesTimeout bounds the question who owns what.
	routesTimeout = 2 * time.Second
	// leastRoutes and mostRoutes are between two such questions.
	leastRoutes, mostRoutes = 50 * time.Millisecond, 2 * time.Second
)

// routes is who owns what, as far as the client knows. It needs the engine's mu.
type routes struct {
	shards  []route           // by shard; empty until there was a table
	nodes   map[string]*place // by name
	spare   []int             // places in the engine's list that are free
	version uint64
	// news has room for one: something is not as the table says.
	news chan struct{}
}

// route is an entry: the owner's place, nil for nobody that is known, and its
// epoch.
type route struct {
	place *place
	epoch uint64
}

// place is where the stream to an owner stands.
type place struct {
	node, addr string
	at         int // in the engine's list
	stop       context.CancelFunc
}

// owner returns the stream to the owner of a shard, where there is one with room.
func (e *engine) owner(shard uint32) *link {
	if len(e.routes.shards) == 0 {
		return nil
	}
	p := e.routes.shards[shard].place
	if p == nil {
		return nil
	}
	if l := e.links[p.at]; l != nil && !l.full() && !l.stopping {
		return l
	}
	return nil
}

// answeredBy notes that a node has answered for a shard of which another one was
// asked.
func (e *engine) answeredBy(shard uint32, node string, epoch uint64) {
	if len(e.routes.shards) > 0 {
		if r := e.routes.shards[shard]; r.place != nil && r.place.node == node && r.epoch >= epoch {
			return // its stream is down, or was full
		}
	}
	e.routesAged()
}

// routesAged asks for another table.
func (e *engine) routesAged() {
	select {
	case e.routes.news <- struct{}{}:
	default:
	}
}

// told takes what a refusal says of the owner.
func (e *engine) told(o *failure.Owner) {
	if o == nil || len(e.routes.shards) <= int(o.Shard) {
		if o != nil {
			e.routesAged()
		}
		return
	}
	r := &e.routes.shards[o.Shard]
	if o.Epoch <= r.epoch {
		return
	}
	if p := e.routes.nodes[o.Node]; p != nil && p.addr == o.Addr {
		*r = route{p, o.Epoch}
		return
	}
	e.routesAged()
}

// followRoutes asks who owns what whenever that is worth asking, until ctx ends.
func (c *Client) followRoutes(ctx context.Context) {
	e := c.engine
	for {
		select {
		case <-e.routes.news:
		case <-ctx.Done():
			return
		}
		for pause := leastRoutes; !c.askRoutes(ctx); pause = min(2*pause, mostRoutes) {
			if !rested(ctx, pause) {
				return
			}
		}
		if !rested(ctx, leastRoutes) {
			return
		}
	}
}

// askRoutes takes the table of any node; false where none has answered.
func (c *Client) askRoutes(ctx context.Context) bool {
	e := c.engine
	e.mu.Lock()
	version := e.routes.version
	e.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, routesTimeout)
	table, err := c.cluster.Routes(asking, &quernv1.ClusterServiceRoutesRequest{Version: version})
	cancel()
	if err != nil {
		return false
	}
	if table.GetUnchanged() || table.GetShardsTotal() != e.shards {
		return true
	}
	e.mu.Lock()
	added := e.learn(ctx, table)
	e.mu.Unlock()
	for _, p := range added {
		c.upkeep.Go(func() { c.keepOwner(p.ctx, p.place) })
	}
	return true
}

// added is an owner that was not known before.
type added struct {
	ctx   context.Context //nolint:containedctx // of the goroutine that is to be started
	place *place
}

// learn takes a table and returns the owners to which there is no stream yet.
// Streams to nodes that own nothing any more are ended.
func (e *engine) learn(ctx context.Context, table *quernv1.ClusterServiceRoutesResponse) []added {
	r := &e.routes
	if len(r.shards) == 0 {
		r.shards, r.nodes = make([]route, e.shards), make(map[string]*place)
	}
	r.version = table.GetVersion()
	addrs := make(map[string]string, len(table.GetMembers()))
	for _, m := range table.GetMembers() {
		addrs[m.GetNode()] = m.GetAddr()
	}
	var fresh []added
	used := make(map[*place]bool)
	for _, of := range table.GetRoutes() {
		addr := addrs[of.GetNode()]
		if of.GetShard() >= e.shards || of.GetEpoch() < r.shards[of.GetShard()].epoch || addr == "" {
			continue
		}
		if e.atHome(of.GetNode()) {
			r.shards[of.GetShard()] = route{nil, of.GetEpoch()}
			continue
		}
		p := r.nodes[of.GetNode()]
		if p == nil || p.addr != addr {
			p = e.place(of.GetNode(), addr)
			var life context.Context
			life, p.stop = context.WithCancel(ctx)
			fresh = append(fresh, added{life, p})
		}
		r.shards[of.GetShard()] = route{p, of.GetEpoch()}
	}
	for _, of := range r.shards {
		used[of.place] = true
	}
	for node, p := range r.nodes {
		if !used[p] {
			p.stop()
			delete(r.nodes, node)
		}
	}
	return fresh
}

// atHome reports whether a client's own streams all lead to this node.
func (e *engine) atHome(node string) bool {
	there := false
	for _, l := range e.links[:e.home] {
		if l != nil && l.hello.GetNode() != node {
			return false
		}
		there = there || l != nil
	}
	return there
}

// place makes room for the stream to an owner. One under the same name that is
// elsewhere now is given up when nothing points to it.
func (e *engine) place(node, addr string) *place {
	if before := e.routes.nodes[node]; before != nil {
		for shard := range e.routes.shards {
			if e.routes.shards[shard].place == before {
				e.routes.shards[shard].place = nil
			}
		}
		before.stop()
	}
	p := &place{node: node, addr: addr, at: len(e.links)}
	if n := len(e.routes.spare); n > 0 {
		p.at = e.routes.spare[n-1]
		e.routes.spare = e.routes.spare[:n-1]
	} else {
		e.links = append(e.links, nil)
	}
	e.routes.nodes[node] = p
	return p
}

// keepOwner keeps the stream to an owner up, until it is not wanted any more.
func (c *Client) keepOwner(ctx context.Context, p *place) {
	e := c.engine
	defer func() {
		e.mu.Lock()
		e.routes.spare = append(e.routes.spare, p.at)
		e.mu.Unlock()
	}()
	open := func(ctx context.Context) (frame.Stream, error) { return c.openFramed(ctx, p.addr) }
	e.maintain(ctx, p.at, open, e.redial(ctx, open))
}
