package actors_test

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// column is a column of any kind, whose answers are encoded replies.
type column struct {
	kind     string
	keys     []string
	commands []proto.Message
	reply    proto.Message
	replies  [][]byte
	errs     []error
}

func (c *column) Len() int                    { return len(c.keys) }
func (c *column) Key(i int) string            { return c.keys[i] }
func (c *column) Command(i int) proto.Message { proto.Reset(c.reply); return c.commands[i] }
func (c *column) Reply() proto.Message        { return c.reply }

func (c *column) Answered(i int, err error) {
	c.replies[i], c.errs[i] = nil, err
	if err == nil {
		c.replies[i], c.errs[i] = proto.Marshal(c.reply)
	}
}

func (c *column) AppendResult(b []byte) ([]byte, error) {
	for i, err := range c.errs {
		reason := failure.Reason(255)
		if e, ok := errors.AsType[*failure.Error](err); ok {
			reason = e.Reason
		}
		b = protowire.AppendBytes(append(b, byte(reason)), c.replies[i])
	}
	return b, nil
}

func (c *column) Replay(b []byte) error {
	for i := range c.keys {
		reason := failure.Reason(b[0])
		reply, n := protowire.ConsumeBytes(b[1:])
		b = b[1+n:]
		c.replies[i], c.errs[i] = slices.Clone(reply), nil
		if reason != 255 {
			c.errs[i] = failure.New(reason, "replayed")
		}
	}
	return nil
}

// values returns the answers as numbers, 0 where there is none.
func (c *column) values() (all []int64) {
	for _, reply := range c.replies {
		var v quernv1.CounterServiceAddResponse
		_ = proto.Unmarshal(reply, &v)
		all = append(all, v.GetValue())
	}
	return all
}

func newColumn(kind string, reply proto.Message, keys []string, commands ...proto.Message) *column {
	return &column{
		kind: kind, keys: keys, commands: commands, reply: reply,
		replies: make([][]byte, len(keys)), errs: make([]error, len(keys)),
	}
}

func adds(keys ...string) *column {
	commands := make([]proto.Message, len(keys))
	for i := range commands {
		commands[i] = plus(1)
	}
	return newColumn("counter", &quernv1.CounterServiceAddResponse{}, keys, commands...)
}

func swaps(keys []string, values ...string) *column {
	var commands []proto.Message
	for _, v := range values {
		commands = append(commands, wrapperspb.String(v))
	}
	return newColumn("blob", &wrapperspb.StringValue{}, keys, commands...)
}

// runColumn submits a column and returns its end.
func (r *rig) runColumn(c *column, in actors.Session) error {
	done := make(end, 1)
	r.SubmitColumn(r.shardOf(c.keys[0]), &actors.Operation{Kind: c.kind, Method: "column", Session: in}, c, time.Time{}, done)
	return <-done
}

func beginColumn(r *rig, c *column, in actors.Session) <-chan answer {
	return begin(func() (int64, error) { return 0, r.runColumn(c, in) })
}

func TestColumnIsAnsweredWhenAllOfItIsDurable(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	in := actors.Session{ID: r.mustOpen(t, "{x}"), Number: 1}
	if err := r.runColumn(adds("{x}a", "{x}b"), actors.Session{}); err != nil {
		t.Fatal(err)
	}
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	c, again := adds("{x}a", "{x}c", "{x}a"), adds("{x}a", "{x}c", "{x}a")
	first := beginColumn(r, c, in)
	<-store.began
	await(r, "{x}", 1)
	joined := beginColumn(r, again, in)
	read := begin(get(r, "{x}c"))
	await(r, "{x}", 3)
	unanswered(t, "the column", first)
	unanswered(t, "its repeat", joined)
	unanswered(t, "a read of an item", read)
	close(hold)
	for _, a := range []answer{<-first, <-joined} {
		if a.err != nil {
			t.Error(a.err)
		}
	}
	<-read
	r.Crash(r.shardOf("{x}"))
	later := adds("{x}a", "{x}c", "{x}a")
	if err := r.runColumn(later, in); err != nil {
		t.Error(err)
	}
	for _, c := range []*column{c, again, later} {
		if got := c.values(); !slices.Equal(got, []int64{2, 1, 3}) {
			t.Errorf("got %v", got)
		}
	}
}

