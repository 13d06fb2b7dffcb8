package actors_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// addsOf are adds of 1 to keys of one shard.
func (r *rig) addsOf(in actors.Session, keys ...string) *handles.Adds {
	a := &handles.Adds{Session: handles.Session(in), Origin: handles.Origin{Shard: r.shardOf("{x}")}, Done: make(end, 1)}
	for _, key := range keys {
		from := len(a.Text)
		a.Text = append(a.Text, key...)
		a.Spans = append(a.Spans, keyspace.Span{From: uint32(from), To: uint32(len(a.Text))})
	}
	return a
}

// beginAdds begins adds, also to a kind other than counters.
func (r *rig) beginAdds(kind string, a *handles.Adds) end {
	done, _ := a.Done.(end)
	r.SubmitAdds(kind, "adds", a)
	return done
}

// addAll runs adds to counters, and returns what they were answered.
func (r *rig) addAll(a *handles.Adds) ([]int64, map[int]failure.Reason, error) {
	if err := <-r.beginAdds("counter", a); err != nil {
		return nil, nil, err
	}
	return resultOf(a)
}

func resultOf(a *handles.Adds) ([]int64, map[int]failure.Reason, error) {
	var reply quernv1.CounterServiceAddManyResponse
	if err := proto.Unmarshal(a.Result, &reply); err != nil {
		return nil, nil, err
	}
	failed := make(map[int]failure.Reason)
	for _, f := range reply.GetFailures() {
		failed[int(f.GetIndex())], _ = failure.ParseReason(f.GetReason())
	}
	if len(failed) != len(reply.GetFailures()) {
		return nil, nil, errors.New("an item has two failures")
	}
	return reply.GetValues(), failed, nil
}

// TestAddsAreSingleAdds: whatever the deltas, and whichever keys come again, they
// have the answers of adds one by one.
func TestAddsAreSingleAdds(t *testing.T) {
	t.Parallel()
	many, single := newRig(t, newFaultStore()), newRig(t, newMemory())
	in := actors.Session{ID: many.mustOpen(t, "{x}")}
	random := rand.New(rand.NewPCG(1, 2))
	deltas := []int64{0, 1, -1, 1000, math.MaxInt64, math.MinInt64, math.MaxInt64 / 2}
	for round := range 200 {
		var keys []string
		for range 1 + random.IntN(80) {
			keys = append(keys, "{x}"+strconv.Itoa(random.IntN(50)))
		}
		in.Settled, in.Number = in.Number, in.Number+1
		a := many.addsOf(in, keys...)
		if round%3 > 0 {
			for range keys {
				a.Deltas = append(a.Deltas, deltas[random.IntN(len(deltas))])
			}
		}
		values, failed, err := many.addAll(a)
		if err != nil || len(values) != len(keys) {
			t.Fatal(values, err)
		}
		for i, key := range keys {
			delta := int64(1)
			if a.Deltas != nil {
				delta = a.Deltas[i]
			}
			want, err := single.counter(key).Add(t.Context(), delta)
			if reason, ok := failed[i]; ok != (err != nil) || ok && (!errors.Is(err, reason) || values[i] != 0) || !ok && values[i] != want {
				t.Fatalf("round %d, item %d: %d, %v; alone it is %d, %v", round, i, values[i], reason, want, err)
			}
		}
	}
}

// TestAddsAreRefusedWhole, before anything was done of them.
func TestAddsAreRefusedWhole(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory())
	id := r.mustOpen(t, "{x}")
	elsewhere := "elsewhere"
	for i := 0; r.shardOf(elsewhere) == r.shardOf("{x}"); i++ {
		elsewhere = "elsewhere" + strconv.Itoa(i)
	}
	fine := func(a *handles.Adds) *handles.Adds { return a }
	for name, row := range map[string]struct {
		kind   string
		bad    string
		change func(*handles.Adds) *handles.Adds
		want   failure.Reason
	}{
		"no key":        {"counter", "", fine, failure.InvalidKey},
		"not UTF-8":     {"counter", "{x}\xff", fine, failure.InvalidKey},
		"too long":      {"counter", "{x}" + string(make([]byte, keyspace.MaxKeyBytes)), fine, failure.InvalidKey},
		"another shard": {"counter", elsewhere, fine, failure.InvalidField},
		"no such kind":  {"abacus", "{x}a", fine, failure.UnknownKind},
		"no such shard": {"counter", "{x}a", func(a *handles.Adds) *handles.Adds { a.Origin.Shard = 64; return a }, failure.InvalidField},
		"number 0":      {"counter", "{x}a", func(a *handles.Adds) *handles.Adds { a.Session.Number = 0; return a }, failure.InvalidField},
		"no session": {"counter", "{x}a", func(a *handles.Adds) *handles.Adds {
			a.Session.ID = "0123456789abcdef"
			return a
		}, failure.SessionExpired},
		"too late": {"counter", "{x}a", func(a *handles.Adds) *handles.Adds {
			a.Deadline = time.Unix(1, 0)
			return a
		}, failure.DeadlineExceeded},
	} {
		a := row.change(r.addsOf(actors.Session{ID: id, Number: 1}, "{x}new", row.bad, "{x}other"))
		if err := <-r.beginAdds(row.kind, a); !errors.Is(err, row.want) || row.want != failure.DeadlineExceeded && failure.OutcomeOf(err) != failure.NotDone {
			t.Errorf("%s: %v", name, err)
		}
	}
	values, failed, err := r.addAll(r.addsOf(actors.Session{ID: id, Number: 1}, "{x}new", "{x}other"))
	if err != nil || len(failed) > 0 || !slices.Equal(values, []int64{1, 1}) {
		t.Errorf("afterwards: %v, %v, %v", values, failed, err)
	}
}

