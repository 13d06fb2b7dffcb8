package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
)

// Read looks keys up in the tail and then in pebble. It returns ErrClosed,
// ErrBroken with the context's error, ErrShard, the context's error, or that of
// a damaged or unreadable table.
func (s *Store) Read(ctx context.Context, shard uint32, keys [][]byte, found func(i int, value []byte)) error {
	if err := s.checkRead(ctx, shard); err != nil {
		return err
	}
	g, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer s.release(g)
	// The tails are loaded first: what they do not have any more by the time
	// pebble is asked, pebble has.
	t := g.tails.Load()
	var buf []byte
	for i, key := range keys {
		value, deleted, ok := t.get(shard, key)
		if ok {
			if !deleted {
				found(i, value)
			}
			continue
		}
		buf = appendStateKey(buf[:0], shard, key)
		if err := g.get(buf, i, found); err != nil {
			return fmt.Errorf("embedded: read shard %d: %w", shard, err)
		}
	}
	return nil
}

func (s *Store) checkRead(ctx context.Context, shard uint32) error {
	if shard >= s.info.Shards {
		return fmt.Errorf("%w: %d of %d", ErrShard, shard, s.info.Shards)
	}
	return ctx.Err()
}

// get returns the last value of key that is not in pebble yet.
func (t *tails) get(shard uint32, key []byte) (value []byte, deleted, ok bool) {
	hash := xxhash.Sum64(key)
	value, deleted, ok = t.active.get(shard, hash, key)
	if !ok && t.frozen != nil {
		value, deleted, ok = t.frozen.get(shard, hash, key)
	}
	return value, deleted, ok
}

func (g *generation) get(key []byte, i int, found func(i int, value []byte)) error {
	value, closer, err := g.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	found(i, value)
	return closer.Close()
}

// Scan yields the records of a shard in key order, as Read would find them when
// Scan begins or later. Errors are those of Read.
func (s *Store) Scan(ctx context.Context, shard uint32, from, to []byte, yield func(key, value []byte) bool) (err error) {
	if err := s.checkRead(ctx, shard); err != nil {
		return err
	}
	g, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer s.release(g)
	t := g.tails.Load()
	active := t.active.collect(nil, shard, from, to)
	var frozen []item
	if t.frozen != nil {
		frozen = t.frozen.collect(nil, shard, from, to)
	}
	it, err := g.db.NewIter(&pebble.IterOptions{
		LowerBound: appendStateKey(nil, shard, from),
		UpperBound: upperBound(shard, to),
	})
	if err != nil {
		return fmt.Errorf("embedded: scan shard %d: %w", shard, err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	return merge(ctx, active, frozen, it, yield)
}

func upperBound(shard uint32, to []byte) []byte {
	if len(to) > 0 {
		return appendStateKey(nil, shard, to)
	}
	b := []byte{kindState, 0, 0, 0, 0}
	// At most 65,536 shards: no overflow.
	binary.BigEndian.PutUint32(b[1:], shard+1)
	return b
}

// scanCheck is the number of records between two looks at the context.
const scanCheck = 1024

// merge yields three sorted runs as one; of a key that is in several the first
// run's record counts.
func merge(ctx context.Context, active, frozen []item, it *pebble.Iterator, yield func(key, value []byte) bool) error {
	const prefix = 5
	valid := it.First()
	for n := 1; ; n++ {
		if n%scanCheck == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		key, ok := smallest(active, frozen, it, valid)
		if !ok {
			return it.Error()
		}
		var value []byte
		deleted := false
		// From the oldest to the newest: the last one set wins.
		stored := valid && bytes.Equal(it.Key()[prefix:], key)
		if stored {
			value = it.Value()
		}
		if len(frozen) > 0 && bytes.Equal(frozen[0].key, key) {
			value, deleted = frozen[0].value, frozen[0].deleted
			frozen = frozen[1:]
		}
		if len(active) > 0 && bytes.Equal(active[0].key, key) {
			value, deleted = active[0].value, active[0].deleted
			active = active[1:]
		}
		if !deleted && !yield(key, value) {
			return nil
		}
		if stored {
			valid = it.Next()
		}
	}
}

func smallest(active, frozen []item, it *pebble.Iterator, valid bool) (key []byte, ok bool) {
	if valid {
		key, ok = it.Key()[5:], true
	}
	if len(frozen) > 0 && (!ok || bytes.Compare(frozen[0].key, key) < 0) {
		key, ok = frozen[0].key, true
	}
	if len(active) > 0 && (!ok || bytes.Compare(active[0].key, key) < 0) {
		key, ok = active[0].key, true
	}
	return key, ok
}