// TestColumnWaitsForWhatItSaw, and for what it changed, whichever there is.
func TestColumnWaitsForWhatItSaw(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		numbered bool
		delta    int64
	}{"changed items": {false, 1}, "a result alone": {true, 0}} {
		store := newFaultStore()
		r := newRig(t, store)
		in := actors.Session{}
		if row.numbered {
			in = actors.Session{ID: r.mustOpen(t, "{x}"), Number: 1}
		}
		drainSignals(store.began)
		hold := make(chan struct{})
		store.set(func(f *faultStore) { f.hold = hold })
		c := newColumn("counter", &quernv1.CounterServiceAddResponse{}, []string{"{x}a", "{x}b"}, plus(row.delta), plus(row.delta))
		ended := beginColumn(r, c, in)
		<-store.began
		r.Barrier(r.shardOf("{x}"))
		unanswered(t, name, ended)
		close(hold)
		if got := <-ended; got.err != nil {
			t.Error(got.err)
		}
	}
}

// TestColumnWithoutMemory: with room for one grain in a shard, columns of many
// cold keys come to an end.
func TestColumnWithoutMemory(t *testing.T) {
	t.Parallel()
	const callers, rounds, keys = 8, 10, 100
	store := newFaultStore()
	store.began = make(chan struct{}, 1_000_000)
	r := newRig(t, store, func(c *actors.Config) { c.ResidentLimit = 1 })
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			in := actors.Session{ID: r.mustOpen(t, "{x}")}
			for range rounds {
				in.Settled, in.Number = in.Number, in.Number+1
				names := make([]string, keys)
				for i := range names {
					names[i] = "{x}" + strconv.Itoa((i*7+caller*13)%(2*keys)) // overlapping
				}
				for range 2 {
					if err := r.runColumn(adds(names...), in); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	sum := int64(0)
	for i := range 2 * keys {
		got, err := r.counter("{x}" + strconv.Itoa(i)).Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sum += got
	}
	if sum != callers*rounds*keys {
		t.Errorf("%d adds were counted, want %d", sum, callers*rounds*keys)
	}
	r.Barrier(r.shardOf("{x}"))
	r.Barrier(r.shardOf("{x}"))
	// The sessions stay for a while, their windows count; the counters go.
	if n := r.RingAt(r.shardOf("{x}")); n > callers+2 {
		t.Errorf("%d grains are resident", n)
	}
}

// TestColumnOfARefusedCommit fails as a whole, and counts once when repeated.
func TestColumnOfARefusedCommit(t *testing.T) {
	t.Parallel()
	for _, status := range []actors.Status{actors.Refused, actors.Unclear} {
		store := newFaultStore()
		r := newRig(t, store)
		in := actors.Session{ID: r.mustOpen(t, "{x}"), Number: 1}
		store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return status } })
		if err := r.runColumn(adds("{x}a", "{x}b"), in); err == nil {
			t.Error("answered")
		}
		store.set(func(f *faultStore) { f.verdict = nil })
		for range 2 {
			c := adds("{x}a", "{x}b")
			if err := r.runColumn(c, in); err != nil || !slices.Equal(c.values(), []int64{1, 1}) {
				t.Errorf("status %d: %v, %v", status, c.values(), err)
			}
		}
	}
}

// TestItemThatDoesNotEncode is taken back by itself, in all repeats too.
func TestItemThatDoesNotEncode(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withBlob)
	in := actors.Session{ID: r.mustOpen(t, "{x}"), Number: 1}
	keys := []string{"{x}a", "{x}b", "{x}c"}
	for _, key := range keys {
		if _, err := r.swap(key, "old", actors.Session{}); err != nil {
			t.Fatal(err)
		}
	}
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	blocker := begin(add(r, "{x}blocker"))
	<-store.began
	await(r, "{x}", 1)
	var columns []*column
	var ends []<-chan answer
	for i := range 2 {
		columns = append(columns, swaps(keys, "one", "bad", "three"))
		ends = append(ends, beginColumn(r, columns[i], in))
		await(r, "{x}", i+2)
	}
	store.set(func(f *faultStore) { f.hold = nil })
	close(hold)
	<-blocker
	for _, e := range ends {
		if got := <-e; got.err != nil {
			t.Error(got.err)
		}
	}
	r.Crash(r.shardOf("{x}"))
	late := swaps(keys, "one", "bad", "three")
	if err := r.runColumn(late, in); err != nil {
		t.Error(err)
	}
	for i, c := range append(columns, late) {
		if c.errs[0] != nil || !errors.Is(c.errs[1], failure.HandlerFailed) || c.errs[2] != nil {
			t.Errorf("column %d: %v", i, c.errs)
		}
	}
	for i, want := range []string{"one", "old", "three"} {
		if got, err := r.swap(keys[i], "", actors.Session{}); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", keys[i], got, err, want)
		}
	}
}

