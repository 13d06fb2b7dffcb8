package placement

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/keyspace"
	clusterv1 "github.com/quern-io/quern/messages/quern/cluster/v1"
)

// format is the layout of the encoded record that this version writes, and the
// only one that it reads.
const format = 1

// Errors of [Decode]. They come wrapped in what was found. None of them goes
// away by another try.
var (
	// ErrFormat: the record was written in a layout that is not known here,
	// by a newer version.
	ErrFormat = errors.New("placement: unknown format")
	// ErrShards: the record is of a cluster with another number of shards.
	ErrShards = errors.New("placement: other number of shards")
	// ErrDamaged: the bytes are no record, or one that contradicts itself.
	ErrDamaged = errors.New("placement: record is damaged")
)

// nobody is the owner of a shard that belongs on no node.
const nobody = -1

// Record says which shard belongs on which node. It is immutable.
type Record struct {
	version uint64
	// nodes have at least one shard each and stand in ascending order.
	nodes []string
	// owners holds for each shard its node's place in nodes, or nobody.
	owners []int32
}

// New returns the record of a cluster that has never had a member: version 0,
// every shard on no node. It panics where shards is not what
// [keyspace.ValidShards] takes.
func New(shards uint32) *Record {
	if !keyspace.ValidShards(shards) {
		panic(fmt.Sprintf("placement: %d shards", shards)) //nolint:forbidigo // a defect: configurations are validated
	}
	r := &Record{owners: make([]int32, shards)}
	for shard := range r.owners {
		r.owners[shard] = nobody
	}
	return r
}

// Version rises by one with every change.
func (r *Record) Version() uint64 { return r.version }

// Shards is the number of shards.
func (r *Record) Shards() uint32 { return uint32(len(r.owners)) } //nolint:gosec // at most keyspace.MaxShards

// Node returns the name of the node on which a shard belongs, or "" where it
// belongs on none, as happens while no member is active.
func (r *Record) Node(shard uint32) string {
	if i := r.owners[shard]; i != nobody {
		return r.nodes[i]
	}
	return ""
}

// Of returns the shards that belong on a node, in ascending order; none for a
// node that stands by or is not known.
func (r *Record) Of(node string) []uint32 {
	i := sort.SearchStrings(r.nodes, node)
	if i == len(r.nodes) || r.nodes[i] != node {
		return nil
	}
	var shards []uint32
	for shard, owner := range r.owners {
		if int(owner) == i {
			shards = append(shards, uint32(shard))
		}
	}
	return shards
}

// Encode returns the record as it is written down. It fails only for names of
// nodes that are not UTF-8.
func (r *Record) Encode() ([]byte, error) {
	m := &clusterv1.PlacementRecord{
		Format: format, Version: r.version, Shards: r.Shards(),
		Nodes: r.nodes, Owners: make([]uint32, len(r.owners)),
	}
	for shard, owner := range r.owners {
		m.Owners[shard] = uint32(owner + 1) //nolint:gosec // nobody is -1
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("placement: encode the record: %w", err)
	}
	return b, nil
}

// Decode reads a record of a cluster of that many shards. It returns
// [ErrFormat], [ErrShards] or [ErrDamaged], and takes nothing that
// [Record.Encode] could not have written.
func Decode(b []byte, shards uint32) (*Record, error) {
	m := &clusterv1.PlacementRecord{}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	switch {
	case m.GetFormat() != format:
		return nil, fmt.Errorf("%w: it is %d, this version reads %d", ErrFormat, m.GetFormat(), format)
	case m.GetShards() != shards:
		return nil, fmt.Errorf("%w: it has %d, this node %d", ErrShards, m.GetShards(), shards)
	case len(m.GetOwners()) != int(shards):
		return nil, fmt.Errorf("%w: it names the nodes of %d shards of %d", ErrDamaged, len(m.GetOwners()), shards)
	}
	return read(m)
}

// read takes what a record of the right format and size says.
func read(m *clusterv1.PlacementRecord) (*Record, error) {
	nodes := m.GetNodes()
	for i, name := range nodes {
		if name == "" || i > 0 && name <= nodes[i-1] {
			return nil, fmt.Errorf("%w: its nodes are not in order at %q", ErrDamaged, name)
		}
	}
	r := &Record{version: m.GetVersion(), nodes: nodes, owners: make([]int32, len(m.GetOwners()))}
	used := make([]bool, len(nodes))
	for shard, owner := range m.GetOwners() {
		if uint64(owner) > uint64(len(nodes)) {
			return nil, fmt.Errorf("%w: shard %d is on node %d of %d", ErrDamaged, shard, owner, len(nodes))
		}
		r.owners[shard] = int32(owner) - 1 //nolint:gosec // at most the number of nodes
		if owner > 0 {
			used[owner-1] = true
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		return nil, fmt.Errorf("%w: node %q has no shard", ErrDamaged, nodes[i])
	}
	return r, nil
}
