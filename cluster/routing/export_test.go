package routing

import (
	"context"

	"github.com/quern-io/quern/failure"
)

// What tests look at.
var DialTCP = dialTCP

const (
	HoldTasks = holdTasks
	HoldTime  = holdTime
	LinkRefs  = linkRefs
	Silence   = silence + patience
)

// Held is how many operations wait for an owner, Passed how many were handed to
// other nodes.
func (r *Router) Held() int      { return r.hold.count() }
func (r *Router) Passed() uint64 { return r.counts.passed.Get() }

// Learn is what an error of another node teaches.
func (r *Router) Learn(shard uint32, o Owner, viewed bool) bool {
	return r.table.learn(shard, o, viewed, r.peerOf)
}

// Heard is what an error of another node teaches, with what follows.
func (r *Router) Heard(o failure.Owner) { r.learn(&o) }

// Vacate and At are of the table.
func (r *Router) Vacate(shard uint32) bool { return r.table.vacate(shard) }
func (r *Router) At(shard uint32) Owner    { return r.table.at(shard).owner }

// AskRoutes asks a node who owns what.
func (r *Router) AskRoutes(ctx context.Context, node, addr string) error {
	_, err := r.routesOf(ctx, peerKey{node, addr}, 0)
	return err
}
