package frame

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// The fields of GrainServiceStreamRequest.
const (
	requestMethods    = 1
	requestSessions   = 2
	requestOpen       = 3
	requestOperations = 4
	requestPing       = 5
	requestCancels    = 6
	requestNode       = 7
	requestLeaves     = 8
	requestColumns    = 9
)

// Operation is a StreamOperation; its request is still encoded.
type Operation struct {
	ID              uint64
	Method          uint32
	Request         []byte
	Number, Settled uint64
	TimeoutMS       uint32
	SettledOther    uint64
	Session         uint32 // its number, 0 for the stream's own
	Hops            uint32
}

// The fields of StreamOperation.
const (
	operationID      = 1
	operationMethod  = 2
	operationRequest = 3
	operationNumber  = 4
	operationSettled = 5
	operationTimeout = 6
	operationOther   = 7
	operationSession = 8
	operationHops    = 9
)

// AppendOperation appends an operation with the request message; o.Request is
// not looked at. It fails, and appends nothing, where the message does not
// encode.
func AppendOperation(b []byte, o *Operation, request proto.Message) ([]byte, error) {
	whole, start := begin(b, requestOperations)
	whole = appendUint(whole, operationID, o.ID)
	whole = appendUint(whole, operationMethod, uint64(o.Method))
	whole, err := appendMessage(whole, operationRequest, request)
	if err != nil {
		return b, err
	}
	return end(o.appendPlace(whole), start), nil
}

// appendPlace appends what follows the request.
func (o *Operation) appendPlace(b []byte) []byte {
	b = appendUint(b, operationNumber, o.Number)
	b = appendUint(b, operationSettled, o.Settled)
	b = appendUint(b, operationTimeout, uint64(o.TimeoutMS))
	b = appendUint(b, operationOther, o.SettledOther)
	b = appendUint(b, operationSession, uint64(o.Session))
	return appendUint(b, operationHops, uint64(o.Hops))
}

// AppendMethod gives a number to a method.
func AppendMethod(b []byte, ref uint32, procedure string) []byte {
	b, start := begin(b, requestMethods)
	b = appendUint(b, 1, uint64(ref))
	return end(appendBytes(b, 2, procedure), start)
}

// AppendSession names the stream's session at a shard, or closes one.
func AppendSession(b []byte, shard uint32, id string, closing bool) []byte {
	return appendSession(b, requestSessions, shard, id, closing)
}

func appendSession(b []byte, field protowire.Number, shard uint32, id string, closing bool) []byte {
	b, start := begin(b, field)
	b = appendUint(b, 1, uint64(shard))
	b = appendBytes(b, 2, id)
	if closing {
		b = appendUint(b, 3, 1)
	}
	return end(b, start)
}

// AppendOpen asks for a session at a shard.
func AppendOpen(b []byte, shard uint32) []byte {
	// Unpacked, so that calls follow one another: decoders take both forms.
	return protowire.AppendVarint(appendTag(b, requestOpen, protowire.VarintType), uint64(shard))
}

// AppendPing asks for a pong.
func AppendPing(b []byte, n uint64) []byte { return appendUint(b, requestPing, n) }

// AppendCancel gives up an operation that waits.
func AppendCancel(b []byte, id uint64) []byte {
	return protowire.AppendVarint(appendTag(b, requestCancels, protowire.VarintType), id)
}

// Requests takes the parts of a client's frame. An error ends the reading.
type Requests interface {
	Method(ref uint32, procedure string) error
	// Session names a session; ref is 0 for the stream's own at the shard.
	Session(shard, ref uint32, id []byte, closing bool) error
	Open(shard uint32) error
	// Operation may keep what o.Request points to, but not o.
	Operation(o *Operation) error
	// Column gets an encoded column, for ReadColumn, after all operations of
	// the frame. It may keep none of it.
	Column(encoded []byte) error
	Ping(n uint64) error
	// Cancel and Leave come after all operations of the frame.
	Cancel(id uint64) error
	Leave(id uint64) error
	// Node says that the other end is a node.
	Node(name string) error
}

// ReadRequest reads a client's frame. What does not decode is found before the
// first operation is handed out, but for the inside of an operation or a column.
func ReadRequest(b []byte, v Requests) error {
	operations, columns, cancels := 0, 0, 0
	c := cursor{rest: b}
	for c.next() {
		switch c.tag {
		case requestOperations<<3 | message:
			operations++
		case requestColumns<<3 | message:
			columns++
		case requestCancels<<3 | varint, requestCancels<<3 | message, requestLeaves<<3 | varint, requestLeaves<<3 | message:
			cancels++
		default:
			if err := readPart(&c, v); err != nil {
				return err
			}
		}
	}
	if c.err != nil {
		return c.err
	}
	if operations > 0 {
		if err := readOperations(b, v); err != nil {
			return err
		}
	}
	if columns > 0 {
		if err := readColumns(b, v); err != nil {
			return err
		}
	}
	if cancels > 0 {
		return readCancels(b, v)
	}
	return nil
}

