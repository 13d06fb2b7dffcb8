package frame

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// The fields of StreamColumn.
const (
	columnID      = 1
	columnMethod  = 2
	columnShards  = 3
	columnCounts  = 4
	columnNumbers = 5
	columnSettled = 6
	columnOther   = 7
	columnKeys    = 8
	columnDeltas  = 9
	columnTimeout = 10
)

// MaxColumnParts and MaxColumnKeys bound a column.
const (
	MaxColumnParts = 1024
	MaxColumnKeys  = 10_000
)

// ColumnPart is what a column does at one shard.
type ColumnPart struct {
	Shard, Count                  uint32
	Number, Settled, SettledOther uint64
}

// Column is a StreamColumn. Key i, of all parts, lies in Text at Spans[i].
type Column struct {
	ID        uint64
	Method    uint32
	TimeoutMS uint32
	Parts     []ColumnPart
	Text      []byte
	Spans     []keyspace.Span
	Deltas    []int64 // nil adds 1 to each
}

// errColumn is a column whose lists do not fit each other.
var errColumn = errors.New("a column's lists do not fit each other, or its bounds")

// ReadColumn replaces a column by the one that b encodes. It uses the column's
// lists again, and keeps no reference to b. What the keys are made of is not
// looked at.
func ReadColumn(b []byte, into *Column) error {
	*into = Column{Parts: into.Parts[:0], Text: append(into.Text[:0], b...), Spans: into.Spans[:0], Deltas: into.Deltas[:0]}
	r := columnReader{Column: into}
	c := cursor{rest: into.Text}
	for c.next() {
		switch c.tag {
		case columnKeys<<3 | message:
			if len(into.Spans) == MaxColumnKeys {
				return malformed("a column", errColumn)
			}
			to := len(into.Text) - len(c.rest)
			into.Spans = append(into.Spans, keyspace.Span{From: uint32(to - len(c.value)), To: uint32(to)}) //nolint:gosec // within a frame
		case columnID<<3 | varint:
			into.ID = c.number
		case columnMethod<<3 | varint:
			into.Method = uint32(c.number) //nolint:gosec // as package proto decodes it
		case columnTimeout<<3 | varint:
			into.TimeoutMS = uint32(c.number) //nolint:gosec // as package proto decodes it
		default:
			if err := r.list(&c); err != nil {
				return err
			}
		}
	}
	if c.err != nil {
		return c.err
	}
	return r.check()
}

// columnReader counts how much of each list has come.
type columnReader struct {
	*Column

	n [columnOther + 1]int // by field
}

