package actors

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	storev1 "github.com/quern-io/quern/messages/quern/store/v1"
)

// Idempotency keys. The answer to an operation that carries one is kept beside
// the grain's state, in the same commit, for onceKept. At most onceLimit are
// kept per grain; beyond that, those older than onceYoung give way.
const (
	onceKept  = int64(24 * time.Hour / time.Millisecond)
	onceYoung = int64(10 * time.Minute / time.Millisecond)
	onceLimit = 10_000
	// onceBytes bounds what they take together, but for the last one.
	onceBytes = 16 << 20
	// prunedPerTurn bounds what one turn adds to a commit. What is left is
	// still due, and goes with the next sweep.
	prunedPerTurn = 256
)

// onceTable holds the kept answers of one grain.
type onceTable struct {
	entries map[string]*onceEntry
	// order holds the ids, oldest first. Times never fall, so an append
	// keeps it sorted.
	order []string
	// changed are the ids that were added or removed since the last cut.
	changed []string
	bytes   int // of the answers
	// timer is a due time of the table in the timer table; 0 is none known.
	timer int64
}

type onceEntry struct {
	at      int64
	hash    uint64
	reply   []byte
	refusal *failure.Error // nil where there is a reply
	record  []byte         // nil once it was cut
}

// onceBefore settles a call whose id is known, by its first answer, and makes
// room for one whose id is new. It returns false where the turn is to be run.
func (s *shard) onceBefore(g *grain, c *call) bool {
	s.pruneOnce(g)
	t := g.once()
	if e := t.entries[c.once]; e != nil {
		s.answer(g, 0, c, e.replay(c))
		return true
	}
	for len(t.entries) >= onceLimit || t.bytes >= onceBytes {
		if oldest := t.entries[t.order[0]]; s.now()-oldest.at < onceYoung {
			s.counts.overloaded.Add(1)
			c.complete(errOnceFull)
			return true
		}
		s.removeOldest(g, t)
	}
	return false
}

// replay fills in the first answer.
func (e *onceEntry) replay(c *call) error {
	if e.hash != c.hash {
		return failure.New(failure.IDReused, "the idempotency key %q came with another request before; use a fresh one", c.once)
	}
	if e.refusal != nil {
		return e.refusal
	}
	if err := proto.Unmarshal(e.reply, c.reply); err != nil {
		return failure.Wrap(err, failure.Internal, "the kept answer does not decode")
	}
	return nil
}

// onceAfter keeps the answer of a turn that has just run. What was no answer
// is not kept.
func (s *shard) onceAfter(g *grain, c *call, err error) error {
	if isNoAnswer(err) {
		return err
	}
	e := &onceEntry{at: s.now(), hash: c.hash}
	if err != nil {
		e.refusal, _ = err.(*failure.Error) //nolint:errorlint // isNoAnswer has checked the type
	} else if e.reply, err = proto.Marshal(c.reply); err != nil {
		return failure.Wrap(err, failure.Internal, "the reply does not encode; it was not kept")
	}
	var broken error
	if e.record, broken = proto.Marshal(e.message()); broken != nil {
		return failure.Wrap(broken, failure.Internal, "the answer does not encode; it was not kept")
	}
	t := g.once()
	t.entries[c.once] = e
	t.bytes += e.size()
	t.order = append(t.order, c.once)
	t.changed = append(t.changed, c.once)
	s.residents.weight++
	s.markDirty(g)
	s.gate.weight += recordOverhead + len(g.key) + len(c.once) + len(e.record)
	return err
}

// pruneOnce removes the answers that have been kept long enough.
func (s *shard) pruneOnce(g *grain) {
	t := g.once()
	if t == nil {
		return
	}
	for n := 0; n < prunedPerTurn && len(t.order) > 0 && t.entries[t.order[0]].at+onceKept <= s.now(); n++ {
		s.removeOldest(g, t)
	}
}

func (s *shard) removeOldest(g *grain, t *onceTable) {
	id := t.order[0]
	t.order = t.order[1:]
	t.bytes -= t.entries[id].size()
	delete(t.entries, id)
	t.changed = append(t.changed, id)
	s.residents.weight--
	s.markDirty(g)
	s.gate.weight += recordOverhead + len(g.key) + len(id)
}

// size is what an answer counts towards onceBytes.
func (e *onceEntry) size() int {
	if e.refusal != nil {
		return len(e.refusal.Message)
	}
	return len(e.reply)
}

// due is when the oldest answer has been kept long enough; 0 is never.
func (t *onceTable) due() int64 {
	if len(t.order) == 0 {
		return 0
	}
	return t.entries[t.order[0]].at + onceKept
}

// encodeOnce appends the changed answers of a grain to the flight.
func (s *shard) encodeOnce(f *flight, g *grain, t *onceTable) {
	name := g.kind.kind.Name()
	for _, id := range t.changed {
		start := len(f.arena)
		f.arena = append(appendOncePrefix(f.arena, name, g.key), id...)
		middle := len(f.arena)
		e := t.entries[id]
		if e != nil {
			f.arena = append(f.arena, e.record...)
		}
		f.add(start, middle, e == nil)
	}
	// Only now: an id that was removed and used again stands there twice.
	for _, id := range t.changed {
		if e := t.entries[id]; e != nil {
			e.record = nil
		}
	}
	t.changed = t.changed[:0]
	// A timer that comes too early is harmless, and so is one too many (its
	// turn removes it); moving it with each removal would cost two records.
	if t.timer == 0 || len(t.order) == 0 || t.timer <= s.now() {
		s.encodeTimer(f, g, tableOnce, &t.timer, t.due())
	}
}

func (e *onceEntry) message() *storev1.OnceRecord {
	r := &storev1.OnceRecord{AtMs: e.at, RequestHash: e.hash}
	if e.refusal != nil {
		r.Answer = &storev1.OnceRecord_Refusal{Refusal: &storev1.Refusal{
			Reason: e.refusal.Reason.String(), Message: e.refusal.Message,
		}}
	} else {
		r.Answer = &storev1.OnceRecord_Reply{Reply: e.reply}
	}
	return r
}

// decodeOnce reads one kept answer.
func decodeOnce(record []byte) (*onceEntry, error) {
	var r storev1.OnceRecord
	if err := proto.Unmarshal(record, &r); err != nil {
		return nil, err
	}
	e := &onceEntry{at: r.GetAtMs(), hash: r.GetRequestHash(), reply: r.GetReply()}
	if refused := r.GetRefusal(); refused != nil {
		reason, _ := failure.ParseReason(refused.GetReason())
		e.refusal = &failure.Error{Reason: reason, Message: refused.GetMessage()}
	}
	return e, nil
}

// newOnceTable builds the table from the loaded answers.
func newOnceTable(entries map[string]*onceEntry) *onceTable {
	t := &onceTable{entries: entries, order: make([]string, 0, len(entries))}
	for id, e := range entries {
		t.order = append(t.order, id)
		t.bytes += e.size()
	}
	slices.SortFunc(t.order, func(a, b string) int {
		return cmp.Or(cmp.Compare(entries[a].at, entries[b].at), cmp.Compare(a, b))
	})
	return t
}

// hashRequest identifies a request, for telling a repeat from another request
// under the same id.
func hashRequest(method string, command proto.Message) (uint64, error) {
	b := append(make([]byte, 0, 128), method...)
	b, err := (proto.MarshalOptions{Deterministic: true}).MarshalAppend(append(b, 0), command)
	if err != nil {
		return 0, err
	}
	sum := sha256.Sum256(b)
	return binary.BigEndian.Uint64(sum[:8]), nil
}
