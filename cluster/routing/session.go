package routing

import "github.com/quern-io/quern/failure"

// OpenSession opens a session at a shard, wherever that is.
func (r *Router) OpenSession(shard uint32, done func(id string, epoch uint64, err error)) {
	r.begin(&task{router: r, kind: taskOpen, shard: shard, opened: done}, nil)
}

// CloseSession forgets a session, wherever its shard is.
func (r *Router) CloseSession(shard uint32, id string, done func(epoch uint64, err error)) {
	r.begin(&task{router: r, kind: taskClose, shard: shard, session: id, closed: done}, nil)
}

// begin sends a task on its way. Where this node has refused it already, refused
// says why.
func (r *Router) begin(t *task, refused error) {
	switch {
	case refused != nil:
		t.refused(r, r.self, refused)
		r.keep(t)
	case r.here(t.shard):
		t.submitHere()
	default:
		r.pass(t)
	}
}

// OpenSessionHere implements the server's Peer.
func (r *Router) OpenSessionHere(shard uint32, done func(id string, epoch uint64, err error)) {
	if !r.here(shard) {
		done("", 0, r.notOwner(shard))
		return
	}
	r.local.OpenSession(shard, done)
}

// CloseSessionHere implements the server's Peer.
func (r *Router) CloseSessionHere(shard uint32, id string, done func(epoch uint64, err error)) {
	if !r.here(shard) {
		done(0, r.notOwner(shard))
		return
	}
	r.local.CloseSession(shard, id, done)
}

// notOwner says whose a shard is that is not this node's.
func (r *Router) notOwner(shard uint32) error {
	return r.explain(shard, failure.New(failure.NotOwner, "this node does not own shard %d", shard).After(leastRetry))
}
