package actors

import (
	"runtime/debug"
	"slices"

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
	// would. Nothing undoes it: where it fails, or panics, it must not have
	// changed anything. It wakes nobody and does not park.
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

func (a *adds) delta(i int) int64 {
	if a.Deltas == nil {
		return 1
	}
	return a.Deltas[i]
}

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
	r.Failures = append(r.Failures, handles.AddFailure(i, err))
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

// fewAdds is how many grains a turn remembers on its stack: what lies there stays
// with the processor that runs it.
const fewAdds = 32

// admitAdds runs the turn, once all grains are resident.
func (s *shard) admitAdds(c *call, a *adds) {
	var few [fewAdds]*grain
	items, missing := s.lookUp(c, a, few[:0])
	if missing {
		if err := s.findMissing(c, a, items); err != nil {
			c.complete(err)
			return
		}
	}
	for _, g := range items {
		if g != nil && g.is(loading) {
			s.items = append(s.items[:0], items...)
			s.parkColumn(c, g)
			clear(s.items)
			return
		}
	}
	s.addsTurn(c, a, items)
}

// lookUp appends the grains that are resident, and nil for others and for those
// that could not be read. missing reports whether there are any.
func (s *shard) lookUp(c *call, a *adds, items []*grain) (_ []*grain, missing bool) {
	grains := s.kinds[c.kindIndex].grains
	for i := range a.Spans {
		g := grains[string(a.key(i))]
		switch {
		case g == nil || len(c.broken) > 0 && c.broken[g.key] != nil:
			g, missing = nil, true
		case !g.is(touched): // to write where nothing changes would take the line from other processors
			g.set(touched)
		}
		items = append(items, g)
	}
	return items, missing
}

// findMissing makes the grains that are not resident. Nobody has looked at their
// keys yet: what is resident has a good one.
func (s *shard) findMissing(c *call, a *adds, items []*grain) error {
	for i, g := range items {
		if g != nil {
			continue
		}
		key := a.Key(i)
		switch err := keyspace.Check(key); {
		case c.broken[key] != nil:
		case err != nil:
			return err //nolint:wrapcheck // a *failure.Error
		case keyspace.Shard(key, uint32(len(s.rt.shards))) != s.id: //nolint:gosec // at most keyspace.MaxShards
			return errForeignKey
		case s.crowds(c.kindIndex, key):
			s.counts.overloaded.Add(1)
			return errShardFull
		}
	}
	for i, g := range items {
		if key := a.Key(i); g == nil && c.broken[key] == nil {
			items[i] = s.find(c.kindIndex, key)
		}
	}
	return nil
}

// addsTurn adds to each grain.
func (s *shard) addsTurn(c *call, a *adds, items []*grain) {
	c.epoch, c.wrote = s.epoch.Load(), true
	t := adding{call: c, adds: a}
	a.Result = fastproto.BeginValues(a.Result[:0])
	for t.next < len(items) {
		s.addFrom(&t, items)
	}
	a.Result = fastproto.EndValues(a.Result, 0)
	if t.failures != nil {
		var err error
		if a.Result, err = fastproto.Append(a.Result, &quernv1.CounterServiceAddManyResponse{Failures: t.failures}); err != nil {
			s.failColumn(c, failure.Wrap(err, failure.OutcomeUnknown, "the result does not encode"))
			return
		}
	}
	s.counts.turns.Add(uint64(len(items)))
	if c.client != nil {
		s.keepEncoded(c, a.Result)
		t.flags |= c.client.flags
	}
	s.answer(nil, t.flags, c, nil)
}

// adding is how far a turn has come.
type adding struct {
	call     *call
	adds     *adds
	next     int
	flags    grainFlags
	failures []*quernv1.AddManyFailure
}

// fail answers the item that is next.
func (t *adding) fail(err error) {
	t.failures = append(t.failures, handles.AddFailure(t.next, err))
	t.adds.Result = fastproto.AppendValue(t.adds.Result, 0)
}

// addFrom adds until the end, or until a state panics, which is that item's own
// failure. It does not return where a state has ended the goroutine: then the
// call is answered already.
func (s *shard) addFrom(t *adding, items []*grain) {
	var g *grain // whose state is at work
	defer func() {
		if g == nil {
			return
		}
		reason := recover()
		if err := s.panicked(g, t.call, reason, debug.Stack()); reason != nil {
			t.fail(err)
			t.next++
		}
	}()
	for ; t.next < len(items); t.next++ {
		item := items[t.next]
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
		before := item.size()
		g = item
		value, changed, err := adder.Add(t.adds.delta(t.next))
		g = nil
		if err != nil {
			t.fail(err)
		} else {
			t.adds.Result = fastproto.AppendValue(t.adds.Result, value)
		}
		if changed {
			s.markChanged(item, before)
		}
		t.flags |= item.flags
	}
}
