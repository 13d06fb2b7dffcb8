package actors_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
)

// TestResidentLimitUnderLoad: many callers that use new keys only do not carry
// the memory beyond the limit and what is in flight.
func TestResidentLimitUnderLoad(t *testing.T) {
	t.Parallel()
	const limit, callers, each = 64 * 10, 512, 40
	store := newFaultStore()
	store.began = make(chan struct{}, 1_000_000)
	r := newRig(t, store, func(c *actors.Config) { c.ResidentLimit = limit })
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				if _, err := r.counter("new:"+strconv.Itoa(caller*each+i)).Add(context.Background(), 1); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for shard := range r.shards { // lets each shard evict once more
		r.Barrier(shard)
		r.Barrier(shard)
	}
	if n := r.Resident(); n > 2*limit {
		t.Errorf("%d grains are resident, the limit is %d", n, limit)
	}
}

// TestTimersThatWereCutDuringASweep are swept too.
func TestTimersThatWereCutDuringASweep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFaultStore()
		store.began = make(chan struct{}, 100_000)
		scanned, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		store.scan = func(shard uint32) {
			if shard == 0 {
				once.Do(func() {
					close(scanned)
					<-goOn
				})
			}
		}
		r := newRig(t, store)
		<-scanned // the first sweep has looked, and found nothing
		var keys []string
		for i := 0; len(keys) < 20; i++ {
			if key := "timed:" + strconv.Itoa(i); r.shardOf(key) == 0 {
				keys = append(keys, key)
			}
		}
		for _, key := range keys {
			if _, err := r.counter(key).Add(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			if _, err := r.counter(key).Expire(t.Context(), 5*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		close(goOn)
		time.Sleep(7 * time.Second) //nolint:forbidigo // in a bubble
		r.Barrier(0)
		if n := r.records(t, keys[0]); n != 0 {
			t.Errorf("%d records of expired counters are left", n)
		}
		r.stopInBubble(t)
	})
}

// TestManyKeptAnswersRunOut: they go in commits of a bounded size.
func TestManyKeptAnswersRunOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFaultStore()
		store.began = make(chan struct{}, 1_000_000)
		var largest atomic.Int64
		store.verdict = func(b actors.Batch) actors.Status {
			bytes := 0
			for _, rec := range b.Records {
				bytes += len(rec.Key) + len(rec.Value)
			}
			largest.Store(max(largest.Load(), int64(bytes)))
			return actors.Done
		}
		r := newRig(t, store)
		id := string(make([]byte, 120))
		for k := range 4 {
			for i := range 2000 {
				key := "{same}" + strconv.Itoa(k)
				if _, err := r.counter(key).Once(id+strconv.Itoa(i)).Add(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
			}
		}
		largest.Store(0)
		time.Sleep(25 * time.Hour) //nolint:forbidigo // in a bubble
		r.Barrier(r.shardOf("{same}"))
		if n := r.records(t, "{same}"); n != 4 {
			t.Errorf("%d records are left, want the 4 states", n)
		}
		if n := largest.Load(); n > 1<<20 {
			t.Errorf("a commit of %d bytes", n)
		}
		r.stopInBubble(t)
	})
}

// TestGoexitBetweenParkedCalls: the calls behind it are answered, and as many
// of them as there are workers leave the loads alone.
func TestGoexitBetweenParkedCalls(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withProbe(probe{}))
	for round := range 20 {
		key := "cold:" + strconv.Itoa(round)
		hold := make(chan struct{})
		store.set(func(f *faultStore) {
			f.read = func(uint32) error {
				<-hold
				return nil
			}
		})
		var got []<-chan answer
		for i, command := range []string{"add", "goexit", "add"} {
			got = append(got, begin(func() (int64, error) {
				n, err := r.probe(context.Background(), key, command, "")
				return int64(n), err
			}))
			await(r, key, i+1)
			awaitIdle(r, key)
		}
		store.set(func(f *faultStore) { f.read = nil })
		close(hold)
		for i, want := range []answer{{1, nil}, {}, {2, nil}} {
			a := <-got[i]
			if i == 1 {
				if !errors.Is(a.err, failure.HandlerFailed) {
					t.Errorf("goexit: %+v", a)
				}
			} else if a != want {
				t.Errorf("call %d: %+v, want %+v", i, a, want)
			}
		}
	}
}

// badTime is a kind whose due turn panics.
type badTime struct{}

func (badTime) Name() string      { return "badtime" }
func (badTime) New() actors.State { return &badTimeState{} }

type badTimeState struct{ due int64 }

func (s *badTimeState) Apply(turn *actors.Turn, command, _ proto.Message) (bool, error) {
	if command == nil {
		panic("the due turn panics") //nolint:forbidigo // the point of it
	}
	s.due = turn.Now() + 1000
	return true, nil
}

