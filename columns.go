package quern

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/fastproto"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// bulk is a bulk add on its way: its keys by their shards, and a column for
// each of those.
type bulk struct {
	in *quernv1.CounterServiceAddManyRequest
	// order holds the indexes of the keys, those of a shard together and as
	// they came; values the new values, in that order.
	order  []int32
	values []int64
	shards []uint32 // of each key
	starts []int32  // by shard, where its part of order begins
	// refused are the keys that no shard should see.
	refused []*quernv1.AddManyFailure
	columns []addColumn

	// For those that were submitted: who takes the end, and how many columns
	// there are without one, and one for who submits them.
	node *Node
	op   *handles.Operation
	done handles.Completer
	left atomic.Int32
}

// addColumn is what a bulk add has to do at one shard. It implements
// actors.Column and, where it was submitted, actors.Completer.
type addColumn struct {
	all      *bulk
	shard    uint32
	from, to int32 // in order
	request  quernv1.CounterServiceAddRequest
	reply    quernv1.CounterServiceAddResponse
	result   quernv1.CounterServiceAddManyResponse
	delta    int64 // what the request points to
	failures []*quernv1.AddManyFailure

	epoch uint64
	err   error
}

// noShard marks a key that is refused.
const noShard = ^uint32(0)

// newBulk sorts the keys of a request by their shards.
func (n *Node) newBulk(in *quernv1.CounterServiceAddManyRequest) *bulk {
	b, ok := n.bulks.Get().(*bulk)
	if !ok {
		b = &bulk{starts: make([]int32, n.info.Shards+1)}
	}
	b.in = in
	keys := in.GetKeys()
	b.shards = slices.Grow(b.shards[:0], len(keys))[:len(keys)]
	b.order = slices.Grow(b.order[:0], len(keys))[:len(keys)]
	b.values = slices.Grow(b.values[:0], len(keys))[:len(keys)]
	if b.single(n.info.Shards) {
		return b
	}
	clear(b.starts)
	for i, key := range keys {
		if err := keyspace.Check(key); err != nil {
			b.refused = append(b.refused, handles.AddFailure(i, err))
			b.shards[i] = noShard
			continue
		}
		b.shards[i] = keyspace.Shard(key, n.info.Shards)
		b.starts[b.shards[i]+1]++
	}
	b.group()
	return b
}

// single makes the one column of a request whose keys are good and of one shard,
// as a client's are that numbers them. It returns false for any other.
func (b *bulk) single(shards uint32) bool {
	keys := b.in.GetKeys()
	if len(keys) == 0 {
		return false
	}
	shard := keyspace.Shard(keys[0], shards)
	for i, key := range keys {
		if keyspace.Check(key) != nil || keyspace.Shard(key, shards) != shard {
			return false
		}
		b.shards[i], b.order[i] = shard, int32(i)
	}
	b.columns = slices.Grow(b.columns[:0], 1)[:1]
	b.columns[0].begin(b, shard, 0, int32(len(keys))) //nolint:gosec // at most MaxManyKeys
	return true
}

func (c *addColumn) begin(b *bulk, shard uint32, from, to int32) {
	c.all, c.shard, c.from, c.to = b, shard, from, to
	c.request.Delta = &c.delta
}

// group makes the columns, by counting. starts holds how many keys each shard
// has, one place up.
func (b *bulk) group() {
	columns := 0
	for shard, n := range b.starts[1:] {
		if n > 0 {
			columns++
		}
		b.starts[shard+1] += b.starts[shard]
	}
	b.columns = slices.Grow(b.columns[:0], columns)[:columns]
	columns = 0
	for shard, from := range b.starts[:len(b.starts)-1] {
		if to := b.starts[shard+1]; to > from {
			b.columns[columns].begin(b, uint32(shard), from, to)
			columns++
		}
	}
	for i, shard := range b.shards {
		if shard != noShard {
			b.order[b.starts[shard]] = int32(i)
			b.starts[shard]++
		}
	}
}

