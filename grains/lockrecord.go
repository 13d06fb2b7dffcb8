package grains

import (
	"container/heap"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quern-io/quern/actors"
)

// lockLog is what a turn has changed: the lock's core and the entries as they
// were before. It belongs to the state that the shard keeps for undoing, so it
// costs a lock nothing. How long it gets does not depend on the queue, but on
// how many entries the turn touches.
type lockLog struct {
	core    lockCore
	entries []savedEntry
}

type savedEntry struct {
	at     *lockEntry
	before lockEntry
}

// keptLog is how many entries of a log are kept for the next turn.
const keptLog = 1024

// Begin implements actors.Undoer.
func (l *lock) Begin(log actors.State) {
	keeper, ok := log.(*lock)
	if !ok {
		return
	}
	if keeper.log == nil {
		keeper.log = &lockLog{}
	}
	l.log = keeper.log
	l.log.core = l.lockCore
	if cap(l.log.entries) > keptLog {
		l.log.entries = nil
	}
	clear(l.log.entries)
	l.log.entries = l.log.entries[:0]
}

// touch notes an entry before it is changed.
func (l *lock) touch(e *lockEntry) {
	if l.log != nil {
		l.log.entries = append(l.log.entries, savedEntry{e, *e})
	}
}

// Undo implements actors.Undoer. A refusal has changed nothing; what is left
// is a panic, after which everything that is found from the lists is rebuilt.
func (l *lock) Undo() {
	if l.log == nil || len(l.log.entries) == 0 && l.lockCore == l.log.core {
		return
	}
	for _, saved := range slices.Backward(l.log.entries) {
		*saved.at = saved.before
	}
	l.lockCore, l.spare = l.log.core, nil
	l.rebuild()
}

// rebuild makes heap and index from the lists.
func (l *lock) rebuild() {
	clear(l.soonest)
	l.soonest = l.soonest[:0]
	for _, list := range [...]*entryList{&l.holders, &l.queue} {
		for e := list.first; e != nil; e = e.next {
			l.soonest.Push(e)
		}
	}
	heap.Init(&l.soonest)
	l.wide = nil
	if l.holders.n+l.queue.n > narrow {
		l.index()
	}
}

// Assign implements actors.State. It copies every entry; a shard that knows
// actors.Undoer does not call it.
func (l *lock) Assign(from actors.State) {
	other, ok := from.(*lock)
	if !ok || other == l {
		return
	}
	next := lock{lockCore: other.lockCore, log: l.log}
	next.holders, next.queue = entryList{}, entryList{}
	for e := other.holders.first; e != nil; e = e.next {
		next.holders.append(*e)
	}
	for e := other.queue.first; e != nil; e = e.next {
		next.queue.append(*e)
	}
	*l = next
	l.rebuild()
}

func (to *entryList) append(e lockEntry) {
	e.prev, e.next = to.last, nil
	if to.last == nil {
		to.first = &e
	} else {
		to.last.next = &e
	}
	to.last = &e
	to.n++
}

// The fields of quern.store.v1.LockState, LockHolderState and LockWaiterState.
// The codec is written out because a queue can be long; a test holds it
// against the generated one.
const (
	lockPermits = protowire.Number(1)
	lockHolders = protowire.Number(2)
	lockQueue   = protowire.Number(3)
	lockDue     = protowire.Number(4)

	entryOwner = protowire.Number(1)
	entryTTL   = protowire.Number(2)

	holderToken       = protowire.Number(3)
	holderShared      = protowire.Number(4)
	holderUnconfirmed = protowire.Number(5)
	waiterShared      = protowire.Number(3)
)

const (
	// entryBytes is about what an entry takes in a record beyond its owner.
	entryBytes = 12
	lockBytes  = 16
)

// Size implements actors.Sizer.
func (l *lock) Size() int { return l.bytes + lockBytes }

// Append implements actors.State. The whole queue is written each time: about
// 50 bytes for each waiter.
func (l *lock) Append(b []byte) ([]byte, error) {
	if l.holders.n == 0 && l.queue.n == 0 {
		return b, nil
	}
	b = appendUint(b, lockPermits, uint64(l.permits))
	for e := l.holders.first; e != nil; e = e.next {
		b = protowire.AppendTag(b, lockHolders, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(e.recordSize())) //nolint:gosec // not negative
		b = e.appendTo(b)
		b = appendUint(b, holderToken, e.token)
		b = appendBool(b, holderShared, e.shared)
		b = appendBool(b, holderUnconfirmed, e.state == granted)
	}
	for e := l.queue.first; e != nil; e = e.next {
		b = protowire.AppendTag(b, lockQueue, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(e.recordSize())) //nolint:gosec // not negative
		b = e.appendTo(b)
		b = appendBool(b, waiterShared, e.shared)
	}
	return appendUint(b, lockDue, uint64(l.armed)), nil //nolint:gosec // as protobuf encodes int64
}

