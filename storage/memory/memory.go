package memory

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/quern-io/quern/actors"
)

// ErrClosed is returned by every method after Close.
var ErrClosed = errors.New("memory: store is closed")

// ErrShard names a shard that the store does not have.
var ErrShard = errors.New("memory: no such shard")

// errFenced is the reason in a Fenced verdict.
var errFenced = errors.New("memory: the shard has another epoch")

// Store is an actors.Store in memory. All methods may be called concurrently.
type Store struct {
	info   actors.StoreInfo
	closed atomic.Bool
	shards []shard
}

// shard is one shard's row and records.
type shard struct {
	mu          sync.RWMutex
	epoch       uint64
	incarnation [16]byte
	time        int64
	// written is the epoch of the last commit; 0 where there is none, or it was
	// dropped.
	written uint64
	// records maps key to value. A value is never changed in place, so that
	// a reader may use it after it let go of mu.
	records map[string][]byte
}

var _ actors.Store = (*Store)(nil)

// New returns an empty store with the given number of shards and a fresh
// cluster id. It does no I/O; Close is not needed to free it.
func New(shards uint32) *Store {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (documented since Go 1.24)
	return NewIn(id, shards)
}

// NewIn is New for a node of the cluster with the given id, whose other nodes
// have stores of their own.
func NewIn(clusterID [16]byte, shards uint32) *Store {
	return &Store{
		info:   actors.StoreInfo{Name: "memory", ClusterID: clusterID, Shards: shards},
		shards: make([]shard, shards),
	}
}

// Info describes the store.
func (s *Store) Info() actors.StoreInfo { return s.info }

// Raise raises epochs. It returns ErrClosed or ErrShard for the call as a
// whole; nothing was raised then.
func (s *Store) Raise(ctx context.Context, requests []actors.Raise) ([]actors.Raised, error) {
	for i := range requests {
		if err := s.check(ctx, requests[i].Shard); err != nil {
			return nil, err
		}
	}
	raised := make([]actors.Raised, len(requests))
	for i := range requests {
		raised[i] = s.shards[requests[i].Shard].raise(&requests[i])
	}
	return raised, nil
}

func (sh *shard) raise(r *actors.Raise) actors.Raised {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	var ok bool
	switch {
	case r.From == 0:
		ok = sh.epoch < r.Epoch
	case sh.epoch == r.Epoch && sh.incarnation == r.Incarnation:
		ok = true
	default:
		ok = sh.epoch == r.From && r.Epoch > r.From
	}
	if ok {
		sh.epoch, sh.incarnation = r.Epoch, r.Incarnation
	}
	return actors.Raised{OK: ok, Epoch: sh.epoch, Time: sh.time}
}

// Read looks up keys of one shard. It returns ErrClosed, ErrShard or the
// context's error. No lock is held while found runs.
func (s *Store) Read(
	ctx context.Context, shard uint32, keys [][]byte, found func(i int, value []byte),
) error {
	if err := s.check(ctx, shard); err != nil {
		return err
	}
	sh := &s.shards[shard]
	for i, key := range keys {
		sh.mu.RLock()
		value, ok := sh.records[string(key)]
		sh.mu.RUnlock()
		if ok {
			found(i, value)
		}
	}
	return nil
}

// Scan calls yield in key order with the records as they stood when Scan began.
// It returns ErrClosed, ErrShard or the context's error. No lock is held while
// yield runs.
func (s *Store) Scan(
	ctx context.Context, shard uint32, from, to []byte, yield func(key, value []byte) bool,
) error {
	if err := s.check(ctx, shard); err != nil {
		return err
	}
	for i, r := range s.shards[shard].between(from, to) {
		if i%1024 == 1023 && ctx.Err() != nil {
			return ctx.Err()
		}
		if !yield(r.Key, r.Value) {
			return nil
		}
	}
	return nil
}

// between returns the records with from <= key < to in key order.
func (sh *shard) between(from, to []byte) []actors.Record {
	sh.mu.RLock()
	var records []actors.Record
	for key, value := range sh.records {
		if key >= string(from) && (len(to) == 0 || key < string(to)) {
			records = append(records, actors.Record{Key: []byte(key), Value: value})
		}
	}
	sh.mu.RUnlock()
	slices.SortFunc(records, func(a, b actors.Record) int { return bytes.Compare(a.Key, b.Key) })
	return records
}

// Commit applies each batch under its shard's lock. Verdicts are Done, Fenced,
// or Refused (ErrClosed, ErrShard, the context's error).
func (s *Store) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	verdicts := make([]actors.Verdict, len(batches))
	for i := range batches {
		b := &batches[i]
		if err := s.check(ctx, b.Shard); err != nil {
			verdicts[i] = actors.Verdict{Status: actors.Refused, Err: err}
			continue
		}
		verdicts[i] = s.shards[b.Shard].commit(b)
	}
	return verdicts
}

func (sh *shard) commit(b *actors.Batch) actors.Verdict {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if b.Epoch != sh.epoch || b.Epoch == 0 {
		err := fmt.Errorf("%w: shard %d, batch %d, row %d", errFenced, b.Shard, b.Epoch, sh.epoch)
		return actors.Verdict{Status: actors.Fenced, Err: err}
	}
	if sh.records == nil {
		sh.records = make(map[string][]byte)
	}
	for i := range b.Records {
		r := &b.Records[i]
		if r.Delete {
			delete(sh.records, string(r.Key))
			continue
		}
		sh.records[string(r.Key)] = bytes.Clone(r.Value)
	}
	sh.time, sh.written = b.Time, b.Epoch
	return actors.Verdict{}
}

// Written returns the epoch under which the states of a shard were written, by
// its last commit; 0 where it has none. It panics where there is no such shard.
func (s *Store) Written(shard uint32) uint64 {
	sh := &s.shards[shard]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.written
}

// Empty drops the states of a shard, and leaves its row. What is committed under
// the row's epoch afterwards is there again: raise the epoch first. It panics
// where there is no such shard.
func (s *Store) Empty(shard uint32) {
	sh := &s.shards[shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.records, sh.written = nil, 0
}

// Close makes every later call fail. It returns nil.
func (s *Store) Close(context.Context) error {
	s.closed.Store(true)
	return nil
}

func (s *Store) check(ctx context.Context, shard uint32) error {
	if s.closed.Load() {
		return ErrClosed
	}
	if shard >= s.info.Shards {
		return fmt.Errorf("%w: %d of %d", ErrShard, shard, s.info.Shards)
	}
	return ctx.Err()
}
