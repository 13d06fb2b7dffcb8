package frame

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// The fields of GrainServiceStreamResponse.
const (
	responseHello    = 1
	responseOrigins  = 2
	responseSessions = 3
	responseReplies  = 4
	responsePong     = 5
	responseColumns  = 6
)

// The fields of StreamReply and StreamOrigin.
const (
	replyID    = 1
	replyReply = 2
	replyError = 3

	originShard = 1
	originEpoch = 2
	originNode  = 3

	sessionError = 4
)

// AppendHello appends a hello.
func AppendHello(b []byte, h *quernv1.StreamHello) ([]byte, error) {
	return appendMessage(b, responseHello, h)
}

// AppendOrigin says who answers for a shard.
func AppendOrigin(b []byte, shard uint32, epoch uint64, node string) []byte {
	b, start := begin(b, responseOrigins)
	b = appendUint(b, originShard, uint64(shard))
	b = appendUint(b, originEpoch, epoch)
	return end(appendBytes(b, originNode, node), start)
}

// AppendSessionAnswer tells of a session that was opened or closed, or why it
// was not, where e is not nil.
func AppendSessionAnswer(b []byte, shard uint32, id string, closed bool, e *failure.Error) []byte {
	if e == nil {
		return appendSession(b, responseSessions, shard, id, closed)
	}
	b, start := begin(b, responseSessions)
	b = appendUint(b, 1, uint64(shard))
	b = appendBytes(b, 2, id)
	if closed {
		b = appendUint(b, 3, 1)
	}
	return end(appendError(b, sessionError, e), start)
}

// AppendReply answers an operation with a message. It fails, and appends
// nothing, where the message does not encode.
func AppendReply(b []byte, id uint64, reply proto.Message) ([]byte, error) {
	whole, start := begin(b, responseReplies)
	whole = appendUint(whole, replyID, id)
	whole, err := appendMessage(whole, replyReply, reply)
	if err != nil {
		return b, err
	}
	return end(whole, start), nil
}

// AppendFailure answers an operation that failed.
func AppendFailure(b []byte, id uint64, e *failure.Error) []byte {
	b, start := begin(b, responseReplies)
	b = appendUint(b, replyID, id)
	return end(appendError(b, replyError, e), start)
}

// AppendPong answers a ping.
func AppendPong(b []byte, n uint64) []byte { return appendUint(b, responsePong, n) }

// notText stands for a message that is not UTF-8.
const notText = "(not UTF-8)"

func streamError(e *failure.Error) *quernv1.StreamError {
	m := &quernv1.StreamError{
		Reason:       e.Reason.String(),
		Message:      e.Message,
		RetryAfterMs: uint32(min(e.RetryAfter, time.Hour).Milliseconds()), //nolint:gosec // below 2^32
		Code:         e.Reason.Code(),
		Unknown:      e.Outcome() == failure.Unknown,
	}
	if o := e.Owner; o != nil {
		m.Owner = &quernv1.StreamOwner{Shard: o.Shard, Node: o.Node, Addr: o.Addr, Epoch: o.Epoch}
	}
	return m
}

func appendError(b []byte, field protowire.Number, e *failure.Error) []byte {
	m := streamError(e)
	out, err := appendMessage(b, field, m)
	if err != nil { // a message that is not UTF-8
		m.Message, m.Owner = notText, nil
		out, _ = appendMessage(b, field, m)
	}
	return out
}

// failureOf turns a StreamError into the failure that it stands for. A reason
// that this build does not know is replaced by one that promises the same.
func failureOf(m *quernv1.StreamError) *failure.Error {
	if m == nil {
		return nil
	}
	e := &failure.Error{Message: m.GetMessage(), RetryAfter: time.Duration(m.GetRetryAfterMs()) * time.Millisecond}
	var known bool
	if e.Reason, known = failure.ParseReason(m.GetReason()); !known {
		e.Reason = wire.Fallback(m.GetCode(), m.GetUnknown())
		e.Message = m.GetReason() + ": " + e.Message
	}
	if o := m.GetOwner(); o != nil {
		e.Owner = &failure.Owner{Shard: o.GetShard(), Node: o.GetNode(), Addr: o.GetAddr(), Epoch: o.GetEpoch()}
	}
	return e
}

// Responses takes the parts of a node's frame. An error ends the reading.
type Responses interface {
	Hello(h *quernv1.StreamHello) error
	Origin(shard uint32, epoch uint64, node []byte) error
	// Session was opened or closed; e is nil or says why not.
	Session(shard uint32, id []byte, closed bool, e *failure.Error) error
	// Reply has the encoded reply message, or e.
	Reply(id uint64, reply []byte, e *failure.Error) error
	// Column has the encoded answer to a column, for ReadColumnReply.
	Column(encoded []byte) error
	Pong(n uint64) error
}

// ReadResponse reads a node's frame, whose parts stand in the order of their
// numbers.
//
//nolint:wrapcheck // what the visitor returns is its own
func ReadResponse(b []byte, v Responses) error {
	c := cursor{rest: b}
	for c.next() {
		var err error
		switch c.tag {
		case responseHello<<3 | message:
			var h quernv1.StreamHello
			if err = proto.Unmarshal(c.value, &h); err == nil {
				err = v.Hello(&h)
			}
		case responseOrigins<<3 | message:
			err = readOrigin(c.value, v)
		case responseSessions<<3 | message:
			err = readSession(c.value, v)
		case responseReplies<<3 | message:
			err = readReply(c.value, v)
		case responseColumns<<3 | message:
			err = v.Column(c.value)
		case responsePong<<3 | varint:
			err = v.Pong(c.number)
		}
		if err != nil {
			return err
		}
	}
	return c.err
}

func readOrigin(b []byte, v Responses) error {
	var (
		shard, epoch uint64
		node         []byte
	)
	c := cursor{rest: b}
	for c.next() {
		switch c.tag {
		case originShard<<3 | varint:
			shard = c.number
		case originEpoch<<3 | varint:
			epoch = c.number
		case originNode<<3 | message:
			node = c.value
		}
	}
	if c.err != nil {
		return c.err
	}
	return v.Origin(uint32(shard), epoch, node) //nolint:wrapcheck // the visitor's own
}

func readSession(b []byte, v Responses) error {
	var s quernv1.StreamSession
	if err := proto.Unmarshal(b, &s); err != nil {
		return malformed("a session", err)
	}
	return v.Session(s.GetShard(), s.GetId(), s.GetClose(), failureOf(s.GetError())) //nolint:wrapcheck // the visitor's own
}

func readReply(b []byte, v Responses) error {
	var (
		id    uint64
		reply []byte
		e     *failure.Error
	)
	c := cursor{rest: b}
	for c.next() {
		switch c.tag {
		case replyID<<3 | varint:
			id = c.number
		case replyReply<<3 | message:
			reply = c.value
		case replyError<<3 | message:
			var m quernv1.StreamError
			if err := proto.Unmarshal(c.value, &m); err != nil {
				return malformed("an error", err)
			}
			e = failureOf(&m)
		}
	}
	if c.err != nil {
		return c.err
	}
	return v.Reply(id, reply, e) //nolint:wrapcheck // the visitor's own
}
