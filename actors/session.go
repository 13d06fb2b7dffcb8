package actors

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	storev1 "github.com/quern-io/quern/messages/quern/store/v1"
)

// Bounds of a session.
const (
	sessionIDBytes = 16
	// sessionWindow is how far a number may be above what is settled.
	sessionWindow = 1024
	// sessionBytes is how much the kept results may take; the last one may
	// go beyond it.
	sessionBytes = 256 << 10
	// sessionUnused is the life of a session that was opened and not used,
	// sessionKept the least life after a use, in milliseconds.
	sessionUnused = int64(5 * time.Minute / time.Millisecond)
	sessionKept   = int64(time.Hour / time.Millisecond)
	// sessionStep is the unit in which expiries move: its timer moves no
	// more often.
	sessionStep = int64(5 * time.Minute / time.Millisecond)
	// sessionPinned is how long after a use a session is not evicted: an
	// operation needs it together with its grain, and each of the two could
	// drive out the other.
	sessionPinned = int64(10 * time.Second / time.Millisecond)
)

// sessionKind makes a session a grain like any other to loads, eviction,
// timers and commits. Its key is the session's id.
type sessionKind struct{}

// sessionKindName is no name that a user's kind can have.
const sessionKindName = "$session"

func (sessionKind) Name() string { return sessionKindName }
func (sessionKind) New() State   { return &session{} }

// session is the state of a client's session at a shard (RIFL's completion
// records, of one client). Its zero value is one that is not open.
type session struct {
	// expires is in Unix milliseconds by the shard's clock; 0 is not open.
	expires int64
	used    int64 // when it was last used, by the shard's clock; not durable
	// usual numbers most operations, waits those that may wait for others: one
	// that waits for long must not hold up what is numbered after it.
	usual, waits lane
}

// lane is a sequence of numbers, and what is kept of them.
type lane struct {
	// done: every number up to it is settled at the client.
	done uint64
	// window holds the results of the numbers above done, each at its number
	// modulo the length, which is a power of two and at most sessionWindow.
	// top is not below the highest of them.
	window []result
	top    uint64
	bytes  int // kept in the window
}

// lane returns the one that numbers an operation.
func (s *session) lane(in *Session) *lane {
	if in.Waits {
		return &s.waits
	}
	return &s.usual
}

// smallReply is the longest encoded reply that is kept within its result.
const smallReply = 22

// result is the first answer to one number.
type result struct {
	// large holds what small cannot: a longer reply, or a refusal.
	large *largeResult
	state resultState
	size  uint8 // of small
	small [smallReply]byte
}

type resultState uint8

const (
	resultNone resultState = iota
	resultSmall
	resultLarge
)

type largeResult struct {
	reply   []byte
	refusal *failure.Error // nil where there is a reply
}

// session returns the grain's session; nil where it is none.
func (g *grain) session() *session {
	s, _ := g.state.(*session)
	return s
}

func (s *session) open() bool { return s.expires != 0 }

// settle raises done and forgets the results up to it.
func (l *lane) settle(to uint64) {
	for n := l.done + 1; n > l.done && n <= min(to, l.top); n++ {
		l.forget(n)
	}
	l.done = max(l.done, to)
	l.top = max(l.top, l.done)
}

// find returns the result of a number, nil where there is none.
func (l *lane) find(number uint64) *result {
	if number <= l.done || number-l.done > uint64(len(l.window)) {
		return nil
	}
	if r := l.at(number); r.state != resultNone {
		return r
	}
	return nil
}

func (l *lane) at(number uint64) *result {
	return &l.window[number&uint64(len(l.window)-1)] //nolint:gosec // not empty
}

// forget takes a result back.
func (l *lane) forget(number uint64) {
	if r := l.find(number); r != nil {
		l.bytes -= r.bytes()
		*r = result{}
	}
}

// room makes the window reach a number above done, within sessionWindow.
func (l *lane) room(number uint64) {
	size := max(len(l.window), 8)
	for uint64(size) < number-l.done {
		size *= 2
	}
	if size == len(l.window) {
		return
	}
	old := *l
	l.window = make([]result, size)
	for n := l.done + 1; n > l.done && n <= l.top; n++ {
		if r := old.find(n); r != nil {
			*l.at(n) = *r
		}
	}
}

// keepReply keeps an encoded reply, of which it takes a copy.
func (l *lane) keepReply(number uint64, reply []byte) {
	if len(reply) > smallReply {
		l.keep(number, result{state: resultLarge, large: &largeResult{reply: append([]byte(nil), reply...)}})
		return
	}
	r := result{state: resultSmall, size: uint8(len(reply))} //nolint:gosec // at most smallReply
	copy(r.small[:], reply)
	l.keep(number, r)
}

// keepRefusal keeps a refusal as it will be read again: without its cause, and
// with a message that a record can hold.
func (l *lane) keepRefusal(number uint64, e *failure.Error) {
	kept := &failure.Error{Reason: e.Reason, Message: strings.ToValidUTF8(e.Message, "\uFFFD")}
	l.keep(number, result{state: resultLarge, large: &largeResult{refusal: kept}})
}

func (l *lane) keep(number uint64, r result) {
	l.room(number)
	*l.at(number) = r
	l.bytes += r.bytes()
	l.top = max(l.top, number)
}