// free gives the bulk back. Nothing of it may be in use.
func (n *Node) free(b *bulk) {
	for i := range b.columns {
		c := &b.columns[i]
		clear(c.failures)
		c.failures, c.epoch, c.err, c.request.Key = c.failures[:0], 0, nil, ""
	}
	clear(b.refused)
	b.in, b.node, b.op, b.done, b.refused = nil, nil, nil, nil, b.refused[:0]
	n.bulks.Put(b)
}

// Len implements actors.Column.
func (c *addColumn) Len() int { return int(c.to - c.from) }

func (c *addColumn) index(i int) int32 { return c.all.order[int(c.from)+i] }

// Key implements actors.Column.
func (c *addColumn) Key(i int) string { return c.all.in.Keys[c.index(i)] }

// Command implements actors.Column.
func (c *addColumn) Command(i int) proto.Message {
	c.delta = 1
	if deltas := c.all.in.Deltas; deltas != nil {
		c.delta = deltas[c.index(i)]
	}
	c.request.Key = c.Key(i)
	c.reply.Value, c.reply.Applied = 0, 0
	return &c.request
}

// Reply implements actors.Column.
func (c *addColumn) Reply() proto.Message { return &c.reply }

// Answered implements actors.Column.
func (c *addColumn) Answered(i int, err error) {
	value := &c.all.values[int(c.from)+i]
	if err == nil {
		*value = c.reply.Value
		return
	}
	*value = 0
	f := handles.AddFailure(int(c.index(i)), err)
	for j, before := range c.failures {
		if before.Index == f.Index {
			c.failures[j] = f
			return
		}
	}
	c.failures = append(c.failures, f)
}

// AppendResult implements actors.Column.
func (c *addColumn) AppendResult(b []byte) ([]byte, error) {
	c.result.Values, c.result.Failures = c.all.values[c.from:c.to], c.failures
	return fastproto.Append(b, &c.result) //nolint:wrapcheck // the caller says what it was
}

// Replay implements actors.Column.
func (c *addColumn) Replay(result []byte) error {
	var r quernv1.CounterServiceAddManyResponse
	if err := fastproto.Unmarshal(result, &r, nil); err != nil {
		return err //nolint:wrapcheck // the caller says what it was
	}
	if len(r.GetValues()) != c.Len() {
		return failure.New(failure.InvalidField, "the number was used for %d keys before, now for %d", len(r.GetValues()), c.Len())
	}
	copy(c.all.values[c.from:c.to], r.GetValues())
	c.failures = r.GetFailures()
	return nil
}

// Completed implements actors.Completer.
func (c *addColumn) Completed(epoch uint64, err error) {
	c.epoch, c.err = epoch, err
	c.all.arrive()
}

// assemble puts the answers of all columns into the reply.
func (b *bulk) assemble(out *quernv1.CounterServiceAddManyResponse) {
	out.Values = make([]int64, len(b.shards))
	out.Failures = append(out.Failures, b.refused...)
	for k := range b.columns {
		c := &b.columns[k]
		for i := range c.Len() {
			if c.err != nil {
				out.Failures = append(out.Failures, handles.AddFailure(int(c.index(i)), c.err))
				continue
			}
			out.Values[c.index(i)] = b.values[int(c.from)+i]
		}
		if c.err == nil {
			out.Failures = append(out.Failures, c.failures...)
		}
	}
	if len(out.Failures) < 2 {
		return
	}
	slices.SortFunc(out.Failures, func(a, b *quernv1.AddManyFailure) int { return cmp.Compare(a.GetIndex(), b.GetIndex()) })
}

