package embedded

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

const (
	chunkSize  = 1 << 20
	minSlots   = 8
	chunkShift = 32
)

// tail is what pebble does not have yet: the last value of each key that the
// journal took since the last checkpoint. The journal's frames are built in the
// tail's chunks and stay there; the tables refer to the records in them, without
// pointers, so that the garbage collector has nothing to follow.
//
// One writer (the holder of Store.write, or a recovery) calls room, accept and
// apply; any number of readers call get and collect meanwhile. A frozen tail
// has no writer.
type tail struct {
	shards []shardTail
	// chunks only ever grows at its end; bytes that were accepted never change.
	chunks atomic.Pointer[[][]byte]

	// used is the accepted part of the last chunk. Writer only.
	used int
	// bytes is the size of the frames since the tail began. Writer only.
	bytes int64
}

// shardTail is one shard's table: open addressing with linear probing, at most
// three quarters full.
type shardTail struct {
	mu    sync.RWMutex
	slots []slot
	count int
}

// slot is empty where ref is 0: offset 0 of chunk 0 is a frame's or a file's
// header, never a record.
type slot struct {
	hash uint64
	ref  uint64
}

func newTail(shards int) *tail {
	t := &tail{shards: make([]shardTail, shards)}
	t.chunks.Store(&[][]byte{})
	return t
}

// room returns an empty slice with capacity n at the end of the tail's memory.
// What is built in it is dropped by the next call unless accept comes first.
func (t *tail) room(n int) []byte {
	chunks := *t.chunks.Load()
	if len(chunks) == 0 || len(chunks[len(chunks)-1])-t.used < n {
		t.addChunk(make([]byte, max(chunkSize, n)))
		t.used = 0
		chunks = *t.chunks.Load()
	}
	last := chunks[len(chunks)-1]
	return last[t.used : t.used : t.used+n]
}

// addChunk makes b the last chunk.
func (t *tail) addChunk(b []byte) {
	chunks := slices.Concat(*t.chunks.Load(), [][]byte{b})
	t.chunks.Store(&chunks)
}

// accept keeps the first n bytes of the last room and returns their ref.
func (t *tail) accept(n int) uint64 {
	ref := uint64(len(*t.chunks.Load())-1)<<chunkShift | uint64(t.used)
	t.used += n
	t.bytes += int64(n)
	return ref
}

// adopt makes the content of a journal file the last chunk and returns its ref.
func (t *tail) adopt(file []byte) uint64 {
	t.addChunk(file)
	t.used = len(file)
	return uint64(len(*t.chunks.Load())-1) << chunkShift
}

// at returns the bytes from ref to the end of its chunk.
func at(chunks [][]byte, ref uint64) []byte {
	return chunks[ref>>chunkShift][ref&(1<<chunkShift-1):]
}

// keyAt returns the key of the record at ref.
func keyAt(chunks [][]byte, ref uint64) []byte {
	key, _, _, _, _ := decodeRecord(at(chunks, ref))
	return key
}

// get returns the value of key. found says whether the tail knows the key at
// all; deleted, that it was removed. The value may be kept: it never changes.
func (t *tail) get(shard uint32, hash uint64, key []byte) (value []byte, deleted, found bool) {
	s := &t.shards[shard]
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.count == 0 {
		return nil, false, false
	}
	chunks := *t.chunks.Load()
	mask := uint64(len(s.slots) - 1)
	for i := hash & mask; s.slots[i].ref != 0; i = (i + 1) & mask {
		if s.slots[i].hash != hash {
			continue
		}
		k, v, deleted, _, _ := decodeRecord(at(chunks, s.slots[i].ref))
		if bytes.Equal(k, key) {
			return v, deleted, true
		}
	}
	return nil, false, false
}

