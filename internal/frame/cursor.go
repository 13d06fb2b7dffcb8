package frame

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// The wire types of the fields that frames have. A known field of another type
// is skipped like an unknown one.
const (
	varint  = uint64(protowire.VarintType)
	message = uint64(protowire.BytesType) // strings and packed lists too
)

// cursor walks over the fields of an encoded message.
type cursor struct {
	rest []byte
	// Of the field that next has found: its number and wire type as on the
	// wire, and what it holds.
	tag    uint64
	number uint64
	value  []byte
	err    error // where next stopped before the end
}

// next finds the next field; false at the end and where the rest does not
// decode.
func (c *cursor) next() bool {
	b := c.rest
	if len(b) == 0 {
		return false
	}
	// Most have a tag and a number, or a length, of one byte each.
	if len(b) >= 2 && b[0] >= 1<<3 && b[0] < 1<<7 && b[1] < 1<<7 {
		switch uint64(b[0] & 7) {
		case varint:
			c.tag, c.number, c.rest = uint64(b[0]), uint64(b[1]), b[2:]
			return true
		case message:
			if end := 2 + int(b[1]); end <= len(b) {
				c.tag, c.value, c.rest = uint64(b[0]), b[2:end], b[end:]
				return true
			}
		}
	}
	return c.any()
}

// any is next for every form that a field can have.
func (c *cursor) any() bool {
	var n int
	if c.rest[0] < 1<<7 {
		c.tag, n = uint64(c.rest[0]), 1
	} else {
		c.tag, n = protowire.ConsumeVarint(c.rest)
	}
	field, typ := protowire.DecodeTag(c.tag)
	if n < 0 || field < protowire.MinValidNumber {
		return c.fail(n)
	}
	c.rest = c.rest[n:]
	switch typ {
	case protowire.VarintType:
		c.number, n = protowire.ConsumeVarint(c.rest)
	case protowire.BytesType:
		c.value, n = protowire.ConsumeBytes(c.rest)
	default:
		n = protowire.ConsumeFieldValue(field, typ, c.rest)
	}
	if n < 0 {
		return c.fail(n)
	}
	c.rest = c.rest[n:]
	return true
}

func (c *cursor) fail(n int) bool {
	if n >= 0 {
		c.err = malformed("a tag", fmt.Errorf("field number %d", c.tag>>3))
	} else {
		c.err = malformed("the frame", protowire.ParseError(n))
	}
	return false
}

func malformed(what string, err error) error { return fmt.Errorf("%s does not decode: %w", what, err) }
