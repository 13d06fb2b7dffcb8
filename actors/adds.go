package actors

import (
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/fastproto"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Adder is a State that is a number.
type Adder interface {
	State
	// Add adds delta and returns the new value, as the kind's command for it
	// would: what it changes is undone after an error.
	Add(delta int64) (value int64, changed bool, err error)
}

// adds are a column of adds. The shard runs them itself: there are no messages
// of the items, and the answers are encoded as they come.
type adds handles.Adds

// What refuses adds.
var (
	errNoAdder    = failure.New(failure.UnknownMethod, "grains of this kind take no adds")
	errForeignKey = failure.New(failure.InvalidField, "a key is of another shard than the adds")
)

// SubmitAdds submits adds to grains of a kind whose states are each an [Adder].
func (r *Runtime) SubmitAdds(kind, method string, a *handles.Adds) {
	c, err := r.newAdds(kind, a)
	if err != nil {
		a.Done.Completed(0, err)
		return
	}
	c.method, c.column = method, (*adds)(a)
	if !a.Deadline.IsZero() {
		c.deadline = a.Deadline.UnixNano()
	}
	r.shards[a.Origin.Shard].submit(c, a.Done)
}

func (r *Runtime) newAdds(kind string, a *handles.Adds) (*call, error) {
	if err := r.checkShard(a.Origin.Shard); err != nil {
		return nil, err
	}
	index := r.kindOf(kind)
	if index < 0 {
		return nil, failure.New(failure.UnknownKind, "this node serves no kind named %q", kind)
	}
	in := Session(a.Session)
	if in.ID != "" {
		if err := in.check(""); err != nil {
			return nil, err
		}
	}
	c := r.calls.get()
	c.kindIndex = index
	if in.ID != "" {
		c.session, c.memo = in, a.Memo
	}
	return c, nil
}

// key returns key i as it lies in the text.
func (a *adds) key(i int) []byte { return a.Spans[i].Of(a.Text) }

// Len implements Column.
func (a *adds) Len() int { return len(a.Spans) }

// Key implements Column.
func (a *adds) Key(i int) string { return string(a.key(i)) }

// Command implements Column; no handler is run.
func (*adds) Command(int) proto.Message { return nil }

// Reply implements Column.
func (*adds) Reply() proto.Message { return nil }

// Answered implements Column, for an answer that is taken back.
func (a *adds) Answered(i int, err error) {
	var r quernv1.CounterServiceAddManyResponse
	if broken := fastproto.Unmarshal(a.Result, &r, nil); broken != nil || i >= len(r.GetValues()) {
		return // there is none
	}
	r.Values[i] = 0
	r.Failures = slices.DeleteFunc(r.Failures, func(f *quernv1.AddManyFailure) bool { return int(f.GetIndex()) == i })
	r.Failures = append(r.Failures, addFailure(i, err))
	if b, broken := fastproto.Append(nil, &r); broken == nil {
		a.Result = b
	}
}

// AppendResult implements Column.
func (a *adds) AppendResult(b []byte) ([]byte, error) { return append(b, a.Result...), nil }

// Replay implements Column.
func (a *adds) Replay(result []byte) error {
	var r quernv1.CounterServiceAddManyResponse
	if err := fastproto.Unmarshal(result, &r, nil); err != nil {
		return err //nolint:wrapcheck // the caller says what it was
	}
	if len(r.GetValues()) != a.Len() {
		return failure.New(failure.InvalidField, "the number was used for %d keys before, now for %d", len(r.GetValues()), a.Len())
	}
	a.Result = append(a.Result[:0], result...)
	return nil
}

func addFailure(i int, err error) *quernv1.AddManyFailure {
	f := &quernv1.AddManyFailure{Index: uint32(i), Message: err.Error(), Unknown: failure.OutcomeOf(err) == failure.Unknown} //nolint:gosec // not negative
	if e, ok := errors.AsType[*failure.Error](err); ok {
		f.Reason, f.Message = e.Reason.String(), e.Message
	}
	f.Message = strings.ToValidUTF8(f.Message, "\uFFFD")
	return f
}

// admitAdds runs the turn, once all grains are resident.
func (s *shard) admitAdds(c *call, a *adds) {
	grains := s.kinds[c.kindIndex].grains
	s.items = s.items[:0]
	absent := false
	var last *grain
	for i := range a.Spans {
		g := grains[string(a.key(i))]
		switch {
		case g == nil || len(c.broken) > 0 && c.broken[g.key] != nil:
			g, absent = nil, true
		case g.is(loading):
			last = g
		default:
			g.set(touched)
		}
		s.items = append(s.items, g)
	}
	if absent {
		var err error
		if last, err = s.findAbsent(c, a); err != nil {
			clear(s.items)
			c.complete(err)
			return
		}
	}
	if last == nil {
		s.addsTurn(c, a)
	} else {
		s.parkColumn(c, last)
	}
	clear(s.items)
}

// findAbsent makes the grains that are not resident, and returns one that is to
// be loaded. Nobody has looked at their keys yet: what is resident has a good one.
func (s *shard) findAbsent(c *call, a *adds) (last *grain, err error) {
	for i, g := range s.items {
		if g != nil {
			continue
		}
		key := a.Key(i)
		switch err := keyspace.Check(key); {
		case c.broken[key] != nil:
		case err != nil:
			return nil, err //nolint:wrapcheck // a *failure.Error
		case keyspace.Shard(key, uint32(len(s.rt.shards))) != s.id: //nolint:gosec // at most keyspace.MaxShards
			return nil, errForeignKey
		case s.crowds(c.kindIndex, key):
			s.counts.overloaded.Add(1)
			return nil, errShardFull
		}
	}
	for i, g := range s.items {
		switch key := a.Key(i); {
		case c.broken[key] != nil:
			continue
		case g == nil:
			g = s.find(c.kindIndex, key)
			s.items[i] = g
		}
		if g.is(loading) {
			last = g
		}
	}
	return last, nil
}

// addsTurn adds to each grain.
func (s *shard) addsTurn(c *call, a *adds) {
	c.epoch, c.wrote = s.epoch.Load(), true
	t := addsTurn{call: c, adds: a}
	a.Result = fastproto.BeginValues(a.Result[:0])
	for t.next < len(s.items) {
		s.addFrom(&t)
	}
	a.Result = fastproto.EndValues(a.Result, 0)
	if t.failures != nil {
		var err error
		if a.Result, err = fastproto.Append(a.Result, &quernv1.CounterServiceAddManyResponse{Failures: t.failures}); err != nil {
			s.failColumn(c, failure.Wrap(err, failure.OutcomeUnknown, "the result does not encode"))
			return
		}
	}
	s.counts.turns.Add(uint64(len(s.items)))
	if c.client != nil {
		if err := s.keepColumn(c); err != nil {
			s.failColumn(c, err)
			return
		}
		t.flags |= c.client.flags
	}
	s.answer(nil, t.flags, c, nil)
}

// addsTurn is how far the turn of some adds has come.
type addsTurn struct {
	call     *call
	adds     *adds
	next     int
	flags    grainFlags
	failures []*quernv1.AddManyFailure
}

// fail answers the item that is next.
func (t *addsTurn) fail(err error) {
	t.failures = append(t.failures, addFailure(t.next, err))
	t.adds.Result = fastproto.AppendValue(t.adds.Result, 0)
}

// addFrom adds until the end, or until a state panics, which is that item's own
// failure. It does not return where a state has ended the goroutine: then the
// call is answered already.
func (s *shard) addFrom(t *addsTurn) {
	var g *grain // whose state is at work
	defer func() {
		if g == nil {
			return
		}
		reason := recover()
		err := s.handlerFailed(g, t.call, reason)
		if reason == nil {
			return // and the goroutine ends
		}
		t.fail(err)
		t.next++
	}()
	for ; t.next < len(s.items); t.next++ {
		item := s.items[t.next]
		if item == nil {
			t.fail(t.call.broken[t.adds.Key(t.next)])
			continue
		}
		if err := s.expire(item, t.call); err != nil {
			t.fail(err)
			continue
		}
		adder, ok := item.state.(Adder)
		if !ok {
			t.fail(errNoAdder)
			continue
		}
		g = item
		before := g.size()
		g.begin()
		value, changed, err := adder.Add((*handles.Adds)(t.adds).Delta(t.next))
		g = nil
		if err != nil {
			s.undo(item)
			t.fail(err)
		} else {
			t.adds.Result = fastproto.AppendValue(t.adds.Result, value)
			if changed {
				s.markChanged(item, before)
			}
		}
		t.flags |= item.flags
	}
}
