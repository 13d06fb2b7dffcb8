package actors_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/storage/embedded"
)

// open opens a session at a key's shard.
func (r *rig) open(key string) (id string, err error) {
	opened := make(chan struct{})
	r.OpenSession(r.shardOf(key), func(got string, _ uint64, e error) {
		id, err = got, e
		close(opened)
	})
	<-opened
	return id, err
}

func (r *rig) mustOpen(tb testing.TB, key string) string {
	tb.Helper()
	id, err := r.open(key)
	if err != nil || len(id) != 16 {
		tb.Fatalf("session %q, %v", id, err)
	}
	return id
}

// shut closes a session.
func (r *rig) shut(key, id string) (err error) {
	closed := make(chan struct{})
	r.CloseSession(r.shardOf(key), id, func(_ uint64, e error) {
		err = e
		close(closed)
	})
	<-closed
	return err
}

// numbered adds to a counter, under a number of a session.
func (r *rig) numbered(key string, in actors.Session, request *quernv1.CounterServiceAddRequest) (int64, error) {
	var reply quernv1.CounterServiceAddResponse
	_, err := r.Runtime.Invoke(context.Background(), r.shardOf(key), &actors.Operation{
		Kind: "counter", Key: key, Method: "Add", Session: in, Command: request, Reply: &reply,
	})
	if err != nil {
		return 0, err
	}
	return reply.GetValue(), nil
}

func plus(delta int64) *quernv1.CounterServiceAddRequest {
	return &quernv1.CounterServiceAddRequest{Delta: &delta}
}

func atMost(delta, limit int64) *quernv1.CounterServiceAddRequest {
	return &quernv1.CounterServiceAddRequest{Delta: &delta, Max: &limit}
}

// TestNumbersOfASession goes through all that can be said of a number. The
// store's memory is cut down to what is durable before each step of the second
// round.
func TestNumbersOfASession(t *testing.T) {
	t.Parallel()
	for _, crash := range []bool{false, true} {
		r := newRig(t, newFaultStore())
		id := r.mustOpen(t, "a")
		for i, step := range []struct {
			what            string
			number, settled uint64
			add             *quernv1.CounterServiceAddRequest
			want            int64
			reason          error
		}{
			{"the first", 1, 0, plus(10), 10, nil},
			{"its repeat", 1, 0, plus(10), 10, nil},
			{"out of order", 5, 0, plus(1), 11, nil},
			{"a lower one after it", 3, 0, plus(1), 12, nil},
			{"the first again", 1, 0, plus(10), 10, nil},
			{"refused by the handler", 2, 0, atMost(100, 20), 0, failure.Limit},
			{"allowed by now", 4, 0, plus(-112), -100, nil},
			{"but the refusal is kept", 2, 0, atMost(100, 20), 0, failure.Limit},
			{"settles what is below", 6, 3, plus(1), -99, nil},
			{"a settled number", 3, 0, plus(1), 0, failure.SessionExpired},
			{"not settled", 5, 3, plus(1), 11, nil},
			{"settles itself", 7, 7, plus(1), 0, failure.SessionExpired},
			{"the end of the window", 7 + actors.SessionWindow, 7, plus(1), -98, nil},
			{"its repeat", 7 + actors.SessionWindow, 7, plus(1), -98, nil},
			{"beyond the window", 8 + actors.SessionWindow, 7, plus(1), 0, failure.Overloaded},
			{"after the window moved", 8 + actors.SessionWindow, 8, plus(1), -97, nil},
			{"settled by a jump", 9, 1 << 40, plus(1), 0, failure.SessionExpired},
			{"far up", 1<<40 + 1, 1 << 40, plus(1), -96, nil},
			{"the last number of all", 1<<64 - 1, 1<<64 - 2, plus(1), -95, nil},
			{"its repeat", 1<<64 - 1, 1<<64 - 2, plus(1), -95, nil},
			{"all settled", 1<<64 - 1, 1<<64 - 1, plus(1), 0, failure.SessionExpired},
		} {
			if crash {
				r.Crash(r.shardOf("a"))
			}
			got, err := r.numbered("a", actors.Session{ID: id, Number: step.number, Settled: step.settled}, step.add)
			if got != step.want || !errors.Is(err, step.reason) {
				t.Errorf("crash %v, step %d, %s: got %d, %v; want %d, %v", crash, i, step.what, got, err, step.want, step.reason)
			}
			if err != nil && failure.OutcomeOf(err) != failure.NotDone {
				t.Errorf("step %d, %s: %v", i, step.what, err)
			}
		}
		if got, err := r.counter("a").Get(t.Context()); got != -95 || err != nil {
			t.Errorf("crash %v: %d, %v at the end", crash, got, err)
		}
	}
}

func TestBadSessionsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore())
	id := r.mustOpen(t, "a")
	for name, row := range map[string]struct {
		op     actors.Operation
		reason failure.Reason
	}{
		"no such session": {actors.Operation{Session: actors.Session{ID: strings.Repeat("x", 16), Number: 1}}, failure.SessionExpired},
		"short id":        {actors.Operation{Session: actors.Session{ID: id[:15], Number: 1}}, failure.InvalidField},
		"long id":         {actors.Operation{Session: actors.Session{ID: id + "x", Number: 1}}, failure.InvalidField},
		"number 0":        {actors.Operation{Session: actors.Session{ID: id}}, failure.InvalidField},
		"both ways":       {actors.Operation{Session: actors.Session{ID: id, Number: 1}, IdempotencyKey: "x"}, failure.InvalidField},
		"its own kind":    {actors.Operation{Kind: actors.SessionKindName, Key: "a"}, failure.UnknownKind},
	} {
		if row.op.Kind == "" {
			row.op.Kind, row.op.Key = "counter", "a"
		}
		row.op.Command, row.op.Reply = plus(1), &quernv1.CounterServiceAddResponse{}
		if _, err := r.Runtime.Invoke(t.Context(), r.shardOf("a"), &row.op); !errors.Is(err, row.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := r.counter("a").Get(t.Context()); got != 0 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	if err := r.shut("a", "short"); !errors.Is(err, failure.InvalidField) {
		t.Errorf("close: %v", err)
	}
	r.OpenSession(64, func(_ string, _ uint64, err error) {
		if !errors.Is(err, failure.InvalidField) {
			t.Errorf("open at a shard that there is not: %v", err)
		}
	})
}

func TestClosedSession(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore())
	before := r.records(t, "a")
	id := r.mustOpen(t, "a")
	in := actors.Session{ID: id, Number: 1}
	if got, err := r.numbered("a", in, plus(1)); got != 1 || err != nil {
		t.Fatal(got, err)
	}
	for range 2 {
		if err := r.shut("a", id); err != nil {
			t.Errorf("close: %v", err)
		}
		if got, err := r.numbered("a", in, plus(1)); !errors.Is(err, failure.SessionExpired) {
			t.Errorf("a late repeat: %d, %v", got, err)
		}
		r.Crash(r.shardOf("a"))
	}
	if n := r.records(t, "a") - before; n != 1 {
		t.Errorf("%d records are left, want the counter's", n)
	}
	if err := r.shut("a", strings.Repeat("x", 16)); err != nil {
		t.Errorf("close of what is not there: %v", err)
	}
}

