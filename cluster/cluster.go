package cluster

// State is what a node is about.
type State string

// The states of a node.
const (
	// Joining: it is there, and owns nothing yet.
	Joining State = "joining"
	// Ready: it owns shards and serves them.
	Ready State = "ready"
	// Cordoned: it keeps what it has and gets no more.
	Cordoned State = "cordoned"
	// Draining: it gives its shards away before it leaves.
	Draining State = "draining"
)

// Claim is a shard that this node owns, and the epoch of its ownership.
type Claim struct {
	Shard uint32
	Epoch uint64
}
