package actors_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	storev1 "github.com/quern-io/quern/messages/quern/store/v1"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func under(lock string, token uint64) handles.Guard { return handles.Guard{Lock: lock, Token: token} }

// TestGuards goes through what can be said of tokens. In the second round the
// store's memory is cut down to what is durable before each step.
func TestGuards(t *testing.T) {
	t.Parallel()
	three := int64(3)
	for _, crash := range []bool{false, true} {
		r := newRig(t, newFaultStore(), withMaps)
		k := r.counter("k")
		for i, step := range []struct {
			what  string
			do    func() error
			fails error
		}{
			{"unguarded", func() error { return second(k.Add(t.Context(), 1)) }, nil},
			{"the first token", func() error { return second(k.Guarded(under("l", 5)).Add(t.Context(), 1)) }, nil},
			{"the same", func() error { return second(k.Guarded(under("l", 5)).Set(t.Context(), 1)) }, nil},
			{"a lower one", func() error { return second(k.Guarded(under("l", 4)).Add(t.Context(), 1)) }, failure.FencedToken},
			{"another lock", func() error { return second(k.Guarded(under("m", 1)).GetAndSet(t.Context(), 1)) }, nil},
			{"unguarded again", func() error { return second(k.Add(t.Context(), 1)) }, nil},
			{"a higher one that the handler refuses", func() error {
				_, err := k.Guarded(under("l", 9)).AddBounded(t.Context(), 10, handles.AddOptions{Max: &three})
				return err
			}, failure.Limit},
			{"is not noted", func() error { return second(k.Guarded(under("l", 6)).Reset(t.Context())) }, nil},
			{"survives a reset", func() error { return second(k.Guarded(under("l", 5)).Add(t.Context(), 1)) }, failure.FencedToken},
			{"one that changes nothing", func() error { return second(k.Guarded(under("l", 7)).Add(t.Context(), 0)) }, nil},
			{"is noted", func() error { return second(k.Guarded(under("l", 6)).Expire(t.Context(), time.Hour)) }, failure.FencedToken},
			{"the highest of all", func() error { return second(k.Guarded(under("l", 1<<64-1)).Add(t.Context(), 1)) }, nil},
			{"keeps others out", func() error { return second(k.Guarded(under("l", 1<<64-2)).Add(t.Context(), 1)) }, failure.FencedToken},
			{"another key", func() error { return second(r.counter("j").Guarded(under("l", 1)).Add(t.Context(), 1)) }, nil},
			{"another kind", func() error {
				_, err := r.entry("k").Guarded(under("l", 3)).Put(t.Context(), nil, handles.PutOptions{})
				return err
			}, nil},
			{"an entry that is gone", func() error { return second(r.entry("k").Guarded(under("l", 4)).Delete(t.Context())) }, nil},
			{"remembers", func() error {
				_, _, err := r.entry("k").Guarded(under("l", 3)).CompareAndSwap(t.Context(), 0, nil)
				return err
			}, failure.FencedToken},
			{"no lock", func() error { return second(k.Guarded(under("", 1)).Add(t.Context(), 1)) }, failure.InvalidField},
			{"no token", func() error { return second(k.Guarded(under("l", 0)).Add(t.Context(), 1)) }, failure.InvalidField},
			{"a lock that is no key", func() error { return second(k.Guarded(under("\xff", 1)).Add(t.Context(), 1)) }, failure.InvalidField},
		} {
			if crash {
				r.Crash(r.shardOf("k"))
			}
			if err := step.do(); !errors.Is(err, step.fails) || failure.OutcomeOf(err) != failure.NotDone {
				t.Errorf("crash %v, step %d, %s: %v, want %v", crash, i, step.what, err, step.fails)
			}
		}
		if got, err := k.Get(t.Context()); got != 1 || err != nil {
			t.Errorf("crash %v: %d, %v at the end", crash, got, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestGuardOfARepeat: it gets the first answer, although the lock has been given
// on; another guard makes another request.
func TestGuardOfARepeat(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore())
	k, id := r.counter("k"), r.mustOpen(t, "k")
	numbered := func(number, token uint64) (int64, error) {
		var reply quernv1.CounterServiceAddResponse
		_, err := r.Runtime.Invoke(t.Context(), r.shardOf("k"), &actors.Operation{
			Kind: "counter", Key: "k", Session: actors.Session{ID: id, Number: number},
			Guard: &actors.Guard{Lock: "l", Token: token}, Command: plus(1), Reply: &reply,
		})
		return reply.GetValue(), err
	}
	for range 3 {
		if got, err := k.Once("a").Guarded(under("l", 5)).Add(t.Context(), 1); got != 1 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
		if got, err := numbered(1, 6); got != 2 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
		if _, err := numbered(2, 5); !errors.Is(err, failure.FencedToken) {
			t.Error(err)
		}
		if err := second(k.Once("b").Guarded(under("l", 5)).Add(t.Context(), 1)); !errors.Is(err, failure.FencedToken) {
			t.Error(err)
		}
		if err := second(k.Once("a").Guarded(under("l", 6)).Add(t.Context(), 1)); !errors.Is(err, failure.IDReused) {
			t.Error(err)
		}
		if err := second(k.Once("a").Add(t.Context(), 1)); !errors.Is(err, failure.IDReused) {
			t.Error(err)
		}
		r.Crash(r.shardOf("k"))
	}
}

// TestGuardAtTheGate: a refusal tells of a token that is durable, and a commit
// that was refused leaves none behind.
func TestGuardAtTheGate(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	k := r.counter("k")
	if err := second(k.Guarded(under("l", 1)).Add(t.Context(), 1)); err != nil {
		t.Fatal(err)
	}
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) {
		f.hold, f.verdict = hold, func(actors.Batch) actors.Status { return actors.Refused }
	})
	write := func(token uint64) func() (int64, error) {
		return func() (int64, error) { return k.Guarded(under("l", token)).Add(t.Context(), 0) }
	}
	higher := begin(write(9))
	<-store.began
	lower := begin(write(5))
	await(r, "k", 2)
	unanswered(t, "the higher token", higher)
	unanswered(t, "the refusal", lower)
	store.set(func(f *faultStore) { f.hold, f.verdict = nil, nil })
	close(hold)
	if got := <-higher; !errors.Is(got.err, failure.Overloaded) {
		t.Errorf("%+v", got)
	}
	if got := <-lower; got != (answer{1, nil}) {
		t.Errorf("the lower token, where the higher one was undone: %+v", got)
	}
	if err := second(write(4)()); !errors.Is(err, failure.FencedToken) {
		t.Error(err)
	}
}

// laterStore lets the shards' clocks begin later than they would.
type laterStore struct {
	actors.Store
	by atomic.Int64 // in milliseconds
}

func (s *laterStore) Raise(ctx context.Context, requests []actors.Raise) ([]actors.Raised, error) {
	all, err := s.Store.Raise(ctx, requests)
	for i := range all {
		all[i].Time = time.Now().UnixMilli() + s.by.Load()
	}
	return all, err
}

// TestGuardsOfAKeyAreBounded: the one that is unused for the longest time goes,
// if it is that for a week.
func TestGuardsOfAKeyAreBounded(t *testing.T) {
	t.Parallel()
	store := &laterStore{Store: newFaultStore()}
	r := newRig(t, store)
	write := func(lock int, token uint64) error {
		return second(r.counter("k").Guarded(under(strconv.Itoa(lock), token)).Add(t.Context(), 1))
	}
	fourDaysLater := func() {
		store.by.Add((4 * 24 * time.Hour).Milliseconds())
		r.Crash(r.shardOf("k"))
	}
	for lock := range actors.GuardLimit {
		if err := write(lock, 7); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(actors.GuardLimit, 7); !errors.Is(err, failure.Overloaded) {
		t.Errorf("one too many: %v", err)
	}
	fourDaysLater()
	for lock := range actors.GuardLimit {
		if lock == 3 {
			continue
		}
		if err := write(lock, 7); err != nil {
			t.Fatal(err)
		}
	}
	if err := write(actors.GuardLimit, 7); !errors.Is(err, failure.Overloaded) {
		t.Errorf("all were used within a week: %v", err)
	}
	fourDaysLater()
	if err := write(3, 6); !errors.Is(err, failure.FencedToken) {
		t.Errorf("before it gives way: %v", err)
	}
	if err := write(actors.GuardLimit, 7); err != nil {
		t.Errorf("the oldest is old: %v", err)
	}
	if err := write(actors.GuardLimit+1, 7); !errors.Is(err, failure.Overloaded) {
		t.Errorf("no other is: %v", err)
	}
	for lock := range actors.GuardLimit + 1 {
		if err := write(lock, 6); lock != 3 && !errors.Is(err, failure.FencedToken) {
			t.Errorf("lock %d: %v", lock, err)
		}
	}
}

// TestGuardsAgainstTwin compares random writes with a table of what is the
// highest token; evictions, crashes and refused commits come in between.
func TestGuardsAgainstTwin(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		store := newFaultStore()
		r := newRig(t, store, func(c *actors.Config) { c.ResidentLimit = 64 })
		highest, values := map[string]uint64{}, map[string]int64{}
		for step := range 400 {
			key, lock, token := "k"+strconv.Itoa(rnd.IntN(3)), strconv.Itoa(rnd.IntN(3)), 1+rnd.Uint64N(20)
			fails := rnd.IntN(8) == 0
			if fails {
				store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return actors.Refused } })
			}
			got, err := r.counter(key).Guarded(under(lock, token)).Add(t.Context(), 1)
			store.set(func(f *faultStore) { f.verdict = nil })
			mark := key + "/" + lock
			switch {
			case token < highest[mark]:
				if !errors.Is(err, failure.FencedToken) {
					t.Fatalf("seed %d, step %d: token %d under %d: %d, %v", seed, step, token, highest[mark], got, err)
				}
			case fails:
				if !errors.Is(err, failure.Overloaded) {
					t.Fatalf("seed %d, step %d: %d, %v", seed, step, got, err)
				}
			default:
				highest[mark] = token
				if values[key]++; got != values[key] || err != nil {
					t.Fatalf("seed %d, step %d: %d, %v, want %d", seed, step, got, err, values[key])
				}
			}
			switch rnd.IntN(20) {
			case 0:
				r.Crash(r.shardOf(key))
			case 1:
				for i := range 8 {
					_, _ = r.counter("{" + key + "}" + strconv.Itoa(i)).Get(t.Context())
				}
			}
		}
	}
}