func (s *badTimeState) Assign(from actors.State) {
	if other, ok := from.(*badTimeState); ok {
		*s = *other
	}
}
func (s *badTimeState) Due() int64 { return s.due }
func (s *badTimeState) Append(b []byte) ([]byte, error) {
	return append(b, strconv.FormatInt(s.due, 10)...), nil
}

func (s *badTimeState) Decode(b []byte) (err error) {
	s.due, err = strconv.ParseInt(string(b), 10, 64)
	return err
}

// TestPanickingDueTurn fails the calls on its own grain, and nothing else.
func TestPanickingDueTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := newFaultStore()
		store.began = make(chan struct{}, 100_000)
		r := newRig(t, store, func(c *actors.Config) { c.Kinds = append(c.Kinds, badTime{}) })
		call := func() error {
			_, err := r.Runtime.Invoke(t.Context(), r.shardOf("a"), &actors.Operation{
				Kind: "badtime", Key: "a", Method: "m", Command: wrapperspb.String(""), Reply: wrapperspb.String(""),
			})
			return err
		}
		if err := call(); err != nil {
			t.Fatal(err)
		}
		epoch := r.epoch("a")
		time.Sleep(10 * time.Second) //nolint:forbidigo // in a bubble
		if err := call(); !errors.Is(err, failure.HandlerFailed) {
			t.Errorf("got %v", err)
		}
		if got, err := r.counter("a").Add(t.Context(), 1); got != 1 || err != nil {
			t.Errorf("another grain of the shard: %d, %v", got, err)
		}
		if r.epoch("a") != epoch {
			t.Error("the shard was restarted")
		}
		r.stopInBubble(t)
	})
}

// TestBadRecordFailsItsGrainAlone, also where it is read together with others.
func TestBadRecordFailsItsGrainAlone(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	first := newRig(t, store)
	if _, err := first.counter("{x}good").Add(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	epoch := first.epoch("{x}good")
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	verdicts := store.Commit(t.Context(), []actors.Batch{{Shard: first.shardOf("{x}"), Epoch: epoch, Records: []actors.Record{
		{Key: actors.StateKey("counter", "{x}bad"), Value: []byte{0xff}},
		{Key: actors.OnceKey("counter", "{x}worse", "id"), Value: []byte{0xff}},
	}}})
	if verdicts[0].Status != actors.Done {
		t.Fatal(verdicts)
	}
	r := newRig(t, store)
	hold := make(chan struct{})
	var held sync.Once
	store.set(func(f *faultStore) {
		f.read = func(uint32) error {
			held.Do(func() { <-hold })
			return nil
		}
	})
	blocker := begin(get(r, "{x}blocker")) // the rest is read together
	await(r, "{x}", 1)
	bad := begin(get(r, "{x}bad"))
	worse := begin(func() (int64, error) { return r.counter("{x}worse").Once("id").Add(context.Background(), 1) })
	good := begin(get(r, "{x}good"))
	await(r, "{x}", 4)
	close(hold)
	<-blocker
	for name, c := range map[string]<-chan answer{"bad": bad, "worse": worse} {
		var e *failure.Error
		if got := <-c; !errors.As(got.err, &e) || e.Reason != failure.Internal || e.Retryable() {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := <-good; got != (answer{7, nil}) {
		t.Errorf("good: %+v", got)
	}
}

// TestStopWhileRaising does not wait for a store that gives no epoch.
func TestStopWhileRaising(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	store.raise = func() error { return errBroken }
	rt, err := actors.New(actors.Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	claimed := make(chan error, 1)
	go func() { claimed <- rt.Activate(ctx, []actors.Claim{{Shard: 1, Epoch: 1}}) }()
	for rt.Serving(1) || !rt.Raising(1) {
		runtime.Gosched()
	}
	cancel()
	if err := <-claimed; !errors.Is(err, context.Canceled) {
		t.Errorf("activate: %v", err)
	}
	if err := rt.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestRaisingAgainIsNotServing: a shard that is owned, and whose epoch is being
// raised again, does not count as served.
func TestRaisingAgainIsNotServing(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	shard := r.shardOf("a")
	if _, err := r.counter("a").Add(t.Context(), 1); err != nil || !r.Serving(shard) {
		t.Fatal(err, r.Serving(shard))
	}
	store.set(func(f *faultStore) { f.raise = func() error { return errBroken } })
	r.Crash(shard)
	for !r.Raising(shard) {
		runtime.Gosched()
	}
	if _, owned := r.Epoch(shard); !owned || r.Serving(shard) {
		t.Errorf("owned %v, serving %v", owned, r.Serving(shard))
	}
	store.set(func(f *faultStore) { f.raise = nil })
	if _, err := r.counter("a").Add(t.Context(), 1); err != nil || !r.Serving(shard) {
		t.Errorf("afterwards: %v, serving %v", err, r.Serving(shard))
	}
}
