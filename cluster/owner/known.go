package owner

import (
	"sync"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/lease"
)

// known are the epochs of all shards that this node has heard of, with who
// wrote them. It may be used concurrently.
type known struct {
	mu     sync.Mutex
	shards []epochs
}

// epochs are the highest of one shard: top was written by by, and next is the
// highest that anybody else wrote.
type epochs struct {
	top  uint64
	by   cluster.Incarnation
	next uint64
}

// note passes over what no owner can have: it would spoil what is built on it.
func (e *epochs) note(epoch uint64, by cluster.Incarnation) {
	switch {
	case epoch > lease.MaxEpoch:
	case epoch == e.top && e.by == (cluster.Incarnation{}):
		e.by = by // a peer has told it before its writer was known
	case by == e.by:
		e.top = max(e.top, epoch)
	case epoch > e.top:
		e.top, e.by, e.next = epoch, by, e.top
	default:
		e.next = max(e.next, epoch)
	}
}

// besides is the highest that was not written by who.
func (e *epochs) besides(who cluster.Incarnation) uint64 {
	if e.by == who {
		return e.next
	}
	return e.top
}

func (k *known) size(shards uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.shards = make([]epochs, shards)
}

func (k *known) note(shard uint32, epoch uint64, by cluster.Incarnation) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if int(shard) < len(k.shards) {
		k.shards[shard].note(epoch, by)
	}
}

func (k *known) noteLocks(locks []cluster.ShardLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range locks {
		if int(locks[i].Shard) < len(k.shards) {
			k.shards[locks[i].Shard].note(locks[i].Value.Epoch, locks[i].Value.Owner)
		}
	}
}

// besides returns, in the order of shards, the highest epochs that were not
// written by who; 0 for a shard that there is not.
func (k *known) besides(who cluster.Incarnation, shards []uint32) []uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	highest := make([]uint64, len(shards))
	for i, shard := range shards {
		if int(shard) < len(k.shards) {
			highest[i] = k.shards[shard].besides(who)
		}
	}
	return highest
}

// highest is the highest of all shards.
func (k *known) highest() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	highest := uint64(0)
	for i := range k.shards {
		highest = max(highest, k.shards[i].top)
	}
	return highest
}