// recordSize is the length of the entry's encoded message. All its tags take
// one byte.
func (e *lockEntry) recordSize() int {
	n := 1 + protowire.SizeBytes(len(e.owner)) + 1 + protowire.SizeVarint(uint64(e.ttl)) //nolint:gosec // as protobuf encodes int64
	if e.shared {
		n += 2
	}
	if e.state != queued {
		n += 1 + protowire.SizeVarint(e.token)
	}
	if e.state == granted {
		n += 2
	}
	return n
}

func (e *lockEntry) appendTo(b []byte) []byte {
	b = protowire.AppendTag(b, entryOwner, protowire.BytesType)
	b = protowire.AppendString(b, e.owner)
	return appendUint(b, entryTTL, uint64(e.ttl)) //nolint:gosec // as protobuf encodes int64
}

func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendBool(b []byte, field protowire.Number, v bool) []byte {
	return appendUint(b, field, protowire.EncodeBool(v))
}

var errLockRecord = errors.New("grains: malformed lock record")

// Decode implements actors.State. Fields of a later version are passed over.
func (l *lock) Decode(record []byte) error {
	next := lock{log: l.log}
	ok := eachField(record, func(field protowire.Number, v uint64, b []byte) bool {
		switch {
		case field == lockPermits && b == nil && v <= MaxLockHolders:
			next.permits = uint32(v)
		case field == lockDue && b == nil:
			next.armed = int64(v) //nolint:gosec // as protobuf decodes int64
		case field == lockHolders && b != nil:
			return next.decodeEntry(&next.holders, b)
		case field == lockQueue && b != nil:
			return next.decodeEntry(&next.queue, b)
		default:
			return field > lockDue
		}
		return true
	})
	if !ok || !next.sound() {
		return errLockRecord
	}
	next.reloaded = next.Pinned()
	*l = next
	l.rebuild()
	return nil
}

func (l *lock) decodeEntry(to *entryList, record []byte) bool {
	var e lockEntry
	holder := to == &l.holders
	if holder {
		e.state = held
	}
	ok := eachField(record, func(field protowire.Number, v uint64, b []byte) bool {
		switch {
		case field == entryOwner && b != nil:
			e.owner = string(b)
		case field == entryTTL && b == nil:
			e.ttl = int64(v) //nolint:gosec // as protobuf decodes int64
		case !holder && field == waiterShared && b == nil, holder && field == holderShared && b == nil:
			e.shared = v != 0
		case holder && field == holderToken && b == nil:
			e.token = v
		case holder && field == holderUnconfirmed && b == nil:
			e.state = held
			if v != 0 {
				e.state = granted
			}
		default:
			return field > holderUnconfirmed || !holder && field > waiterShared
		}
		return true
	})
	if !ok || checkText("owner", e.owner, maxOwnerBytes) != nil || e.ttl <= 0 || e.ttl > int64(MaxLease/time.Millisecond) || holder == (e.token == 0) {
		return false
	}
	l.bytes += len(e.owner) + entryBytes
	to.append(e)
	return true
}

// sound reports whether a decoded lock is one that turns could have made.
func (l *lock) sound() bool {
	if !l.Pinned() {
		return l.permits == 0 && l.armed == 0
	}
	if l.permits == 0 || l.armed <= 0 || l.holders.n > MaxLockHolders || l.queue.n > MaxLockWaiters {
		return false
	}
	owners := make(map[string]bool, l.holders.n+l.queue.n)
	token := uint64(0)
	for e := l.holders.first; e != nil; e = e.next {
		if e.token <= token || e.shared != l.holders.first.shared || owners[e.owner] {
			return false
		}
		token, owners[e.owner] = e.token, true
	}
	for e := l.queue.first; e != nil; e = e.next {
		if owners[e.owner] {
			return false
		}
		owners[e.owner] = true
	}
	if l.holders.n > l.permits && !l.holders.first.shared {
		return false
	}
	return l.queue.n == 0 || !l.admits(l.queue.first.shared)
}

// eachField calls visit with each field of a record: a number, or bytes, which
// are not nil then. It returns false where the record is malformed or visit
// returns false. Fields of other types are passed over.
func eachField(record []byte, visit func(field protowire.Number, v uint64, b []byte) bool) bool {
	for len(record) > 0 {
		field, wire, n := protowire.ConsumeTag(record)
		if n < 0 || !field.IsValid() {
			return false
		}
		record = record[n:]
		var v uint64
		var b []byte
		switch wire {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(record)
		case protowire.BytesType:
			if b, n = protowire.ConsumeBytes(record); b == nil {
				b = []byte{}
			}
		default:
			n = protowire.ConsumeFieldValue(field, wire, record)
		}
		if n < 0 {
			return false
		}
		record = record[n:]
		if (wire == protowire.VarintType || wire == protowire.BytesType) && !visit(field, v, b) {
			return false
		}
	}
	return true
}
