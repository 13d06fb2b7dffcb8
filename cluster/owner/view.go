package owner

import (
	"time"

	"github.com/quern-io/quern/cluster"
)

// View is who is there and who owns what, as far as this node knows. It is
// immutable and replaced on every change.
type View struct {
	// Self is this node; its State is what it is about.
	Self   cluster.Member
	Record cluster.Record
	// Members are all that the authority lists, by name and incarnation.
	Members []cluster.Member
	// Shards has a route for each shard.
	Shards []Route
	// Fresh says that the authority has answered within the last delay.
	Fresh bool
	// Skew is by how much this clock is off, where that is known, and Skewed
	// that it is too much to take shards.
	Skew   time.Duration
	Skewed bool
	// Err says why this node can own nothing until somebody has looked at it:
	// the cluster's record is another one. Nil otherwise.
	Err error

	changed chan struct{}
	// owners holds, for each shard, its owner's place in Members, or -1.
	owners []int32
}

// Route is who owns a shard. The zero Route is nobody, as far as known.
type Route struct {
	Member cluster.Incarnation
	Epoch  uint64
}

// Changed is closed when there is another view.
func (v *View) Changed() <-chan struct{} { return v.changed }

// Owner returns the owner of a shard and its epoch; ok is false where nobody
// owns it, or somebody who is not listed, of whom there is the epoch alone.
func (v *View) Owner(shard uint32) (m cluster.Member, epoch uint64, ok bool) {
	if int(shard) >= len(v.Shards) {
		return cluster.Member{}, 0, false
	}
	epoch = v.Shards[shard].Epoch
	if i := v.owners[shard]; i >= 0 {
		return v.Members[i], epoch, true
	}
	return cluster.Member{}, epoch, false
}

// Owned counts the shards of each member, in the order of Members.
func (v *View) Owned() []int {
	owned := make([]int, len(v.Members))
	for _, i := range v.owners {
		if i >= 0 {
			owned[i]++
		}
	}
	return owned
}

// index fills in what Owner looks up.
func (v *View) index() {
	places := make(map[cluster.Incarnation]int32, len(v.Members))
	for i := range v.Members {
		places[v.Members[i].Incarnation] = int32(i)
	}
	v.owners = make([]int32, len(v.Shards))
	for shard, r := range v.Shards {
		at, found := places[r.Member]
		if !found {
			at = -1
		}
		v.owners[shard] = at
	}
}