// put points key at ref. s.mu is held.
func (s *shardTail) put(chunks [][]byte, hash uint64, key []byte, ref uint64) {
	if s.count*4 >= len(s.slots)*3 {
		s.grow()
	}
	mask := uint64(len(s.slots) - 1)
	i := hash & mask
	for ; s.slots[i].ref != 0; i = (i + 1) & mask {
		if s.slots[i].hash == hash && bytes.Equal(keyAt(chunks, s.slots[i].ref), key) {
			s.slots[i].ref = ref
			return
		}
	}
	s.slots[i] = slot{hash: hash, ref: ref}
	s.count++
}

func (s *shardTail) grow() {
	old := s.slots
	s.slots = make([]slot, max(minSlots, 2*len(old)))
	mask := uint64(len(s.slots) - 1)
	for _, e := range old {
		if e.ref == 0 {
			continue
		}
		i := e.hash & mask
		for s.slots[i].ref != 0 {
			i = (i + 1) & mask
		}
		s.slots[i] = e
	}
}

// item is one record of a tail, in memory that never changes.
type item struct {
	// prefix is the start of the key behind what all keys of the run share,
	// for quick comparisons.
	prefix     uint64
	key, value []byte
	deleted    bool
}

func keyPrefix(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

// collect appends the records of a shard with from <= key < to, in key order,
// to items. An empty to is the end of the shard.
func (t *tail) collect(items []item, shard uint32, from, to []byte) []item {
	s := &t.shards[shard]
	start := len(items)
	s.mu.RLock()
	chunks := *t.chunks.Load()
	for _, e := range s.slots {
		if e.ref == 0 {
			continue
		}
		k, v, deleted, _, _ := decodeRecord(at(chunks, e.ref))
		if bytes.Compare(k, from) >= 0 && (len(to) == 0 || bytes.Compare(k, to) < 0) {
			items = append(items, item{key: k, value: v, deleted: deleted})
		}
	}
	s.mu.RUnlock()
	sortItems(items[start:])
	return items
}

func sortItems(items []item) {
	if len(items) == 0 {
		return
	}
	first := items[0].key
	shared := len(first)
	for i := range items {
		shared = sharedPrefix(first[:shared], items[i].key)
	}
	for i := range items {
		items[i].prefix = keyPrefix(items[i].key[shared:])
	}
	slices.SortFunc(items, compareItems)
}

// sharedPrefix returns the length of the longest common prefix.
func sharedPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func compareItems(a, b item) int {
	if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
		return c
	}
	return bytes.Compare(a.key, b.key)
}

// applier makes the entries of one payload take effect in a tail and in rows.
// It implements visitor.
type applier struct {
	tail   *tail
	rows   []row
	ref    uint64 // of the payload
	chunks [][]byte
	cur    *shardTail // locked
	ended  bool
}

// apply visits payload, which stands at ref. Each shard's batch becomes visible
// as a whole. It fails only for payloads that did not come from this store.
func (a *applier) apply(payload []byte, ref uint64) error {
	a.ref, a.chunks = ref, *a.tail.chunks.Load()
	err := walk(payload, a)
	a.unlock()
	return err
}

func (a *applier) unlock() {
	if a.cur != nil {
		a.cur.mu.Unlock()
		a.cur = nil
	}
}

func (a *applier) batch(shard uint32, epoch uint64, time int64, _ int) error {
	a.unlock()
	if int(shard) >= len(a.rows) {
		return fmt.Errorf("shard %d of %d", shard, len(a.rows))
	}
	r := &a.rows[shard]
	if r.epoch != epoch {
		return fmt.Errorf("shard %d has epoch %d, its batch has %d", shard, r.epoch, epoch)
	}
	r.time = time
	a.cur = &a.tail.shards[shard]
	a.cur.mu.Lock()
	return nil
}

func (a *applier) record(offset int, key []byte) {
	a.cur.put(a.chunks, xxhash.Sum64(key), key, a.ref+uint64(offset))
}

func (a *applier) row(shard uint32, r row) error {
	a.unlock()
	if int(shard) >= len(a.rows) {
		return fmt.Errorf("row of shard %d of %d", shard, len(a.rows))
	}
	a.rows[shard] = r
	return nil
}

func (a *applier) end() { a.ended = true }