// TestItemThatDoesNotDecode is refused by itself.
func TestItemThatDoesNotDecode(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	first := newRig(t, store)
	shard, epoch := first.shardOf("{x}"), first.epoch("{x}")
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := store.Commit(t.Context(), []actors.Batch{{Shard: shard, Epoch: epoch, Records: []actors.Record{
		{Key: actors.StateKey("counter", "{x}bad"), Value: []byte{0xff}},
		{Key: actors.StateKey("counter", "{x}worse"), Value: []byte{0xff}},
	}}}); v[0].Status != actors.Done {
		t.Fatal(v)
	}
	r := newRig(t, store)
	for n := range int64(2) {
		c := adds("{x}bad", "{x}good", "{x}worse", "{x}fine")
		if err := r.runColumn(c, actors.Session{}); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(c.values(), []int64{0, n + 1, 0, n + 1}) || !errors.Is(c.errs[0], failure.Internal) || !errors.Is(c.errs[2], failure.Internal) {
			t.Errorf("got %v, %v", c.values(), c.errs)
		}
	}
}

// TestGoexitBetweenItems: what was done of the others is not known, and is not
// counted twice.
func TestGoexitBetweenItems(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withProbe(probe{}))
	in := actors.Session{ID: r.mustOpen(t, "{x}"), Number: 1}
	keys := []string{"{x}a", "{x}b", "{x}c"}
	probes := func(second string) *column {
		return newColumn("probe", &wrapperspb.UInt64Value{}, keys,
			wrapperspb.String("add"), wrapperspb.String(second), wrapperspb.String("add"))
	}
	done := make(end, 1)
	go func() {
		r.SubmitColumn(r.shardOf("{x}"), &actors.Operation{Kind: "probe", Method: "column", Session: in}, probes("goexit"), time.Time{}, done)
	}()
	if err := <-done; failure.OutcomeOf(err) != failure.Unknown {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if err := r.runColumn(probes("add"), in); err != nil {
			t.Error(err)
		}
	}
	for _, key := range keys {
		if n, err := r.probe(context.Background(), key, "add", ""); n != 2 || err != nil {
			t.Errorf("%s: %d, %v; want 2", key, n, err)
		}
	}
	// A panic is the item's own.
	c := probes("panic")
	if err := r.runColumn(c, actors.Session{}); err != nil || c.errs[0] != nil || !errors.Is(c.errs[1], failure.HandlerFailed) || c.errs[2] != nil {
		t.Errorf("panic: %v, %v", err, c.errs)
	}
}

// TestColumnOfAStoreThatCannotBeRead fails as a whole, as not done.
func TestColumnOfAStoreThatCannotBeRead(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, func(c *actors.Config) { c.ResidentLimit = 1 })
	if got, err := r.counter("{x}a").Get(t.Context()); got != 0 || err != nil {
		t.Fatal(got, err)
	}
	store.set(func(f *faultStore) { f.read = func(uint32) error { return errBroken } })
	for range 3 {
		if err := r.runColumn(adds("{x}a", "{x}b"), actors.Session{}); !errors.Is(err, failure.StoreUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	store.set(func(f *faultStore) { f.read = nil })
	c := adds("{x}a", "{x}b")
	if err := r.runColumn(c, actors.Session{}); err != nil || !slices.Equal(c.values(), []int64{1, 1}) {
		t.Errorf("got %v, %v", c.values(), err)
	}
	// Nothing holds the resident one any longer.
	for i := range 4 {
		if _, err := r.counter("{x}" + strconv.Itoa(i)).Get(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.Barrier(r.shardOf("{x}"))
	}
	if n := r.RingAt(r.shardOf("{x}")); n > 1 {
		t.Errorf("%d grains are resident", n)
	}
}

func BenchmarkColumn(b *testing.B) {
	const keys = 1000
	r := newRig(b, newMemory())
	names := make([]string, keys)
	for i := range names {
		names[i] = "{x}" + strconv.Itoa(i)
	}
	c := &plainColumn{column: *adds(names...)}
	done := make(end, 1)
	shard := r.shardOf("{x}")
	b.ReportAllocs()
	for range b.N {
		r.SubmitColumn(shard, &actors.Operation{Kind: "counter", Method: "column"}, c, time.Time{}, done)
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*keys), "ns/add")
}

// plainColumn keeps no more than a sum.
type plainColumn struct {
	column
	sum uint64
}

func (c *plainColumn) Command(i int) proto.Message { return c.commands[i] }

func (c *plainColumn) Answered(int, error) {
	if v, ok := c.reply.(*quernv1.CounterServiceAddResponse); ok {
		c.sum += uint64(v.GetValue())
	}
}

func (c *plainColumn) AppendResult(b []byte) ([]byte, error) {
	return binary.AppendUvarint(b, c.sum), nil
}