func TestGuardOfAColumn(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore())
	run := func(token uint64) *column {
		c, done := adds("{x}a", "{x}b", "{x}a"), make(end, 1)
		r.SubmitColumn(r.shardOf("{x}"), &actors.Operation{Kind: c.kind, Method: "column", Guard: &actors.Guard{Lock: "l", Token: token}}, c, time.Time{}, done)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		return c
	}
	run(5)
	r.Crash(r.shardOf("{x}"))
	if err := second(r.counter("{x}b").Guarded(under("l", 8)).Add(t.Context(), 1)); err != nil {
		t.Fatal(err)
	}
	r.Crash(r.shardOf("{x}"))
	if c := run(7); c.errs[0] != nil || !errors.Is(c.errs[1], failure.FencedToken) || c.errs[2] != nil {
		t.Errorf("%v", c.errs)
	}
	if c := run(6); !errors.Is(c.errs[0], failure.FencedToken) {
		t.Errorf("%v", c.errs)
	}
}

// TestGuardsAreKeptApart: they are in a record of their own, which the writes
// without a guard neither read nor write.
func TestGuardsAreKeptApart(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore())
	before := r.records(t, "k")
	for _, step := range []struct {
		do      func() error
		records int
	}{
		{func() error { return second(r.counter("k").Add(t.Context(), 1)) }, 1},
		{func() error { return second(r.counter("k").Guarded(under("l", 1)).Add(t.Context(), 1)) }, 2},
		{func() error { return second(r.counter("k").Guarded(under("m", 1)).Add(t.Context(), 1)) }, 2},
		{func() error { return second(r.counter("k").Reset(t.Context())) }, 1},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if n := r.records(t, "k") - before; n != step.records {
			t.Errorf("%d records, want %d", n, step.records)
		}
	}
}

// FuzzGuardRecord: what decodes is encoded again as package proto would, and
// comes back.
func FuzzGuardRecord(f *testing.F) {
	for _, r := range []*storev1.GuardRecord{
		{},
		{Marks: []*storev1.GuardMark{{Lock: "l", Token: 1}}},
		{Marks: []*storev1.GuardMark{{Lock: "l", Token: 1<<64 - 1, UsedAtMs: 1 << 40}, {Lock: "m", Token: 2, UsedAtMs: 3_600_000}}},
		{Marks: []*storev1.GuardMark{{Lock: "l", Token: 1}, {Lock: "l", Token: 2}}},
		{Marks: []*storev1.GuardMark{{}}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := actors.RecodeGuards(b)
		if err != nil {
			return
		}
		var r storev1.GuardRecord
		if err := proto.Unmarshal(once, &r); err != nil {
			t.Fatal(err)
		}
		if plain, err := (proto.MarshalOptions{Deterministic: true}).Marshal(&r); err != nil || !bytes.Equal(plain, once) {
			t.Fatalf("%x is %x by package proto, %v", once, plain, err)
		}
		if twice, err := actors.RecodeGuards(once); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%x came back as %x, %v", once, twice, err)
		}
	})
}