//nolint:wrapcheck // what the visitor returns is its own
func readCancels(b []byte, v Requests) error {
	for c := (cursor{rest: b}); c.next(); {
		switch c.tag {
		case requestCancels<<3 | varint:
			if err := v.Cancel(c.number); err != nil {
				return err
			}
		case requestCancels<<3 | message: // packed
			if err := eachVarint(c.value, "a list of operations", v.Cancel); err != nil {
				return err
			}
		case requestLeaves<<3 | varint:
			if err := v.Leave(c.number); err != nil {
				return err
			}
		case requestLeaves<<3 | message:
			if err := eachVarint(c.value, "a list of operations", v.Leave); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachVarint hands out the numbers of a packed list.
func eachVarint(list []byte, what string, take func(uint64) error) error {
	for len(list) > 0 {
		number, n := protowire.ConsumeVarint(list)
		if n < 0 {
			return malformed(what, protowire.ParseError(n))
		}
		if err := take(number); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

func readColumns(b []byte, v Requests) error {
	for c := (cursor{rest: b}); c.next(); {
		if c.tag != requestColumns<<3|message {
			continue
		}
		if err := v.Column(c.value); err != nil {
			return err //nolint:wrapcheck // the visitor's own
		}
	}
	return nil
}

func readOperations(b []byte, v Requests) error {
	var o Operation
	for c := (cursor{rest: b}); c.next(); {
		if c.tag != requestOperations<<3|message {
			continue
		}
		if err := readOperation(c.value, &o); err != nil {
			return err
		}
		if err := v.Operation(&o); err != nil {
			return err //nolint:wrapcheck // the visitor's own
		}
	}
	return nil
}

//nolint:wrapcheck // what the visitor returns is its own
func readPart(c *cursor, v Requests) error {
	switch c.tag {
	case requestMethods<<3 | message:
		var m quernv1.StreamMethod
		if err := proto.Unmarshal(c.value, &m); err != nil {
			return malformed("a method", err)
		}
		return v.Method(m.GetRef(), m.GetProcedure())
	case requestSessions<<3 | message:
		var s quernv1.StreamSession
		if err := proto.Unmarshal(c.value, &s); err != nil {
			return malformed("a session", err)
		}
		return v.Session(s.GetShard(), s.GetRef(), s.GetId(), s.GetClose())
	case requestOpen<<3 | varint:
		return v.Open(uint32(c.number)) //nolint:gosec // as package proto decodes it
	case requestOpen<<3 | message: // packed
		return eachVarint(c.value, "a list of shards", func(shard uint64) error {
			return v.Open(uint32(shard)) //nolint:gosec // as package proto decodes it
		})
	case requestPing<<3 | varint:
		return v.Ping(c.number)
	case requestNode<<3 | message:
		return v.Node(string(c.value))
	}
	return nil
}

// readUsual reads an operation as far as it looks like what AppendOperation
// writes, and returns the rest. A field that stands there again takes the place of
// the first.
func (o *Operation) readUsual(b []byte) []byte {
	var n int
	if o.ID, n = usualUint(b, operationID); n == 0 {
		return b
	}
	b = b[n:]
	method, n := usualUint(b, operationMethod)
	if n == 0 {
		return b
	}
	o.Method = uint32(method) //nolint:gosec // as package proto decodes it
	b = b[n:]
	if len(b) < 2 || b[0] != operationRequest<<3|byte(message) || b[1] >= 1<<7 || len(b) < 2+int(b[1]) {
		return b
	}
	end := 2 + int(b[1])
	o.Request, b = b[2:end], b[end:]
	if o.Number, n = usualUint(b, operationNumber); n == 0 {
		return b
	}
	b = b[n:]
	if o.Settled, n = usualUint(b, operationSettled); n == 0 {
		return b
	}
	return b[n:]
}

// usualUint reads a field of up to three bytes beyond its tag; n is 0 for any
// other one.
func usualUint(b []byte, field byte) (v uint64, n int) {
	switch {
	case len(b) < 2 || b[0] != field<<3:
		return 0, 0
	case b[1] < 1<<7:
		return uint64(b[1]), 2
	case len(b) >= 3 && b[2] < 1<<7:
		return uint64(b[1]&0x7f) | uint64(b[2])<<7, 3
	case len(b) >= 4 && b[3] < 1<<7:
		return uint64(b[1]&0x7f) | uint64(b[2]&0x7f)<<7 | uint64(b[3])<<14, 4
	}
	return 0, 0
}

func readOperation(b []byte, o *Operation) error {
	*o = Operation{}
	c := cursor{rest: o.readUsual(b)}
	for c.next() {
		switch c.tag {
		case operationID<<3 | varint:
			o.ID = c.number
		case operationMethod<<3 | varint:
			o.Method = uint32(c.number) //nolint:gosec // as package proto decodes it
		case operationRequest<<3 | message:
			o.Request = c.value
		case operationNumber<<3 | varint:
			o.Number = c.number
		case operationSettled<<3 | varint:
			o.Settled = c.number
		case operationTimeout<<3 | varint:
			o.TimeoutMS = uint32(c.number) //nolint:gosec // as package proto decodes it
		case operationOther<<3 | varint:
			o.SettledOther = c.number
		case operationSession<<3 | varint:
			o.Session = uint32(c.number) //nolint:gosec // as package proto decodes it
		case operationHops<<3 | varint:
			o.Hops = uint32(c.number) //nolint:gosec // as package proto decodes it
		}
	}
	return c.err
}
