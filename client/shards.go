package client

import "github.com/quern-io/quern/handles"

// shardSet is a set of shards. With many streams there are many of them, each
// of which is looked at with every operation: so it is small.
type shardSet []uint64

func newShardSet(shards uint32) shardSet { return make(shardSet, (shards+63)/64) }

func (s shardSet) has(shard uint32) bool { return s[shard/64]&(1<<(shard%64)) != 0 }
func (s shardSet) add(shard uint32)      { s[shard/64] |= 1 << (shard % 64) }
func (s shardSet) remove(shard uint32)   { s[shard/64] &^= 1 << (shard % 64) }

// owners are who has answered for each shard on the streams of a client, which
// mostly say the same. They belong to the engine's lock.
type owners struct{ last []handles.Origin }

// streamOwners are those of one stream: as on all of them where common says so,
// else in own.
type streamOwners struct {
	common shardSet
	own    map[uint32]handles.Origin
}

// of is who has answered for a shard on a stream.
func (o *owners) of(s *streamOwners, shard uint32) handles.Origin {
	if s.common.has(shard) {
		return o.last[shard]
	}
	return s.own[shard]
}

// set notes who answers for a shard on stream s, one of all.
func (o *owners) set(s *streamOwners, all []*link, shard uint32, epoch uint64, node []byte) {
	last := &o.last[shard]
	if last.Epoch != epoch || last.Node != string(node) {
		for _, l := range all {
			if l != nil && l.owners.common.has(shard) {
				l.owners.keep(shard, *last)
			}
		}
		*last = handles.Origin{Node: string(node), Shard: shard, Epoch: epoch}
	}
	s.common.add(shard)
	delete(s.own, shard)
}

// keep remembers who answers, although another has on other streams.
func (s *streamOwners) keep(shard uint32, o handles.Origin) {
	s.common.remove(shard)
	if s.own == nil {
		s.own = make(map[uint32]handles.Origin)
	}
	s.own[shard] = o
}