// list takes the lists of numbers, packed or not.
func (r *columnReader) list(c *cursor) error {
	field := c.tag >> 3
	switch {
	case field < columnShards || field > columnDeltas:
		return nil
	case c.tag&7 == varint:
		return r.number(field, c.number)
	case c.tag&7 != message:
		return nil
	}
	list := c.value
	for len(list) > 0 {
		v, n := uint64(list[0]), 1
		if v >= 1<<7 {
			if v, n = protowire.ConsumeVarint(list); n < 0 {
				return malformed("a column", protowire.ParseError(n))
			}
		}
		if err := r.number(field, v); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

func (r *columnReader) number(field, v uint64) error {
	if field == columnDeltas {
		if len(r.Deltas) == MaxColumnKeys {
			return malformed("a column", errColumn)
		}
		r.Deltas = append(r.Deltas, protowire.DecodeZigZag(v))
		return nil
	}
	if field > columnOther {
		return nil
	}
	at := r.n[field]
	if at == MaxColumnParts {
		return malformed("a column", errColumn)
	}
	r.n[field]++
	if at == len(r.Parts) {
		r.Parts = append(r.Parts, ColumnPart{})
	}
	p := &r.Parts[at]
	switch field {
	case columnShards:
		p.Shard = uint32(v) //nolint:gosec // as package proto decodes it
	case columnCounts:
		p.Count = uint32(v) //nolint:gosec // as package proto decodes it
	case columnNumbers:
		p.Number = v
	case columnSettled:
		p.Settled = v
	case columnOther:
		p.SettledOther = v
	}
	return nil
}

// check looks whether the lists fit each other.
func (r *columnReader) check() error {
	parts, keys := len(r.Parts), 0
	for i := range r.Parts {
		if r.Parts[i].Count == 0 || r.Parts[i].Count > MaxColumnKeys {
			return malformed("a column", errColumn)
		}
		keys += int(r.Parts[i].Count)
	}
	fits := r.ID != 0 && parts > 0 && keys == len(r.Spans) && (len(r.Deltas) == 0 || len(r.Deltas) == keys)
	for field := columnShards; field <= columnOther; field++ {
		n := r.n[field]
		fits = fits && (n == parts || n == 0 && field >= columnNumbers)
	}
	if !fits {
		return malformed("a column", errColumn)
	}
	if len(r.Deltas) == 0 {
		r.Deltas = nil
	}
	return nil
}

// ColumnWriter gathers the parts of a column. Its zero value is ready.
type ColumnWriter struct {
	shards, counts, numbers, settled, other, keys, deltas []byte

	waits bool // other has something but zeros
}

// Part adds a part, whose keys come next.
func (w *ColumnWriter) Part(p *ColumnPart) {
	w.shards = protowire.AppendVarint(w.shards, uint64(p.Shard))
	w.counts = protowire.AppendVarint(w.counts, uint64(p.Count))
	w.numbers = protowire.AppendVarint(w.numbers, p.Number)
	w.settled = protowire.AppendVarint(w.settled, p.Settled)
	w.other = protowire.AppendVarint(w.other, p.SettledOther)
	w.waits = w.waits || p.SettledOther != 0
}

// Key adds a key, which must be UTF-8.
func (w *ColumnWriter) Key(key string) {
	if n := len(key); n < 1<<7 {
		w.keys = append(append(w.keys, columnKeys<<3|byte(message), byte(n)), key...)
		return
	}
	w.keys = appendBytes(w.keys, columnKeys, key)
}

// Delta adds a delta. There are as many as keys, or none.
func (w *ColumnWriter) Delta(delta int64) {
	w.deltas = protowire.AppendVarint(w.deltas, protowire.EncodeZigZag(delta))
}

// Len is about what the column takes.
func (w *ColumnWriter) Len() int {
	return 5*len(w.numbers) + len(w.keys) + len(w.deltas)
}

// Append appends what was gathered as a column, and forgets it.
func (w *ColumnWriter) Append(b []byte, id uint64, method, timeoutMS uint32) []byte {
	if !w.waits {
		w.other = w.other[:0]
	}
	lists := [...]struct {
		field protowire.Number
		list  *[]byte
	}{
		{columnShards, &w.shards},
		{columnCounts, &w.counts},
		{columnNumbers, &w.numbers},
		{columnSettled, &w.settled},
		{columnOther, &w.other},
		{columnDeltas, &w.deltas},
	}
	size := 64 + len(w.keys)
	for _, l := range lists {
		size += len(*l.list)
	}
	b, start := begin(slices.Grow(b, size), requestColumns)
	b = appendUint(b, columnID, id)
	b = appendUint(b, columnMethod, uint64(method))
	b = appendUint(b, columnTimeout, uint64(timeoutMS))
	for _, l := range lists {
		b = appendBytes(b, l.field, *l.list)
		*l.list = emptied(*l.list)
	}
	b = append(b, w.keys...)
	w.keys, w.waits = emptied(w.keys), false
	return end(b, start)
}

// keptList is the largest list that is kept for another column.
const keptList = 256 << 10

func emptied(list []byte) []byte {
	if cap(list) > keptList {
		return nil
	}
	return list[:0]
}

// The fields of StreamColumnReply and StreamPartError.
const (
	columnReplyID      = 1
	columnReplyReplies = 2
	columnReplyErrors  = 3

	partErrorPart  = 1
	partErrorError = 2
)

// AppendColumnReply appends the answer to a column of n parts. of returns a
// part's encoded reply, or why there is none.
func AppendColumnReply(b []byte, id uint64, n int, of func(part int) ([]byte, *failure.Error)) []byte {
	b, start := begin(b, responseColumns)
	b = appendUint(b, columnReplyID, id)
	failed := 0
	for i := range n {
		reply, e := of(i)
		if e != nil {
			failed++
			reply = nil
		}
		b = protowire.AppendVarint(appendTag(b, columnReplyReplies, protowire.BytesType), uint64(len(reply)))
		b = append(b, reply...)
	}
	for i := 0; i < n && failed > 0; i++ {
		if _, e := of(i); e != nil {
			failed--
			whole, inner := begin(b, columnReplyErrors)
			whole = appendUint(whole, partErrorPart, uint64(i))
			b = end(appendError(whole, partErrorError, e), inner)
		}
	}
	return end(b, start)
}

// ColumnReply is a StreamColumnReply. Part i has Replies[i], unless one of
// Errors tells of it.
type ColumnReply struct {
	ID      uint64
	Replies [][]byte
	Errors  []PartError
}

// PartError is why a part failed.
type PartError struct {
	Part int
	Err  *failure.Error
}

// ReadColumnReply replaces a reply by the one that b encodes, to which it
// points. It uses the reply's lists again.
func ReadColumnReply(b []byte, into *ColumnReply) error {
	*into = ColumnReply{Replies: into.Replies[:0], Errors: into.Errors[:0]}
	c := cursor{rest: b}
	for c.next() {
		switch c.tag {
		case columnReplyID<<3 | varint:
			into.ID = c.number
		case columnReplyReplies<<3 | message:
			if len(into.Replies) == MaxColumnParts {
				return malformed("the answer to a column", errColumn)
			}
			into.Replies = append(into.Replies, c.value)
		case columnReplyErrors<<3 | message:
			e, err := readPartError(c.value)
			if err != nil {
				return err
			}
			into.Errors = append(into.Errors, e)
		}
	}
	if c.err != nil {
		return c.err
	}
	for _, e := range into.Errors {
		if e.Part >= len(into.Replies) {
			return malformed("the answer to a column", fmt.Errorf("there is no part %d", e.Part))
		}
	}
	return nil
}

func readPartError(b []byte) (PartError, error) {
	e := PartError{}
	m := new(quernv1.StreamError)
	c := cursor{rest: b}
	for c.next() {
		switch c.tag {
		case partErrorPart<<3 | varint:
			e.Part = int(uint32(c.number)) //nolint:gosec // as package proto decodes it
		case partErrorError<<3 | message:
			if err := proto.Unmarshal(c.value, m); err != nil {
				return e, malformed("an error", err)
			}
		}
	}
	e.Err = failureOf(m)
	return e, c.err
}
