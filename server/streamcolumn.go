package server

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
)

// streamColumn is a column of a stream. Its parts go to their shards one by one;
// who ends the last of them answers.
type streamColumn struct {
	frame.Column

	stream  *stream
	metrics *methodMetrics
	entered bool // it is counted at the gate
	bytes   int
	parts   []columnPart
	results []byte // where the parts have room for their results
	// left are the parts that have no end, and one for who submits them.
	left atomic.Int32
}

// columnPart implements handles.Completer.
type columnPart struct {
	handles.Adds

	of  *streamColumn
	err *failure.Error
}

// resultBytes bounds the result of a part without failures: what it takes for
// itself and for each value.
const (
	resultHead  = 8
	resultValue = 10
)

// Bounds of what a column keeps for the next one.
const (
	keptColumnText  = 128 << 10
	keptColumnParts = frame.MaxColumnParts
)

// Column implements frame.Requests: it begins the parts of a column.
func (s *stream) Column(encoded []byte) error {
	c, ok := s.grains.columns.Get().(*streamColumn)
	if !ok {
		c = new(streamColumn)
	}
	if err := frame.ReadColumn(encoded, &c.Column); err != nil {
		return err //nolint:wrapcheck // explained by its caller
	}
	c.stream, c.bytes = s, len(encoded)
	if refused := s.beginColumn(len(c.Parts), c.bytes); refused != nil {
		return refused
	}
	c.lay(s.enterColumn(c))
	c.left.Store(int32(len(c.parts)) + 1) //nolint:gosec // at most MaxColumnParts
	s.admitted = nil
	begun := 0
	defer func() {
		for ; begun < len(c.parts); begun++ { // the goroutine was ended
			c.parts[begun].Completed(0, errCutOff)
		}
		c.arrive()
	}()
	for begun < len(c.parts) {
		p := &c.parts[begun]
		begun++
		if p.err != nil {
			c.left.Add(-1)
			continue
		}
		s.grains.adds.SubmitAdds(&p.Adds)
		s.yield(1)
	}
	return nil
}

// errCutOff is the end of what was not begun since the reader panics.
var errCutOff = failure.New(failure.Internal, "internal error; the operation was cut off before it was begun")

// enterColumn lets a column through the gate, as one call, or says what all of
// its parts are answered.
func (s *stream) enterColumn(c *streamColumn) *failure.Error {
	var home *streamMethod
	if c.Method < uint32(len(s.methods)) { //nolint:gosec // at most streamMethods
		home = s.methods[c.Method]
	}
	c.metrics, c.entered = nil, false
	switch {
	case home == nil:
		return failure.New(failure.UnknownMethod, "this node has no method under the number %d of this stream", c.Method)
	case home.method != handles.CounterAddMany || s.grains.adds == nil:
		return failure.New(failure.UnknownMethod, "the method %s takes no columns", home.method.Procedure)
	}
	c.metrics = home.metrics
	refused := s.enterGate(false)
	if c.entered = refused == nil; c.entered {
		s.admitted = home
	}
	return refused
}

// lay makes the parts ready to be submitted, or answered with what refuses them.
func (c *streamColumn) lay(refused *failure.Error) {
	s := c.stream
	c.parts = slices.Grow(c.parts[:0], len(c.Parts))[:len(c.Parts)]
	size := resultHead*len(c.Parts) + resultValue*len(c.Spans)
	c.results = slices.Grow(c.results[:0], size)[:size]
	deadline := time.Time{}
	if c.TimeoutMS != 0 {
		deadline = s.now.Add(time.Duration(c.TimeoutMS) * time.Millisecond)
	}
	key, room := 0, c.results
	for i := range c.Parts {
		in, p := &c.Parts[i], &c.parts[i]
		next := key + int(in.Count)
		p.of, p.err, p.Done = c, refused, p
		p.Origin = handles.Origin{Shard: in.Shard}
		p.Deadline, p.Text, p.Spans, p.Deltas = deadline, c.Text, c.Spans[key:next], nil
		if c.Deltas != nil {
			p.Deltas = c.Deltas[key:next]
		}
		take := resultHead + resultValue*int(in.Count)
		p.Result, room = room[:0:take], room[take:]
		p.number(in)
		key = next
	}
}

// number puts a part into its session.
func (p *columnPart) number(in *frame.ColumnPart) {
	s := p.of.stream
	p.Session, p.Memo = handles.Session{}, nil
	switch {
	case in.Shard >= s.grains.backend.Shards():
		p.err = failure.New(failure.InvalidField, "there is no shard %d", in.Shard)
		return
	}
	session := s.side(in.Shard).session
	if in.Number == 0 {
		return
	}
	if session == nil {
		if p.err == nil {
			p.err = failure.New(failure.SessionExpired, "the stream has named no session at shard %d", in.Shard)
		}
		return
	}
	p.Session = handles.Session{ID: session.id, Number: in.Number, Settled: in.Settled, SettledOther: in.SettledOther}
	p.Memo = &session.memo
}

// Completed implements handles.Completer.
func (p *columnPart) Completed(epoch uint64, err error) {
	p.Origin.Epoch = epoch
	if err != nil {
		p.err = p.of.stream.grains.failure(p.of.stream.frames.Context(), err)
	}
	p.of.arrive()
}

// arrive counts a part that came to its end; the last one answers the column.
func (c *streamColumn) arrive() {
	if c.left.Add(-1) == 0 {
		c.answer()
	}
}

// answer puts the reply into the stream's buffers.
func (c *streamColumn) answer() {
	s := c.stream
	fine := c.metrics
	for i := range c.parts {
		if e := c.parts[i].err; e != nil && fine != nil {
			fine.fail(e.Reason)
			fine = nil
		}
	}
	s.mu.Lock()
	if c.entered {
		s.left(fine, false)
	}
	for i := range c.parts {
		// A part may have ended long before the last one. One that had no turn
		// may be of no shard.
		if o := &c.parts[i].Origin; o.Epoch != 0 && o.Epoch >= s.sides.at(o.Shard).told {
			s.origin(o)
		}
	}
	s.seal()
	s.out.replies = frame.AppendColumnReply(s.out.replies, c.ID, len(c.parts), func(i int) ([]byte, *failure.Error) {
		return c.parts[i].Result, c.parts[i].err
	})
	parts, bytes := len(c.parts), c.bytes
	c.recycle()
	s.answeredColumn(parts, bytes)
}

// recycle gives the column back. Its lists are used again.
func (c *streamColumn) recycle() {
	pool := &c.stream.grains.columns
	if cap(c.Text) > keptColumnText || cap(c.parts) > keptColumnParts {
		return
	}
	for i := range c.parts {
		p := &c.parts[i]
		p.of, p.err, p.Memo, p.Session.ID = nil, nil, nil, ""
	}
	c.stream, c.metrics = nil, nil
	pool.Put(c)
}

// beginColumn is begin for the parts of a column.
func (s *stream) beginColumn(parts, bytes int) error {
	s.mu.Lock()
	s.giveBack()
	over := s.pending+parts > s.window()
	s.mu.Unlock()
	if over {
		return errOverWindow
	}
	if !s.admit() {
		return errEnded
	}
	s.mu.Lock()
	s.pending += parts
	s.bytes += bytes
	s.mu.Unlock()
	return nil
}

// answeredColumn is answered for the parts of a column.
func (s *stream) answeredColumn(parts, bytes int) {
	s.pending -= parts - 1
	s.unsent += parts - 1
	s.answered(bytes)
}