// TestAddsCountOnce: a repeat gets the first answer, while it is not durable, from
// memory and from the store, also as a column, and with other keys none.
func TestAddsCountOnce(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	in := actors.Session{ID: r.mustOpen(t, "{x}"), Number: 1}
	if _, err := r.counter("{x}full").Set(t.Context(), math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	keys := []string{"{x}a", "{x}full", "{x}a"}
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	all := []*handles.Adds{r.addsOf(in, keys...), r.addsOf(in, keys...)}
	first := r.beginAdds("counter", all[0])
	<-store.began
	await(r, "{x}", 1)
	joined := r.beginAdds("counter", all[1])
	await(r, "{x}", 2)
	if len(first)+len(joined) > 0 {
		t.Error("answered before the commit")
	}
	close(hold)
	if err := errors.Join(<-first, <-joined); err != nil {
		t.Fatal(err)
	}
	if _, err := r.counter("{x}full").Set(t.Context(), 0); err != nil { // the refusal is kept
		t.Fatal(err)
	}
	for range 2 {
		a := r.addsOf(in, keys...)
		if err := <-r.beginAdds("counter", a); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
		r.Crash(r.shardOf("{x}"))
	}
	for i, a := range all {
		if values, failed, err := resultOf(a); err != nil || !slices.Equal(values, []int64{1, 0, 2}) || len(failed) != 1 || failed[1] != failure.Overflow {
			t.Errorf("copy %d: %v, %v, %v", i, values, failed, err)
		}
	}
	if _, _, err := r.addAll(r.addsOf(in, "{x}a")); !errors.Is(err, failure.Internal) {
		t.Errorf("fewer keys: %v", err)
	}
	in.Settled = 1
	if _, _, err := r.addAll(r.addsOf(in, keys...)); !errors.Is(err, failure.SessionExpired) {
		t.Errorf("settled: %v", err)
	}
	in.Number = in.Settled + 1025
	if _, _, err := r.addAll(r.addsOf(in, keys...)); !errors.Is(err, failure.Overloaded) {
		t.Errorf("past the window: %v", err)
	}
	if got, err := r.counter("{x}a").Get(t.Context()); got != 2 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

// TestAddsOfARefusedCommit fail as a whole, and count once when repeated.
func TestAddsOfARefusedCommit(t *testing.T) {
	t.Parallel()
	for _, status := range []actors.Status{actors.Refused, actors.Unclear} {
		store := newFaultStore()
		r := newRig(t, store)
		in := actors.Session{ID: r.mustOpen(t, "{x}"), Number: 1}
		store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return status } })
		if _, _, err := r.addAll(r.addsOf(in, "{x}a", "{x}b")); err == nil {
			t.Error("answered")
		}
		store.set(func(f *faultStore) { f.verdict = nil })
		for range 2 {
			if values, _, err := r.addAll(r.addsOf(in, "{x}a", "{x}b")); err != nil || !slices.Equal(values, []int64{1, 1}) {
				t.Errorf("status %d: %v, %v", status, values, err)
			}
		}
	}
}