// TestSessionOverRestarts: a lost reply is answered on repeat with the first
// result, a refusal too, on the embedded store.
func TestSessionOverRestarts(t *testing.T) {
	t.Parallel()
	disk := vfs.NewMem()
	var id string
	limit := atMost(10, 3)
	long := "{a}" + strings.Repeat("x", 400) // makes a refusal that is not small
	for life := range 3 {
		store, err := embedded.Open(t.Context(), embedded.Options{Dir: "data", Shards: 4, FS: disk, MinFreeBytes: -1})
		if err != nil {
			t.Fatal(err)
		}
		r := newRig(t, store)
		if life == 0 {
			id = r.mustOpen(t, "{a}")
		}
		for range 2 {
			if got, err := r.numbered("{a}", actors.Session{ID: id, Number: 1}, plus(5)); got != 5 || err != nil {
				t.Errorf("life %d: %d, %v; want 5", life, got, err)
			}
			_, err := r.numbered(long, actors.Session{ID: id, Number: 2}, limit)
			if e, ok := errors.AsType[*failure.Error](err); !ok || e.Reason != failure.Limit || e.Message != "0 +10 would pass the bounds -9223372036854775808 to 3" {
				t.Errorf("life %d: %v", life, err)
			}
		}
		if got, err := r.counter(long).Add(t.Context(), -1); got != -int64(life)-1 || err != nil {
			t.Errorf("life %d: %d, %v", life, got, err)
		}
		if err := errors.Join(r.Stop(t.Context()), store.Close(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRepeatJoinsTheRunningOne: both get the first one's answer, when that is
// durable.
func TestRepeatJoinsTheRunningOne(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	in := actors.Session{ID: r.mustOpen(t, "a"), Number: 1}
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	once := func() (int64, error) { return r.numbered("a", in, plus(10)) }
	first := begin(once)
	<-store.began
	second := begin(once)
	await(r, "a", 2)
	unanswered(t, "the repeat", second)
	close(hold)
	for _, c := range []<-chan answer{first, second} {
		if got := <-c; got != (answer{10, nil}) {
			t.Errorf("got %+v", got)
		}
	}
	if got, err := r.counter("a").Get(t.Context()); got != 10 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

// TestRepeatAfterACommitThatFailed: whatever became of the first, the repeat
// has it counted once.
func TestRepeatAfterACommitThatFailed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		status  actors.Status
		landed  bool
		outcome failure.Outcome
	}{
		{"refused", actors.Refused, false, failure.NotDone},
		{"unclear, landed", actors.Unclear, true, failure.Unknown},
		{"unclear, lost", actors.Unclear, false, failure.Unknown},
	} {
		store := newFaultStore()
		r := newRig(t, store)
		in := actors.Session{ID: r.mustOpen(t, "a"), Number: 1}
		drainSignals(store.began)
		hold := make(chan struct{})
		store.set(func(f *faultStore) {
			f.hold = hold
			f.verdict = func(actors.Batch) actors.Status { return row.status }
			f.land = func(actors.Batch, actors.Status) bool { return row.landed }
		})
		first := begin(func() (int64, error) { return r.numbered("a", in, plus(10)) })
		<-store.began
		joined := begin(func() (int64, error) { return r.numbered("a", in, plus(10)) })
		await(r, "a", 2)
		store.set(func(f *faultStore) { f.hold = nil })
		close(hold)
		for _, c := range []<-chan answer{first, joined} {
			if got := <-c; got.err == nil || failure.OutcomeOf(got.err) != row.outcome {
				t.Errorf("%s: %+v", row.name, got)
			}
		}
		store.set(func(f *faultStore) { f.verdict = nil })
		for range 2 {
			if got, err := r.numbered("a", in, plus(10)); got != 10 || err != nil {
				t.Errorf("%s: the repeat got %d, %v", row.name, got, err)
			}
		}
	}
}

func TestSessionsExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFaultStore()
		store.began = make(chan struct{}, 100_000)
		var moves atomic.Int64
		store.verdict = func(b actors.Batch) actors.Status {
			for _, rec := range b.Records {
				if rec.Key[0] == 't' && !rec.Delete {
					moves.Add(1)
				}
			}
			return actors.Done
		}
		r := newRig(t, store)
		unused, used := r.mustOpen(t, "a"), r.mustOpen(t, "a")
		number := uint64(0)
		use := func(id string) error {
			number++
			_, err := r.numbered("a", actors.Session{ID: id, Number: number}, plus(1))
			return err
		}
		for range 60 {
			if err := use(used); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
		}
		if n := moves.Load(); n > 2+13 {
			t.Errorf("the sessions' timers moved %d times within an hour", n)
		}
		if err := use(unused); !errors.Is(err, failure.SessionExpired) {
			t.Errorf("one that was not used: %v", err)
		}
		time.Sleep(58 * time.Minute) //nolint:forbidigo // in a bubble
		r.Crash(r.shardOf("a"))
		if _, err := r.numbered("a", actors.Session{ID: used, Number: 1}, plus(1)); err != nil {
			t.Errorf("within an hour of its last use: %v", err)
		}
		time.Sleep(time.Hour + 6*time.Minute) //nolint:forbidigo // in a bubble
		r.Barrier(r.shardOf("a"))
		if n := r.records(t, "a"); n != 1 {
			t.Errorf("%d records are left, want the counter's", n)
		}
		if err := use(used); !errors.Is(err, failure.SessionExpired) {
			t.Errorf("after it: %v", err)
		}
		if got, err := r.counter("a").Get(t.Context()); got != 60 || err != nil {
			t.Errorf("%d, %v; want 60", got, err)
		}
		r.stopInBubble(t)
	})
}

// TestSessionsOfAShardAreBounded, also over a restart, and as some end.
func TestSessionsOfAShardAreBounded(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	first := newRig(t, store)
	const key = "any"
	ids := make([]string, actors.SessionLimit)
	var all sync.WaitGroup
	for i := range ids {
		all.Add(1)
		first.OpenSession(first.shardOf(key), func(id string, _ uint64, err error) {
			defer all.Done()
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	all.Wait()
	full := func(r *rig) {
		t.Helper()
		_, err := r.open(key)
		if e, ok := errors.AsType[*failure.Error](err); !ok || e.Reason != failure.Overloaded || e.RetryAfter == 0 {
			t.Errorf("one more: %v", err)
		}
	}
	full(first)
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := newRig(t, store)
	for _, id := range ids[:2] { // before the sessions are counted, and after it
		if err := second.shut(key, id); err != nil {
			t.Error(err)
		}
		if _, err := second.open(key); err != nil {
			t.Errorf("in the place of one that was closed: %v", err)
		}
		full(second)
	}
	// A close that is taken back counts again.
	store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return actors.Refused } })
	if err := second.shut(key, ids[2]); !errors.Is(err, failure.Overloaded) {
		t.Errorf("a close that is refused: %v", err)
	}
	store.set(func(f *faultStore) { f.verdict = nil })
	full(second)
}

