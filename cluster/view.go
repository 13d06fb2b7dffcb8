package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/quern-io/quern/keyspace"
)

// Incarnation is one life of a node: drawn at the start of the process.
type Incarnation [16]byte

// NewIncarnation draws an incarnation.
func NewIncarnation() Incarnation { return Incarnation(uuid.New()) }

// ParseIncarnation reads what String wrote.
func ParseIncarnation(text string) (Incarnation, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return Incarnation{}, fmt.Errorf("cluster: incarnation %q: %w", text, err)
	}
	return Incarnation(id), nil
}

// String returns the canonical form of a UUID.
func (i Incarnation) String() string { return uuid.UUID(i).String() }

// HandoffID names one planned move of one shard. It is drawn by the owner.
type HandoffID [16]byte

// Member is a process that is, or was until just now, part of the cluster.
type Member struct {
	// Name is the node's, 1 to 255 printable ASCII characters without blanks.
	Name string
	// Incarnation tells it from other processes of that name.
	Incarnation Incarnation
	// Addr and HTTP are where it listens, HOST:PORT as others reach it. HTTP
	// is empty where it does not.
	Addr, HTTP string
	// Protocol is the version that it speaks with other nodes.
	Protocol uint32
	// State is what it says of itself; empty counts as Ready.
	State State
	// Passing says that it was heard of within the check's TTL. Set by
	// Members, ignored by Join.
	Passing bool
}

// Members is all members at one moment, by name and incarnation. It is not
// changed after it was returned.
type Members struct {
	// Index is for the next Watch.
	Index uint64
	// Fell says that Index is below the one of the Watch: the authority was
	// restored or emptied, or has forgotten old deletions.
	Fell bool
	List []Member
}

// LockValue is what a lock says of its last holder.
type LockValue struct {
	// Epoch is the highest under which the shard was taken; zero for never.
	Epoch uint64
	// Owner wrote this value.
	Owner Incarnation
	// Clean is written by a release that hands the shard over.
	Clean CleanRelease
}

// CleanRelease names who may take a lock without waiting. The zero value names
// nobody.
type CleanRelease struct {
	Receiver Incarnation
	Handoff  HandoffID
}

// ShardLock is the lock of one shard as it was read.
type ShardLock struct {
	Shard uint32
	// Holder is the session that holds it, zero where it is free.
	Holder Session
	Value  LockValue
	// Damaged says that the value was not written by Quern, or by a version
	// that this one cannot read. Value is zero then.
	Damaged bool
	// Index changes with every change of the lock; it is never zero. It may
	// fall when the authority was restored or emptied.
	Index uint64
}

// Record is what all nodes of a cluster must agree on.
type Record struct {
	// ClusterID is the store's.
	ClusterID [16]byte
	// Store is the name of what all nodes keep states in; empty in records of
	// before it was noted, which fit every store.
	Store string
	// Shards is how many there are, see keyspace.ValidShards.
	Shards uint32
	// LockDelay is LD, MinLockDelay to MaxLockDelay, in whole milliseconds.
	LockDelay time.Duration
	// Base is below every epoch that is given out under this record.
	Base uint64
	// Format is that of the data and of this record, from 1.
	Format uint32
	// Protocol is the version that nodes speak with each other, from 1.
	Protocol uint32
	// Index changes when the record is written again.
	Index uint64
}

// BaseEpoch is Record.Base for a record written now by a node that knows of no
// epoch above highest.
func BaseEpoch(now time.Time, highest uint64) uint64 {
	return max(highest, uint64(max(0, now.Unix())))
}

// Fit compares the cluster's record with what a node has and returns an error
// that wraps ErrRecord and names the first difference. Zero fields of own fit
// everything; LockDelay and Base are the cluster's to say.
func (r Record) Fit(own Record) error {
	differ := func(what string, cluster, own any) error {
		return fmt.Errorf("%w: %s is %v, this node has %v", ErrRecord, what, cluster, own)
	}
	switch {
	case own.Format != 0 && r.Format != own.Format:
		return differ("the cluster's format", r.Format, own.Format)
	case own.Protocol != 0 && r.Protocol != own.Protocol:
		return differ("the cluster's protocol", r.Protocol, own.Protocol)
	case own.Store != "" && r.Store != "" && r.Store != own.Store:
		return differ("the cluster's store", r.Store, own.Store)
	case own.Shards != 0 && r.Shards != own.Shards:
		return differ("the cluster's number of shards", r.Shards, own.Shards)
	case own.ClusterID != [16]byte{} && r.ClusterID != own.ClusterID:
		return differ("the cluster's id", uuid.UUID(r.ClusterID), uuid.UUID(own.ClusterID))
	default:
		return nil
	}
}

// Complete fills zero fields with the defaults of a new record: a fresh id,
// 256 shards, a delay of 2 s, format and protocol 1. It fails with ErrRecord
// where the record then breaks a bound.
func (r Record) Complete() (Record, error) {
	if r.ClusterID == [16]byte{} {
		r.ClusterID = uuid.New()
	}
	r.Shards = cmp.Or(r.Shards, keyspace.DefaultShards)
	r.LockDelay = cmp.Or(r.LockDelay, DefaultLockDelay)
	r.Format = cmp.Or(r.Format, 1)
	r.Protocol = cmp.Or(r.Protocol, 1)
	return r, r.validate()
}

func (r Record) validate() error {
	switch {
	case !keyspace.ValidShards(r.Shards):
		return fmt.Errorf("%w: %d shards, must be a power of two of at most %d", ErrRecord, r.Shards, keyspace.MaxShards)
	case r.LockDelay < MinLockDelay || r.LockDelay > MaxLockDelay || r.LockDelay%time.Millisecond != 0:
		return fmt.Errorf("%w: a lock delay of %v, must be %v to %v in whole milliseconds",
			ErrRecord, r.LockDelay, MinLockDelay, MaxLockDelay)
	default:
		return nil
	}
}

// Placement is the record of which shard belongs on which node, as bytes that
// the authority does not look into.
type Placement struct {
	Value []byte
	// Index is zero where there is no placement.
	Index uint64
}

// Table is the shared state of a cluster at one moment. It is not changed
// after it was returned.
type Table struct {
	// Index is for the next Watch.
	Index uint64
	// Fell says that Index is below the one of the Watch: the authority was
	// restored or emptied, or has forgotten old deletions.
	Fell bool
	// Record is nil where there is none: the authority was emptied, or the
	// cluster was never established.
	Record    *Record
	Placement Placement
	// Leader is the session that may write the placement, zero for none.
	Leader Session
	// Locks are those that exist, in the order of shards.
	Locks []ShardLock
}

// Lock finds the lock of a shard.
func (t *Table) Lock(shard uint32) (ShardLock, bool) {
	at, found := slices.BinarySearchFunc(t.Locks, shard, func(l ShardLock, shard uint32) int {
		return cmp.Compare(l.Shard, shard)
	})
	if !found {
		return ShardLock{}, false
	}
	return t.Locks[at], true
}
