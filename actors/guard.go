package actors

import (
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/keyspace"
	storev1 "github.com/quern-io/quern/messages/quern/store/v1"
)

// Guards. A grain that was written under a guard remembers the highest token of
// that lock beside its state, in the same commit, and refuses lower ones. The
// table is read by the first operation that carries a guard, so that it costs
// nothing for all others.
//
// A guard is checked when the operation has its turn, and noted where the
// handler took it: a refusal changes nothing, the guards included. An operation
// that waits notes it with its place, and is checked again when it comes back;
// where it is refused then, its place is given back. What answers a repeat is
// the first answer, whatever has become of the guard meanwhile.
const (
	// guardLimit is how many locks a grain remembers. Beyond that the one whose
	// last use is the longest ago gives way, if that is guardKept or more; else
	// the operation is refused with OVERLOADED.
	guardLimit = 16
	guardKept  = int64(7 * 24 * time.Hour / time.Millisecond)
	// guardStep is the unit in which the time of the last use moves, so that
	// most writes under the same token write no guards.
	guardStep = int64(time.Hour / time.Millisecond)
)

// Guard is the lock under which an operation writes.
type Guard struct {
	// Lock is the lock's key, which may be of any shard.
	Lock string
	// Token is the fencing token; not 0.
	Token uint64
}

// guardTable holds the guards of one grain.
type guardTable struct {
	// marks is replaced and never changed: what undoes a turn keeps the
	// former ones.
	marks   []guardMark
	changed bool // since the last cut
}

type guardMark struct {
	lock  string
	token uint64
	used  int64 // in steps of guardStep, rounded down
}

func (g *Guard) check() error {
	switch {
	case g.Lock == "" || len(g.Lock) > keyspace.MaxKeyBytes || !utf8.ValidString(g.Lock):
		return failure.New(failure.InvalidField, "the guard's lock is no key: it has %d bytes, 1 to %d of UTF-8 are taken", len(g.Lock), keyspace.MaxKeyBytes)
	case g.Token == 0:
		return failure.New(failure.InvalidField, "the guard's token is 0, which no lock has given")
	default:
		return nil
	}
}

// guards returns the grain's guards, nil where they were not read.
func (g *grain) guards() *guardTable {
	if g.extra == nil {
		return nil
	}
	return g.extra.guards
}

// find returns the place of a lock, -1 where it is not known.
func (t *guardTable) find(lock string) int {
	for i := range t.marks {
		if t.marks[i].lock == lock {
			return i
		}
	}
	return -1
}

// oldest returns the place of the lock whose last use is the longest ago.
func (t *guardTable) oldest() (place int) {
	for i := range t.marks {
		if t.marks[i].used < t.marks[place].used {
			place = i
		}
	}
	return place
}

// checkGuard refuses a token below the highest one of its lock, and a lock for
// which there is no room.
func (s *shard) checkGuard(g *grain, guard *Guard) error {
	t := g.guards()
	if i := t.find(guard.Lock); i >= 0 {
		if guard.Token < t.marks[i].token {
			return failure.New(failure.FencedToken, "the lock %q was given on: the key was written under token %d, this is %d", guard.Lock, t.marks[i].token, guard.Token)
		}
		return nil
	}
	if len(t.marks) < guardLimit || s.now()-t.marks[t.oldest()].used >= guardKept {
		return nil
	}
	s.counts.overloaded.Add(1)
	return errGuardsFull
}

// noteGuard remembers a guard that checkGuard has let pass, and reports whether
// that changed anything.
func (s *shard) noteGuard(g *grain, guard *Guard) bool {
	t := g.guards()
	i := t.find(guard.Lock)
	mark := guardMark{lock: guard.Lock, token: guard.Token, used: s.now() / guardStep * guardStep}
	if i >= 0 && t.marks[i] == mark {
		return false
	}
	marks := append(make([]guardMark, 0, len(t.marks)+1), t.marks...)
	switch {
	case i >= 0:
		marks[i] = mark
	case len(marks) < guardLimit:
		marks = append(marks, mark)
	default:
		marks[t.oldest()] = mark
	}
	s.setGuards(g, marks)
	for _, m := range marks {
		s.gate.weight += guardOverhead + len(m.lock)
	}
	return true
}

// guardOverhead is about what a mark takes in a record beyond its lock's key.
const guardOverhead = 24

// setGuards replaces the marks of a grain.
func (s *shard) setGuards(g *grain, marks []guardMark) {
	t := g.guards()
	s.residents.weight += len(marks) - len(t.marks)
	t.marks, t.changed = marks, true
}

// encodeGuards appends the record of a grain's guards to the flight.
func (f *flight) encodeGuards(g *grain, t *guardTable) {
	if !t.changed {
		return
	}
	start := len(f.arena)
	f.arena = appendGuardKey(f.arena, g.kind.kind.Name(), g.key)
	middle := len(f.arena)
	f.arena = t.append(f.arena)
	f.add(start, middle, middle == len(f.arena))
	t.changed = false
}

// Fields of the records; see proto/quern/store/v1/records.proto.
const (
	fieldMarks                                   = 1       // GuardRecord
	fieldMarkLock, fieldMarkToken, fieldMarkUsed = 1, 2, 3 // GuardMark
)

// append appends the encoding of a GuardRecord. By hand it cannot fail.
func (t *guardTable) append(b []byte) []byte {
	for i := range t.marks {
		m := &t.marks[i]
		used := uint64(m.used) //nolint:gosec // positive
		size := sizeString(m.lock) + tagBytes + protowire.SizeVarint(m.token)
		if used != 0 {
			size += tagBytes + protowire.SizeVarint(used)
		}
		b = protowire.AppendTag(b, fieldMarks, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size)) //nolint:gosec // positive
		b = appendString(b, fieldMarkLock, m.lock)
		b = appendUint(b, fieldMarkToken, m.token)
		if used != 0 {
			b = appendUint(b, fieldMarkUsed, used)
		}
	}
	return b
}

// decodeGuards reads the record of a grain's guards; none is an empty one.
func decodeGuards(record []byte) (*guardTable, error) {
	var r storev1.GuardRecord
	if err := proto.Unmarshal(record, &r); err != nil {
		return nil, fmt.Errorf("actors: guard record: %w", err)
	}
	t := &guardTable{}
	for _, m := range r.GetMarks() {
		if m.GetLock() == "" || m.GetToken() == 0 || m.GetUsedAtMs() < 0 || t.find(m.GetLock()) >= 0 || len(t.marks) == guardLimit {
			return nil, errGuardRecord
		}
		t.marks = append(t.marks, guardMark{lock: m.GetLock(), token: m.GetToken(), used: m.GetUsedAtMs()})
	}
	return t, nil
}