// TestSessionClosedWhileTheyAreCounted does not count.
func TestSessionClosedWhileTheyAreCounted(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	id := r.mustOpen(t, "a")
	r.Crash(r.shardOf("a"))
	scanned, goOn := make(chan struct{}, 100), make(chan struct{})
	store.set(func(f *faultStore) {
		f.scan = func(uint32) {
			scanned <- struct{}{}
			<-goOn
		}
	})
	opened := begin(func() (int64, error) {
		_, err := r.open("a")
		return 0, err
	})
	<-scanned
	if err := r.shut("a", id); err != nil {
		t.Error(err)
	}
	close(goOn)
	if got := <-opened; got.err != nil {
		t.Error(got.err)
	}
	if n := r.SessionsAt(r.shardOf("a")); n != 1 {
		t.Errorf("%d sessions are counted, want 1", n)
	}
}

// TestSessionsWithoutMemory: with room for one grain in a shard, operations that
// need two come to an end, and count once.
func TestSessionsWithoutMemory(t *testing.T) {
	t.Parallel()
	const clients, numbers = 16, 60
	store := newFaultStore()
	store.began = make(chan struct{}, 1_000_000)
	r := newRig(t, store, func(c *actors.Config) { c.ResidentLimit = 1 })
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			id := r.mustOpen(t, "{same}")
			for n := range uint64(numbers) {
				in := actors.Session{ID: id, Number: n + 1, Settled: n}
				key := "{same}" + strconv.Itoa(client) + ":" + strconv.Itoa(int(n%20))
				for range 2 {
					got, err := r.numbered(key, in, plus(1))
					if want := int64(n/20) + 1; got != want || err != nil {
						t.Errorf("%s: %d, %v; want %d", key, got, err, want)
						return
					}
				}
			}
		})
	}
	all.Wait()
}

// TestSessionIsEvicted, once it was not used for a while, and comes back.
func TestSessionIsEvicted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newFaultStore(), func(c *actors.Config) { c.ResidentLimit = 64 * 4 })
		in := actors.Session{ID: r.mustOpen(t, "{x}"), Number: 1}
		if got, err := r.numbered("{x}", in, plus(3)); got != 3 || err != nil {
			t.Fatal(got, err)
		}
		for range 3 {
			time.Sleep(11 * time.Second) //nolint:forbidigo // in a bubble
			for i := range 20 {
				if _, err := r.counter("{x}"+strconv.Itoa(i)).Add(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
			}
			// Each counter weighs 1, a session more.
			if n := r.Resident(); n > 5 || n != r.RingAt(r.shardOf("{x}")) {
				t.Errorf("%d are resident in %d places", n, r.RingAt(r.shardOf("{x}")))
			}
			if got, err := r.numbered("{x}", in, plus(3)); got != 3 || err != nil {
				t.Errorf("its repeat: %d, %v", got, err)
			}
		}
		r.stopInBubble(t)
	})
}

// TestSessionOfAnUnreadableStore: the operation is not done, and can be
// repeated.
func TestSessionOfAnUnreadableStore(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	in := actors.Session{ID: r.mustOpen(t, "a"), Number: 1}
	r.Crash(r.shardOf("a"))
	store.set(func(f *faultStore) { f.read = func(uint32) error { return errBroken } })
	if _, err := r.numbered("a", in, plus(1)); !errors.Is(err, failure.StoreUnavailable) {
		t.Errorf("got %v", err)
	}
	store.set(func(f *faultStore) { f.read = nil })
	if got, err := r.numbered("a", in, plus(1)); got != 1 || err != nil {
		t.Errorf("got %d, %v; want 1", got, err)
	}
}

func TestKindNamesOfTheRuntimeAreItsOwn(t *testing.T) {
	t.Parallel()
	_, err := actors.New(actors.Config{Store: newMemory(), Kinds: []actors.Kind{grains.Counter{}, renamed{grains.Counter{}, actors.SessionKindName}}})
	if err == nil {
		t.Error("a kind of the runtime's own name was taken")
	}
}

type renamed struct {
	actors.Kind
	name string
}

func (k renamed) Name() string { return k.name }