// TestAddsWithoutMemory: with room for one grain in a shard, adds to many cold
// counters come to an end.
func TestAddsWithoutMemory(t *testing.T) {
	t.Parallel()
	const callers, rounds, keys = 8, 10, 100
	store := newFaultStore()
	store.began = make(chan struct{}, 1_000_000)
	r := newRig(t, store, func(c *actors.Config) { c.ResidentLimit = 1 })
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			in := actors.Session{ID: r.mustOpen(t, "{x}")}
			names := make([]string, keys)
			for i := range names {
				names[i] = "{x}" + strconv.Itoa((i*7+caller*13)%(2*keys)) // overlapping
			}
			for range rounds {
				in.Settled, in.Number = in.Number, in.Number+1
				for range 2 {
					if _, _, err := r.addAll(r.addsOf(in, names...)); err != nil {
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
}

// number is a kind whose states are numbers that some deltas spoil.
type number struct{}

const (
	deltaPanics = 1_000_000 + iota
	deltaEnds
	deltaSpoils // the state does not encode
)

func (number) Name() string      { return "number" }
func (number) New() actors.State { return &numberState{} }

type numberState struct {
	blobState

	sum int64
}

func (s *numberState) Add(delta int64) (int64, bool, error) {
	switch delta {
	case deltaPanics:
		panic("a defect") //nolint:forbidigo // of a kind
	case deltaEnds:
		runtime.Goexit()
	case deltaSpoils:
		s.value = "bad"
	}
	s.sum += delta
	return s.sum, true, nil
}

func (s *numberState) Append(b []byte) ([]byte, error) {
	if s.value == "bad" {
		return b, errBroken
	}
	return strconv.AppendInt(b, s.sum, 10), nil
}

func (s *numberState) Decode(b []byte) (err error) {
	s.sum, err = strconv.ParseInt(string(b), 10, 64)
	return err
}

// TestAddsThatFailInside hit their own item, or nobody knows and nothing counts
// twice.
func TestAddsThatFailInside(t *testing.T) {
	t.Parallel()
	keys := []string{"{x}a", "{x}b", "{x}c", "{x}b"}
	for name, row := range map[string]struct {
		bad    int64
		whole  failure.Outcome // of the adds, where they fail as such
		fails  bool
		values []int64
		reason failure.Reason
		failed []int
	}{
		"panic":           {bad: deltaPanics, values: []int64{1, 0, 1, 1}, reason: failure.HandlerFailed, failed: []int{1}},
		"does not encode": {bad: deltaSpoils, values: []int64{1, 0, 1, 0}, reason: failure.HandlerFailed, failed: []int{1, 3}},
		"goexit":          {bad: deltaEnds, fails: true, whole: failure.Unknown},
	} {
		r := newRig(t, newFaultStore(), func(c *actors.Config) { c.Kinds = append(c.Kinds, number{}, blob{}) })
		in := actors.Session{ID: r.mustOpen(t, "{x}"), Number: 1}
		run := func(bad int64) (*handles.Adds, error) {
			a := r.addsOf(in, keys...)
			a.Deltas = []int64{1, bad, 1, 1}
			began := make(chan end)
			go func() { began <- nil; r.SubmitAdds("number", "adds", a) }()
			<-began
			done, _ := a.Done.(end)
			return a, <-done
		}
		_, err := run(row.bad)
		if row.fails {
			if failure.OutcomeOf(err) != row.whole {
				t.Errorf("%s: %v", name, err)
			}
			a, err := run(1)
			if values, failed, broken := resultOf(a); err != nil || broken != nil || len(failed) > 0 || !slices.Equal(values, []int64{1, 1, 1, 2}) {
				t.Errorf("%s, the repeat: %v, %v, %v", name, values, failed, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.Crash(r.shardOf("{x}"))
		a, err := run(1) // the first answer again
		values, failed, broken := resultOf(a)
		if err != nil || broken != nil || !slices.Equal(values, row.values) || len(failed) != len(row.failed) {
			t.Errorf("%s: %v, %v, %v", name, values, failed, err)
		}
		for _, i := range row.failed {
			if failed[i] != row.reason {
				t.Errorf("%s, item %d: %v", name, i, failed[i])
			}
		}
	}
	r := newRig(t, newMemory(), withBlob)
	a := r.addsOf(actors.Session{}, "{x}a", "{x}b")
	if err := <-r.beginAdds("blob", a); err != nil {
		t.Fatal(err)
	}
	if _, failed, err := resultOf(a); err != nil || len(failed) != 2 || failed[0] != failure.UnknownMethod {
		t.Errorf("no numbers: %v, %v", failed, err)
	}
}

// TestAddsToWhatDoesNotDecode are refused by themselves.
func TestAddsToWhatDoesNotDecode(t *testing.T) {
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
		values, failed, err := r.addAll(r.addsOf(actors.Session{}, "{x}bad", "{x}good", "{x}worse", "{x}fine"))
		if err != nil || !slices.Equal(values, []int64{0, n + 1, 0, n + 1}) || len(failed) != 2 || failed[0] != failure.Internal || failed[2] != failure.Internal {
			t.Errorf("got %v, %v, %v", values, failed, err)
		}
	}
}

// TestAddsOfAStoreThatCannotBeRead fail as a whole, as not done.
func TestAddsOfAStoreThatCannotBeRead(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	store.set(func(f *faultStore) { f.read = func(uint32) error { return errBroken } })
	for range 3 {
		if _, _, err := r.addAll(r.addsOf(actors.Session{}, "{x}a", "{x}b")); !errors.Is(err, failure.StoreUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	store.set(func(f *faultStore) { f.read = nil })
	if values, _, err := r.addAll(r.addsOf(actors.Session{}, "{x}a", "{x}b")); err != nil || !slices.Equal(values, []int64{1, 1}) {
		t.Errorf("got %v, %v", values, err)
	}
}

func BenchmarkAdds(b *testing.B) {
	r := newRig(b, newMemory())
	in := actors.Session{ID: r.mustOpen(b, "{x}")}
	a := r.addsOf(in, "{x}a", "{x}b", "{x}c", "{x}d")
	a.Memo = new(handles.Memo)
	a.Result = make([]byte, 0, 64)
	done, _ := a.Done.(end)
	b.ReportAllocs()
	for range b.N {
		a.Session.Settled, a.Session.Number = a.Session.Number, a.Session.Number+1
		r.SubmitAdds("counter", "adds", a)
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}
