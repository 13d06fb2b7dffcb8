package client

import (
	"fmt"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
)

// Columns on a stream. Each part of a bulk operation is a call of its own, with
// its number, its fate and its attempts; a column is nothing but the way in which
// those of one caller travel together.

// columns are those of one link. They belong to the engine's lock.
type columns struct {
	// open gathers the parts that are put one after the other, in writer.
	open   *column
	writer frame.ColumnWriter
	// extra is how many calls the columns under way are beyond one each.
	extra int
	free  []*column

	// Of the answer under way.
	reply frame.ColumnReply
	errs  []*failure.Error // by part
}

// column is the calls of a column, in the order of its parts. Its head stands for
// them among the link's calls.
type column struct {
	head  call
	calls []*call
	batch *batch
	bytes int // about what it takes
}

// columnHead is what a column takes beside its parts, at most.
const columnHead = 128

// keptColumns bounds the columns that a link keeps for another use.
const keptColumns = 16

// putPart adds a part to the column that gathers.
func (l *link) putPart(c *call) *failure.Error {
	limit, size := int(l.hello.GetMaxFrameBytes())-columnHead, c.part.size()
	if size > limit {
		return failure.New(failure.Limit, "the part of shard %d takes %d bytes, the node takes %d", c.shard, size, limit)
	}
	l.name(c.session)
	o := l.columns.open
	if o != nil && (o.batch != c.batch || len(o.calls) == frame.MaxColumnParts || o.bytes+size > limit) {
		l.endColumn()
		o = nil
	}
	if o == nil {
		o = l.beginColumn(c.batch)
	}
	if len(o.calls) > 0 {
		l.columns.extra++
	}
	o.calls = append(o.calls, c)
	o.bytes += size
	c.id, c.link = o.head.id, l
	settled, other := c.session.settledFor(c)
	l.columns.writer.Part(&frame.ColumnPart{
		Shard: c.shard, Count: uint32(c.part.len()), Number: c.number, Settled: settled, SettledOther: other, //nolint:gosec // not negative
	})
	c.part.write(&l.columns.writer)
	return nil
}

func (l *link) beginColumn(b *batch) *column {
	var o *column
	if n := len(l.columns.free); n > 0 {
		o, l.columns.free = l.columns.free[n-1], l.columns.free[:n-1]
	} else {
		o = new(column)
		o.head.column = o
	}
	o.batch, o.bytes = b, 0
	l.columns.open = o
	l.take(&o.head)
	return o
}

// endColumn puts the column that gathers into the next frame.
func (l *link) endColumn() {
	o := l.columns.open
	if o == nil {
		return
	}
	l.columns.open = nil
	timeout := uint32(0)
	if d := o.batch.deadline; !d.IsZero() {
		timeout = uint32(min(max(time.Until(d).Milliseconds(), 1), 1<<31))
	}
	method := l.ref(handles.CounterAddMany)
	before := l.out.len()
	start := len(l.out.operations)
	l.out.operations = l.columns.writer.Append(l.out.operations, o.head.id, method, timeout)
	if before > 0 && l.out.len() > int(l.hello.GetMaxFrameBytes()) {
		last := append([]byte(nil), l.out.operations[start:]...)
		l.out.operations = l.out.operations[:start]
		l.seal()
		l.out.operations = append(l.out.operations, last...)
	}
}

// Column implements frame.Responses.
func (l *link) Column(encoded []byte) error {
	r := &l.columns.reply
	if err := frame.ReadColumnReply(encoded, r); err != nil {
		return err //nolint:wrapcheck // explained by its caller
	}
	if r.ID == 0 || r.ID > uint64(len(l.calls)) || l.calls[r.ID-1] == nil || l.calls[r.ID-1].column == nil {
		return fmt.Errorf("an answer to a column that is not under way: %d", r.ID)
	}
	o := l.calls[r.ID-1].column
	if len(o.calls) != len(r.Replies) || o == l.columns.open {
		return fmt.Errorf("an answer of %d parts to a column of %d", len(r.Replies), len(o.calls))
	}
	l.columns.extra -= len(o.calls) - 1
	l.release(&o.head)
	errs := append(l.columns.errs[:0], make([]*failure.Error, len(o.calls))...)
	l.columns.errs = errs
	for _, e := range r.Errors {
		errs[e.Part] = e.Err
	}
	for i, c := range o.calls {
		c.link = nil
		l.reply = r.Replies[i]
		l.engine.answered(c, l, errs[i])
	}
	clear(r.Replies) // which point into the frame
	clear(o.calls)
	o.calls, o.batch = o.calls[:0], nil
	if len(l.columns.free) < keptColumns {
		l.columns.free = append(l.columns.free, o)
	}
	return nil
}

// each calls do for the calls on the stream, those of columns one by one.
func (l *link) each(do func(*call)) {
	for _, c := range l.calls {
		switch {
		case c == nil:
		case c.column == nil:
			do(c)
		default:
			for _, part := range c.column.calls {
				do(part)
			}
		}
	}
}