// addColumns runs a bulk add and waits for it.
func (n *Node) addColumns(ctx context.Context, op *handles.Operation, in *quernv1.CounterServiceAddManyRequest, out *quernv1.CounterServiceAddManyResponse) error {
	b := n.newBulk(in)
	if err := n.address(b, op); err != nil {
		n.free(b)
		return err
	}
	deadline, _ := ctx.Deadline()
	all := actors.NewWaiter(len(b.columns))
	of := operation(op)
	for i := range b.columns {
		c := &b.columns[i]
		n.runtime.SubmitColumn(c.shard, &of, c, deadline, all.For(i))
	}
	return n.gather(ctx, op, b, all, out)
}

// whole is what the operation ends with where its last column has ended with err.
// That is the error of a numbered one, which has one column, and of another one
// with one column whose shard is elsewhere: the router takes it back. Any other
// error is told of its keys.
func (n *Node) whole(b *bulk, op *handles.Operation, err error) error {
	moved := errors.Is(err, failure.Moving) || errors.Is(err, failure.NotOwner)
	if op.Session.ID != "" || n.member != nil && len(b.columns) == 1 && moved {
		return err
	}
	return nil
}

// gather takes the answers. Columns that have none yet stay in use: then
// nothing that they write to may be read, or used again.
func (n *Node) gather(ctx context.Context, op *handles.Operation, b *bulk, all *actors.Waiter, out *quernv1.CounterServiceAddManyResponse) error {
	left := all.Wait(ctx)
	var epoch uint64
	var err error
	for i := range b.columns {
		epoch, err = all.Answer(i)
		b.columns[i].err = err
	}
	if len(b.columns) == 1 {
		op.Origin.Epoch = epoch
	}
	if err = n.whole(b, op, err); err == nil {
		b.assemble(out)
	}
	if !left {
		n.free(b)
	}
	return err
}

// address fills in the operation's origin, as far as there is one. In a session
// all keys must be of one shard.
func (n *Node) address(b *bulk, op *handles.Operation) error {
	if op.Session.ID != "" && op.Placed && len(b.columns) == 1 && b.columns[0].shard != op.Origin.Shard {
		// The first key, which is none, said where the session is looked for.
		return failure.New(failure.InvalidField, "the keys of a numbered operation are of another shard than its session")
	}
	op.Origin = handles.Origin{Node: n.cfg.Node}
	if len(b.columns) == 1 {
		op.Origin.Shard = b.columns[0].shard
	}
	if op.Session.ID != "" && len(b.columns) != 1 {
		return failure.New(failure.InvalidField, "the keys of a numbered operation are of %d shards; they must be of the session's", len(b.columns))
	}
	return nil
}

// submitColumns is addColumns without waiting.
func (n *Node) submitColumns(op *handles.Operation, in *quernv1.CounterServiceAddManyRequest, deadline time.Time, done handles.Completer) {
	b := n.newBulk(in)
	if err := n.address(b, op); err != nil {
		n.free(b)
		done.Completed(0, err)
		return
	}
	b.node, b.op, b.done = n, op, done
	b.left.Store(int32(len(b.columns)) + 1) //nolint:gosec // at most MaxManyKeys
	begun := 0
	defer func() {
		for ; begun < len(b.columns); begun++ { // the goroutine was ended
			b.columns[begun].Completed(0, errCutOff)
		}
		b.arrive()
	}()
	of := operation(op)
	for begun < len(b.columns) {
		c := &b.columns[begun]
		begun++
		n.runtime.SubmitColumn(c.shard, &of, c, deadline, c)
	}
}

// arrive counts a column that came to its end; the last one ends the bulk.
func (b *bulk) arrive() {
	if b.left.Add(-1) != 0 {
		return
	}
	var epoch uint64
	var err error
	if len(b.columns) == 1 {
		epoch, err = b.columns[0].epoch, b.columns[0].err
	}
	if err = b.node.whole(b, b.op, err); err == nil {
		out, _ := b.op.Reply.(*quernv1.CounterServiceAddManyResponse)
		b.assemble(out)
	}
	done := b.done
	b.node.free(b)
	done.Completed(epoch, err)
}
