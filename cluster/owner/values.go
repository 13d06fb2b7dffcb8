package owner

import (
	"fmt"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/lease"
)

// The machine knows ids as strings: their bytes, or nothing for the zero one.

func text[T ~[16]byte](id T) string {
	if id == (T{}) {
		return ""
	}
	return string(id[:])
}

func idOf[T ~[16]byte](s string) (id T) {
	copy(id[:], s)
	return id
}

func leaseValue(v cluster.LockValue) lease.Value {
	return lease.Value{
		Epoch: v.Epoch, Owner: text(v.Owner),
		Clean: lease.Clean{Receiver: text(v.Clean.Receiver), Handoff: text(v.Clean.Handoff)},
	}
}

func lockWrite(shard uint32, index uint64, v lease.Value) cluster.LockWrite {
	return cluster.LockWrite{Shard: shard, Index: index, Value: cluster.LockValue{
		Epoch: v.Epoch, Owner: idOf[cluster.Incarnation](v.Owner),
		Clean: cluster.CleanRelease{
			Receiver: idOf[cluster.Incarnation](v.Clean.Receiver), Handoff: idOf[cluster.HandoffID](v.Clean.Handoff),
		},
	}}
}

// recordID tells one writing of the cluster's record from another.
func recordID(r *cluster.Record) string {
	return fmt.Sprintf("%x %d %d", r.ClusterID, r.Base, r.Index)
}

func errDelay(own, cluster time.Duration) error {
	return fmt.Errorf("%w: its delay is now %v, this node began with %v and must start anew", errRecord, cluster, own)
}

var errRecord = cluster.ErrRecord
