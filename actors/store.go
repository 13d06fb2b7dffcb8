package actors

import "context"

// Store keeps the states of all shards. It knows nothing of kinds: a record is
// a key and a value, both opaque bytes, and belongs to one shard. All methods
// may be called concurrently, but for Commit, of which at most one call per
// shard is under way at any time.
//
// A store keeps, per shard, a row with the highest epoch that was ever raised
// there, the incarnation that raised it, and the shard's clock at its last
// commit.
type Store interface {
	// Info describes the store. It does not change while the store is open.
	Info() StoreInfo

	// Raise makes a new epoch of each named shard durable before it returns.
	// The results stand in the order of the requests; the error is for the
	// call as a whole (nothing is known of any of them). A shard that the
	// store does not have is such an error.
	Raise(ctx context.Context, requests []Raise) ([]Raised, error)

	// Read looks up records of one shard and calls found for each key in
	// keys that has one, with its index in keys. The value is valid during
	// the call only. What Commit acknowledged before Read began is seen;
	// what no Commit acknowledged is never seen.
	Read(ctx context.Context, shard uint32, keys [][]byte, found func(i int, value []byte)) error

	// Scan calls yield for the records of one shard with from <= key < to,
	// in the order of their keys, until yield returns false. An empty to is
	// the end of the shard. Key and value are valid during the call only,
	// and yield may call the store. It is no snapshot: what is committed
	// meanwhile may be seen or not.
	Scan(ctx context.Context, shard uint32, from, to []byte, yield func(key, value []byte) bool) error

	// Commit makes the records of many shards durable and returns a verdict
	// for each, in order. Records of one shard are written together or not
	// at all. The store keeps no reference to batches after it returns.
	// Epoch 0 is always fenced.
	Commit(ctx context.Context, batches []Batch) []Verdict

	// Close releases everything. It waits for a Commit that is under way as
	// long as ctx allows. Calls after it fail, commits with Refused; another
	// Close returns nil.
	Close(ctx context.Context) error
}

// StoreInfo describes an open store.
type StoreInfo struct {
	// Name is memory, embedded or postgres.
	Name string
	// Durable says whether what was committed survives the end of the
	// process. The output gate does not wait for a store that is not.
	Durable bool
	// ClusterID is 16 random bytes given when the store was created.
	ClusterID [16]byte
	// Shards is the number of shards, fixed when the store was created.
	Shards uint32
}

// Raise asks for a new epoch of a shard.
type Raise struct {
	Shard uint32
	// Epoch is the epoch to raise to.
	Epoch uint64
	// From, where not zero, is the epoch that the row must have, a
	// compare-and-set. A row that has Epoch and Incarnation already counts
	// as raised by this request. Where From is zero, the row's epoch must be
	// below Epoch, also where this incarnation raised it.
	From uint64
	// Incarnation identifies the process that raises.
	Incarnation [16]byte
}

// Raised is the answer to one Raise: the shard's row as it stands afterwards.
type Raised struct {
	// OK says whether the epoch was raised. Where it was not, Epoch tells
	// which one stands in the way.
	OK bool
	// Epoch is the row's epoch.
	Epoch uint64
	// Time is the shard's clock at its last commit, in Unix milliseconds.
	Time int64
	// Err says why the epoch was not raised where it is not that another one
	// stands in the way: the store has perhaps lost what it acknowledged.
	Err error
}

// Batch is what one shard wants to commit.
type Batch struct {
	Shard uint32
	// Epoch is the epoch under which the shard runs. A batch whose epoch is
	// not the row's is fenced.
	Epoch uint64
	// Time is the shard's clock at the cut, in Unix milliseconds.
	Time int64
	// Records are written in order; a later one of the same key wins.
	Records []Record
}

// Record is one key to write or to delete.
type Record struct {
	Key []byte
	// Value is the new value. It may be empty.
	Value []byte
	// Delete removes the key; Value is ignored.
	Delete bool
}

// Status is the kind of a verdict.
type Status uint8

const (
	// Done means that all records are durable.
	Done Status = iota
	// Fenced means that nothing was written, because the shard has another
	// epoch by now.
	Fenced
	// Refused means that nothing was written and that the shard may go on:
	// the disk is full, or the store does not take such a record.
	Refused
	// Unclear means that the records are perhaps written. The shard must
	// raise its epoch before it loads anything.
	Unclear
)

// Verdict is the answer to one Batch.
type Verdict struct {
	Status Status
	// Err says why, for every status but Done.
	Err error
}
