package routing

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"io"
	"sync"
	"time"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// askEvery is how often the other nodes are asked while the view is not fresh,
// askTimeout how long.
const (
	askEvery   = 500 * time.Millisecond
	askTimeout = 450 * time.Millisecond
)

// Routes implements ClusterService: who owns what, as far as this node knows.
func (r *Router) Routes(_ context.Context, version uint64) (*quernv1.ClusterServiceRoutesResponse, error) {
	out := &quernv1.ClusterServiceRoutesResponse{ShardsTotal: r.shards}
	for _, m := range r.cfg.View().Members() {
		out.Members = append(out.Members, &quernv1.ClusterMember{Node: m.Node, Addr: m.Addr, Http: m.HTTP, State: m.State})
	}
	for shard := range r.shards {
		if o := r.owner(shard); o.Node != "" {
			out.Routes = append(out.Routes, &quernv1.ShardRoute{Shard: shard, Node: o.Node, Epoch: o.Epoch})
		}
	}
	return Seal(out, version), nil
}

// owner is who owns a shard: this node where it serves it, whatever the table says.
func (r *Router) owner(shard uint32) Owner {
	o := r.table.at(shard).owner
	if epoch, ok := r.local.Serving(shard); ok && epoch >= o.Epoch {
		return Owner{Node: r.self, Epoch: epoch}
	}
	return o
}

// Owner returns a shard's owner as far as it is known; false where nobody is.
func (r *Router) Owner(shard uint32) (Owner, bool) {
	o := r.owner(shard)
	if o.Node == r.self {
		for _, m := range r.cfg.View().Members() {
			if m.Node == r.self {
				o.Addr = m.Addr
			}
		}
	}
	return o, o.Node != ""
}

// Seal fills in the version of a table, and cuts the answer short for who has that
// already.
func Seal(table *quernv1.ClusterServiceRoutesResponse, known uint64) *quernv1.ClusterServiceRoutesResponse {
	h := fnv.New64a()
	var number [8]byte
	add := func(n uint64) {
		binary.LittleEndian.PutUint64(number[:], n)
		_, _ = h.Write(number[:])
	}
	text := func(s string) {
		add(uint64(len(s)))
		_, _ = io.WriteString(h, s)
	}
	add(uint64(table.GetShardsTotal()))
	for _, m := range table.GetMembers() {
		text(m.GetNode())
		text(m.GetAddr())
		text(m.GetHttp())
		text(m.GetState())
	}
	for _, o := range table.GetRoutes() {
		add(uint64(o.GetShard()))
		text(o.GetNode())
		add(o.GetEpoch())
	}
	table.Version = max(h.Sum64(), 1)
	if table.GetVersion() == known {
		return &quernv1.ClusterServiceRoutesResponse{Version: known, Unchanged: true}
	}
	return table
}

// askPeers asks the other nodes who owns what while the authority does not say.
func (r *Router) askPeers() {
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	versions := make(map[string]uint64) // by address
	for {
		select {
		case <-ticker.C:
		case <-r.ctx.Done():
			return
		}
		v := r.cfg.View()
		if v.Fresh() {
			clear(versions)
			continue
		}
		r.ask(v, versions)
	}
}

// ask asks all other nodes, side by side.
func (r *Router) ask(v View, versions map[string]uint64) {
	ctx, cancel := context.WithTimeout(r.ctx, askTimeout)
	defer cancel()
	var (
		all sync.WaitGroup
		mu  sync.Mutex // guards versions
	)
	for _, m := range v.Members() {
		if m.Node == r.self || m.Addr == "" {
			continue
		}
		mu.Lock()
		version := versions[m.Addr]
		mu.Unlock()
		all.Go(func() {
			out, err := r.routesOf(ctx, peerKey{m.Node, m.Addr}, version)
			if err != nil || out.GetUnchanged() {
				return
			}
			r.heard(out) //nolint:contextcheck // streams outlive this round
			mu.Lock()
			versions[m.Addr] = out.GetVersion()
			mu.Unlock()
		})
	}
	all.Wait()
}

// heard takes another node's table.
func (r *Router) heard(of *quernv1.ClusterServiceRoutesResponse) {
	if of.GetShardsTotal() != r.shards {
		return
	}
	addrs := make(map[string]string)
	for _, m := range of.GetMembers() {
		addrs[m.GetNode()] = m.GetAddr()
	}
	changed := false
	for _, o := range of.GetRoutes() {
		owner := Owner{Node: o.GetNode(), Addr: addrs[o.GetNode()], Epoch: o.GetEpoch()}
		changed = r.table.learn(o.GetShard(), owner, false, r.peerOf) || changed
	}
	if changed {
		r.moved()
	}
}
