package actors

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/fastproto"
)

// Column is one operation on many grains of a kind and a shard, each by itself:
// what is refused of one item changes nothing for the others. They have their
// turns one after the other, and are answered together. The shard calls a Column
// from one goroutine at a time, until its end was told to its completer.
type Column interface {
	// Len is how many items there are. It does not change.
	Len() int
	// Key returns the key of item i, which keyspace.Check must take.
	Key(i int) string
	// Command returns the command of item i, and makes Reply ready for its
	// reply. It is used until the next one is asked for.
	Command(i int) proto.Message
	// Reply is where the handler puts the reply to the last command.
	Reply() proto.Message
	// Answered says that Reply has the reply to item i, or why there is
	// none. It may take an answer back: the last one for an item counts.
	Answered(i int, err error)
	// AppendResult appends what all items were answered to b, for Replay.
	AppendResult(b []byte) ([]byte, error)
	// Replay takes all answers from a result of the same items. It keeps no
	// reference to it.
	Replay(result []byte) error
}

// SubmitColumn is Submit for a column, on grains of one shard; the column has
// the operation's keys and messages. In a session the
// column is one number. What done gets tells of the column as a whole: after an
// error that says "not done", nothing was done of any item.
func (r *Runtime) SubmitColumn(shard uint32, op *Operation, column Column, deadline time.Time, done Completer) {
	c, err := r.newColumn(op, column, deadline)
	if err != nil {
		done.Completed(0, err)
		return
	}
	r.shards[shard].submit(c, done)
}

func (r *Runtime) newColumn(op *Operation, column Column, deadline time.Time) (*call, error) {
	of := *op
	of.Key, of.Command, of.Reply = "", column.Reply(), column.Reply() // the items bring their own
	c, err := r.fillCall(&of)
	if err != nil {
		return nil, err
	}
	c.plain, c.column = false, column
	if !deadline.IsZero() {
		c.deadline = deadline.UnixNano()
	}
	return c, nil
}

// admitColumn runs a column's turn, once all its grains are resident.
func (s *shard) admitColumn(c *call) {
	if a, ok := c.column.(*adds); ok {
		s.admitAdds(c, a)
		return
	}
	for i := range c.column.Len() {
		if s.crowds(c.kindIndex, c.column.Key(i)) {
			s.refuseCrowding(c)
			return
		}
	}
	s.items = s.items[:0]
	var last *grain
	for i := range c.column.Len() {
		if c.broken[c.column.Key(i)] != nil {
			s.items = append(s.items, nil)
			continue
		}
		g := s.find(c.kindIndex, c.column.Key(i))
		if s.lacks(g, false, c.guard != nil) {
			last = g // what is wanted last is read last
		}
		s.items = append(s.items, g)
	}
	if last == nil {
		s.columnTurn(c)
	} else {
		s.parkColumn(c, last)
	}
	clear(s.items)
}

// parkColumn lets a column wait for a grain. The others stay resident meanwhile:
// with little memory they would else drive out each other.
func (s *shard) parkColumn(c *call, on *grain) {
	for _, g := range s.items {
		if g != nil {
			g.extras().released++
			c.pins = append(c.pins, g)
		}
	}
	s.wait(&on.extras().parked, c)
}

// unpin lets go of the grains that a column has held.
func (c *call) unpin() {
	for i, g := range c.pins {
		g.extra.released--
		g.tidy()
		c.pins[i] = nil
	}
	c.pins = c.pins[:0]
}

// columnTurn runs the handler on each item.
func (s *shard) columnTurn(c *call) {
	c.epoch, c.wrote = s.epoch.Load(), true
	flags := grainFlags(0)
	for i, g := range s.items {
		if g == nil {
			c.column.Answered(i, c.broken[c.column.Key(i)])
			continue
		}
		err := s.expire(g, c)
		if err == nil {
			err = s.itemTurn(g, c, i)
		}
		flags |= g.flags
		c.column.Answered(i, err)
	}
	s.counts.turns.Add(uint64(len(s.items)))
	if c.client != nil {
		if err := s.keepColumn(c); err != nil {
			s.failColumn(c, err)
			return
		}
		flags |= c.client.flags
	}
	s.answer(nil, flags, c, nil)
}

func (s *shard) itemTurn(g *grain, c *call, i int) error {
	before := g.size()
	changed, err := s.guarded(g, c, c.column.Command(i))
	if c.guard != nil && err == nil {
		changed = s.noteGuard(g, c.guard) || changed
	}
	if changed {
		s.markChanged(g, before)
	}
	s.wakeUp(g)
	return err
}

// keepColumn keeps the column's result in its session.
func (s *shard) keepColumn(c *call) error {
	result, err := c.column.AppendResult(s.scratch[:0])
	if err != nil {
		return failure.Wrap(err, failure.OutcomeUnknown, "the result does not encode")
	}
	s.scratch = result
	s.keepEncoded(c, result)
	return nil
}

// keepEncoded keeps an encoded result in the call's session, of which it takes a
// copy.
func (s *shard) keepEncoded(c *call, result []byte) {
	ses := c.client.session()
	weight, bytes := c.client.weight(), ses.bytes()
	ses.lane(&c.session).keepReply(c.session.Number, result)
	s.resultKept(c, weight, bytes)
}

// failColumn ends a column that was done in part and can neither be undone nor
// be kept in its session: what is not durable is forgotten. It is a defect.
func (s *shard) failColumn(c *call, err error) {
	c.complete(err)
	s.reload(err)
}

// takeBack tells a column that what was done to a grain is undone.
func (s *shard) takeBack(g *grain, c *call, err error) {
	for i := range c.column.Len() {
		if c.column.Key(i) == g.key {
			c.column.Answered(i, err)
		}
	}
	if ses := c.client; c.numbered && ses.session().open() && c.session.Number > ses.session().lane(&c.session).done {
		s.forgetResult(c)
		if broken := s.keepColumn(c); broken != nil {
			c.err = broken
		}
	}
}

// columnOn reports whether a call is a column that ran on a grain.
func (s *shard) columnOn(g *grain, c *call) bool {
	if c.column == nil || c.grain != nil || &s.kinds[c.kindIndex] != g.kind {
		return false
	}
	for i := range c.column.Len() {
		if c.column.Key(i) == g.key {
			return true
		}
	}
	return false
}

// replay fills in the first answer.
func (r *result) replay(c *call) error {
	reply, refusal := r.answer()
	if refusal != nil {
		return refusal
	}
	var err error
	if c.column != nil {
		err = c.column.Replay(reply)
	} else {
		err = fastproto.Unmarshal(reply, c.reply, nil)
	}
	if err != nil {
		return failure.Wrap(err, failure.Internal, "the kept result does not decode")
	}
	return nil
}