// bytes is what a result counts towards sessionBytes.
func (r *result) bytes() int {
	switch {
	case r.large == nil:
		return int(r.size)
	case r.large.refusal != nil:
		return len(r.large.refusal.Message)
	default:
		return len(r.large.reply)
	}
}

// answer returns the result's reply or refusal.
func (r *result) answer() (reply []byte, refusal *failure.Error) {
	if r.large != nil {
		return r.large.reply, r.large.refusal
	}
	return r.small[:r.size], nil
}

// weight is what the session counts towards the resident limit beyond the
// grain that it is: a grain's worth for about 128 bytes.
func (s *session) weight() int { return s.usual.weight() + s.waits.weight() }

func (l *lane) weight() int { return len(l.window)/4 + l.bytes/128 }

// bytes is what the kept results take.
func (s *session) bytes() int { return s.usual.bytes + s.waits.bytes }

// Size implements Sizer: a bound of the record, but for a few bytes.
func (s *session) Size() int {
	return s.usual.size() + s.waits.size()
}

func (l *lane) size() int {
	return l.bytes + 24*int(min(l.top-l.done, uint64(len(l.window)))) //nolint:gosec // at most sessionWindow
}

// Apply implements State. Nothing runs on a session but the shard itself, which
// also ends it when its time has come.
func (*session) Apply(*Turn, proto.Message, proto.Message) (bool, error) {
	return false, failure.New(failure.UnknownMethod, "a session has no methods")
}

// Assign implements State. There is no turn to undo.
func (*session) Assign(State) {}

// Due implements State.
func (s *session) Due() int64 { return s.expires }

// Fields of the records; see proto/quern/store/v1/records.proto.
const (
	fieldDone, fieldExpires, fieldResults   = 1, 2, 3 // SessionRecord
	fieldWaitsDone, fieldWaits              = 4, 5
	fieldNumber, fieldReply, fieldRefusal   = 1, 2, 3 // SessionResult
	fieldRefusalReason, fieldRefusalMessage = 1, 2    // Refusal
	tagBytes                                = 1       // of each field's tag
)

// Append implements State. It writes the encoding of a SessionRecord by hand,
// since the whole window is written with each commit.
func (s *session) Append(b []byte) ([]byte, error) {
	if !s.open() {
		return b, nil
	}
	if s.usual.done != 0 {
		b = appendUint(b, fieldDone, s.usual.done)
	}
	b = appendUint(b, fieldExpires, uint64(s.expires)) //nolint:gosec // positive
	b = s.usual.append(b, fieldResults)
	if s.waits.done != 0 {
		b = appendUint(b, fieldWaitsDone, s.waits.done)
	}
	return s.waits.append(b, fieldWaits), nil
}

// append appends the kept results, each as a field of the SessionRecord.
func (l *lane) append(b []byte, field protowire.Number) []byte {
	for n := l.done + 1; n > l.done && n <= l.top; n++ {
		if r := l.find(n); r != nil {
			b = r.append(b, field, n)
		}
	}
	return b
}

func (r *result) append(b []byte, to protowire.Number, number uint64) []byte {
	reply, refusal := r.answer()
	field, size := protowire.Number(fieldReply), len(reply)
	if refusal != nil {
		field, size = fieldRefusal, sizeString(refusal.Reason.String())+sizeString(refusal.Message)
	}
	b = protowire.AppendTag(b, to, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(tagBytes+protowire.SizeVarint(number)+tagBytes+protowire.SizeBytes(size))) //nolint:gosec // positive
	b = appendUint(b, fieldNumber, number)
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	if refusal == nil {
		return append(b, reply...)
	}
	return appendString(appendString(b, fieldRefusalReason, refusal.Reason.String()), fieldRefusalMessage, refusal.Message)
}

func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func sizeString(s string) int { return tagBytes + protowire.SizeBytes(len(s)) }

var (
	errSessionRecord = errors.New("actors: a session's record has no expiry")
	errSessionResult = errors.New("actors: a session's result is out of place or empty")
)

// Decode implements State.
func (s *session) Decode(record []byte) error {
	var r storev1.SessionRecord
	if err := proto.Unmarshal(record, &r); err != nil {
		return fmt.Errorf("actors: session record: %w", err)
	}
	if r.GetExpiresAtMs() <= 0 {
		return errSessionRecord
	}
	*s = session{expires: r.GetExpiresAtMs()}
	if err := s.usual.decode(r.GetDone(), r.GetResults()); err != nil {
		return err
	}
	return s.waits.decode(r.GetWaitsDone(), r.GetWaits())
}

func (l *lane) decode(done uint64, results []*storev1.SessionResult) error {
	l.done, l.top = done, done
	for _, kept := range results {
		n := kept.GetNumber()
		if n <= l.top || n-l.done > sessionWindow {
			return errSessionResult
		}
		switch answer := kept.GetAnswer().(type) {
		case *storev1.SessionResult_Reply:
			l.keepReply(n, answer.Reply)
		case *storev1.SessionResult_Refusal:
			reason, _ := failure.ParseReason(answer.Refusal.GetReason())
			l.keepRefusal(n, &failure.Error{Reason: reason, Message: answer.Refusal.GetMessage()})
		default:
			return errSessionResult
		}
	}
	return nil
}
