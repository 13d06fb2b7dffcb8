package actors_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/storage/memory"
)

// odd is a kind that parks, wakes and misbehaves on command.
type odd struct{}

func (odd) Name() string      { return "odd" }
func (odd) New() actors.State { return &oddState{} }

type oddState struct {
	value string
	due   int64
}

func (s *oddState) Apply(t *actors.Turn, command, reply proto.Message) (bool, error) {
	q, ok := command.(*wrapperspb.StringValue)
	a, okay := reply.(*wrapperspb.StringValue)
	if !ok || !okay {
		runtime.Goexit() // its due turn
	}
	switch q.GetValue() {
	case "get":
		a.Value = s.value
		return false, nil
	case "refuse":
		return false, failure.New(failure.ConditionFailed, "refused")
	case "wake":
		t.Wake("w")
		s.value += "w"
	case "due":
		s.due = t.Now() + 1
	case "park":
		if t.Resumed() {
			a.Value = "resumed"
			return false, nil
		}
		s.value += "p"
		return true, t.Park("w")
	default:
		s.value = q.GetValue()
	}
	a.Value = s.value
	return true, nil
}

func (s *oddState) Cancel(*actors.Turn, proto.Message) bool {
	if s.value == "goexitp" {
		s.value = "half"
		runtime.Goexit()
	}
	s.value = strings.TrimSuffix(s.value, "p")
	return true
}

func (s *oddState) Assign(from actors.State) {
	if other, ok := from.(*oddState); ok {
		*s = *other
	}
}

func (s *oddState) Due() int64 { return s.due }

func (s *oddState) Append(b []byte) ([]byte, error) {
	if strings.HasPrefix(s.value, "bad") {
		return b, errBroken
	}
	return append(b, s.value...), nil
}

func (s *oddState) Decode(b []byte) error {
	s.value = string(b)
	return nil
}

func withOdd(c *actors.Config) { c.Kinds = append(c.Kinds, script{}, odd{}) }

// odd submits an operation on an odd grain or, where text has a space in it, the
// steps of a script. It does so on a goroutine that the turn may end.
func (r *rig) odd(key, text string) (end, *actors.Ticket, *wrapperspb.StringValue) {
	done, reply, kind := make(end, 4), &wrapperspb.StringValue{}, "odd"
	if strings.Contains(text, " ") {
		kind = "script"
	}
	ticket := make(chan *actors.Ticket, 1)
	go func() {
		defer close(ticket)
		ticket <- r.Submit(r.shardOf(key), &actors.Operation{
			Kind: kind, Key: key, Method: text, Command: wrapperspb.String(text), Reply: reply,
		}, time.Time{}, done)
	}()
	return done, <-ticket, reply
}

// torn begins a commit that hangs, and then makes a state that does not encode.
// let lets the commit go on.
func (r *rig) torn(t *testing.T, store *faultStore) (let func()) {
	t.Helper()
	a, _, _ := r.odd("{x}c", "good")
	if err := <-a; err != nil {
		t.Fatal(err)
	}
	r.Barrier(r.shardOf("x"))
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	first, _, _ := r.odd("{x}z", "first")
	<-store.began
	bad, _, _ := r.odd("{x}c", "bad")
	return func() {
		store.set(func(f *faultStore) { f.hold = nil })
		close(hold)
		if err := <-first; err != nil {
			t.Error(err)
		}
		if err := <-bad; !errors.Is(err, failure.HandlerFailed) {
			t.Errorf("a state that does not encode: %v", err)
		}
	}
}

// TestTransactionThatSawAnUndoneState sees what is there instead, also where
// nothing else is in the commit.
func TestTransactionThatSawAnUndoneState(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{"odd {x}c get": nil, "odd {x}c get; odd {x}c refuse": failure.ConditionFailed} {
		for _, other := range []bool{false, true} {
			store := newFaultStore()
			r := newRig(t, store, withOdd)
			let := r.torn(t, store)
			seen, _, _ := r.odd("x", text)
			n := 3
			if other {
				_, _, _ = r.odd("{x}y", "other")
				n++
			}
			await(r, "x", n)
			let()
			if err := <-seen; !errors.Is(err, want) {
				t.Errorf("%s: %v", text, err)
			}
			if state, _, reply := r.odd("{x}c", "get"); <-state != nil || reply.GetValue() != "good" {
				t.Errorf("afterwards it reads %q", reply.GetValue())
			}
		}
	}
}

// TestColumnOfWhichNothingEncodes is answered.
func TestColumnOfWhichNothingEncodes(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withOdd)
	c := newColumn("odd", &wrapperspb.StringValue{}, []string{"x"}, wrapperspb.String("bad"))
	if err := r.runColumn(c, actors.Session{}); err != nil {
		t.Error(err)
	}
}

func TestGoexitInCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withOdd)
	a, _, _ := r.odd("k", "goexit")
	if err := <-a; err != nil {
		t.Fatal(err)
	}
	waits, ticket, _ := r.odd("k", "park")
	r.awaitParked("k", 1)
	go ticket.Cancel(true)
	if err := <-waits; !errors.Is(err, failure.Canceled) {
		t.Errorf("given up: %v", err)
	}
	if state, _, reply := r.odd("k", "get"); <-state != nil || reply.GetValue() == "half" {
		t.Errorf("it reads %q", reply.GetValue())
	}
}

// TestGoexitInTheDueTurnOfAGivenUpWait ends that wait, and no other.
func TestGoexitInTheDueTurnOfAGivenUpWait(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withOdd)
	stays, _, _ := r.odd("k", "park")
	gone, ticket, _ := r.odd("k", "park")
	r.awaitParked("k", 2)
	if due, _, _ := r.odd("k", "due"); <-due != nil {
		t.Fatal("no due time")
	}
	go ticket.Cancel(true)
	if err := <-gone; err == nil {
		t.Error("the one that was given up was answered")
	}
	r.awaitParked("k", 1)
	r.EndWaits()
	if err := <-stays; !errors.Is(err, failure.Stopping) {
		t.Errorf("the other: %v", err)
	}
	r.awaitParked("k", 0)
}

// TestStepsAndWaiters: a step cannot wait, and changes nothing then; whom a step
// wakes is woken, and nobody else.
func TestStepsAndWaiters(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withOdd)
	if parks, _, _ := r.odd("x", "odd {x}m park"); <-parks == nil {
		t.Error("a step has waited")
	}
	if state, _, reply := r.odd("{x}m", "get"); <-state != nil || reply.GetValue() != "" {
		t.Errorf("it has left %q", reply.GetValue())
	}
	woken, _, _ := r.odd("{x}k", "park")
	waits, _, _ := r.odd("{x}l", "park")
	r.awaitParked("x", 2)
	if wakes, _, _ := r.odd("x", "odd {x}k wake"); <-wakes != nil {
		t.Error("not woken")
	}
	if err := <-woken; err != nil {
		t.Error(err)
	}
	r.awaitParked("x", 1)
	r.EndWaits()
	if err := <-waits; !errors.Is(err, failure.Stopping) {
		t.Errorf("another grain's waiter: %v", err)
	}
}

// futureStore has seen a time an hour ahead of the wall clock.
type futureStore struct{ actors.Store }

func (f futureStore) Raise(ctx context.Context, requests []actors.Raise) ([]actors.Raised, error) {
	raised, err := f.Store.Raise(ctx, requests)
	for i := range raised {
		raised[i].Time = time.Now().Add(time.Hour).UnixMilli()
	}
	return raised, err
}

// TestLeaseEndsByTheShardsClock where the wall clock is an hour behind it.
func TestLeaseEndsByTheShardsClock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, futureStore{memory.New(1)}, withLock)
		r.hold(t, "l", "holder", 300*time.Millisecond)
		began := time.Now()
		g := <-r.beginWait(t.Context(), "l", "next")
		if took := time.Since(began); g.err != nil || !g.Held || took > time.Second {
			t.Errorf("%+v after %v", g, took)
		}
	})
}

// wait is a numbered Acquire, or one under an idempotency key.
func wait(key, owner string, in actors.Session, once string) *actors.Operation {
	return &actors.Operation{
		Kind: "lock", Key: key, Method: "acquire", Session: in, IdempotencyKey: once,
		Command: &quernv1.LockServiceAcquireRequest{Key: key, Owner: owner, Ttl: durationpb.New(time.Minute), Wait: durationpb.New(6 * time.Hour)},
		Reply:   &quernv1.LockServiceAcquireResponse{},
	}
}

func (r *rig) submitWait(key, owner string, in actors.Session, once string) (end, *actors.Ticket) {
	done := make(end, 1)
	return done, r.Submit(r.shardOf(key), wait(key, owner, in, once), time.Time{}, done)
}

// passesOn releases a lock and expects it to go to a waiter at once, in virtual
// time.
func (r *rig) passesOn(t *testing.T, key string, token uint64, to <-chan grant) {
	t.Helper()
	began := time.Now()
	if err := r.lock(key).Release(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if g := <-to; g.err != nil || !g.Held || time.Since(began) > time.Second {
		t.Errorf("%+v after %v", g, time.Since(began))
	}
}

// TestWaitThatItsSessionEnds leaves no grant behind.
func TestWaitThatItsSessionEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newMemory(), withLock)
		token := r.hold(t, "l", "holder", time.Minute)
		id := r.mustOpen(t, "l")
		done, _ := r.submitWait("l", "a", actors.Session{ID: id, Number: 1, Waits: true}, "")
		r.awaitParked("l", 1)
		behind := r.beginWait(t.Context(), "l", "behind")
		r.awaitParked("l", 2)
		if err := r.shut("l", id); err != nil {
			t.Fatal(err)
		}
		r.passesOn(t, "l", token, behind)
		if err := <-done; !errors.Is(err, failure.SessionExpired) {
			t.Errorf("got %v", err)
		}
	})
}

// TestSessionLivesWhileItsCallWaits for longer than a session is kept.
func TestSessionLivesWhileItsCallWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newMemory(), withLock)
		token := r.hold(t, "l", "holder", 5*time.Hour)
		done, _ := r.submitWait("l", "a", actors.Session{ID: r.mustOpen(t, "l"), Number: 1, Waits: true}, "")
		r.awaitParked("l", 1)
		time.Sleep(3 * time.Hour) //nolint:forbidigo // in a bubble
		if err := r.lock("l").Release(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestIDReusedWhileTheFirstWaits: the second request is refused, and has nothing.
func TestIDReusedWhileTheFirstWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withLock)
	token := r.hold(t, "l", "holder", time.Minute)
	first, _ := r.submitWait("l", "a", actors.Session{}, "id")
	r.awaitParked("l", 1)
	second, _ := r.submitWait("l", "b", actors.Session{}, "id")
	r.awaitParked("l", 2)
	if err := r.lock("l").Release(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := r.lock("l").ReleaseOwner(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if err := <-second; !errors.Is(err, failure.IDReused) {
		t.Errorf("the second: %v", err)
	}
	if info, err := r.lock("l").Get(t.Context()); err != nil || info.Holds+info.Waiters != 0 {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestCopyOfAGivenUpWait has nothing, whether it waits beside it or comes later,
// and also where the session had to be read again.
func TestCopyOfAGivenUpWait(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withLock)
	token := r.hold(t, "{x}l", "holder", time.Minute)
	id := r.mustOpen(t, "x")
	in := actors.Session{ID: id, Number: 1, Waits: true}
	beside, _ := r.submitWait("{x}l", "a", in, "")
	gone, ticket := r.submitWait("{x}l", "a", in, "")
	r.awaitParked("x", 2)
	behind := r.beginWait(t.Context(), "{x}l", "behind")
	r.awaitParked("x", 3)
	r.awaitDurable("x")
	store.set(func(f *faultStore) { f.verdict = func(actors.Batch) actors.Status { return actors.Refused } })
	if _, err := r.numbered("{x}n", actors.Session{ID: id, Number: 1}, plus(1)); !errors.Is(err, failure.Overloaded) {
		t.Fatal(err)
	}
	store.set(func(f *faultStore) { f.verdict = nil })
	ticket.Cancel(true)
	if err := <-gone; !errors.Is(err, failure.Canceled) {
		t.Errorf("given up: %v", err)
	}
	later, _ := r.submitWait("{x}l", "a", in, "")
	if err := <-later; !errors.Is(err, failure.Canceled) {
		t.Errorf("a later copy: %v", err)
	}
	r.passesOn(t, "{x}l", token, behind)
	if err := <-beside; !errors.Is(err, failure.Canceled) {
		t.Errorf("a copy beside it: %v", err)
	}
}

// awaitDurable returns when nothing of a shard waits for a commit.
func (r *rig) awaitDurable(key string) {
	for !r.CleanAt(r.shardOf(key)) { //nolint:revive // each look is a turn of the shard itself
	}
}

func TestEndWaitsWhileRaising(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withLock)
	r.hold(t, "l", "holder", time.Minute)
	w := r.beginWait(t.Context(), "l", "a")
	r.awaitParked("l", 1)
	store.set(func(f *faultStore) { f.raise = func() error { return errBroken } })
	r.Crash(r.shardOf("l"))
	for !r.Raising(r.shardOf("l")) { //nolint:revive // each look is a turn of the shard itself
	}
	r.EndWaits()
	if g := <-w; !errors.Is(g.err, failure.Stopping) {
		t.Errorf("%+v", g)
	}
	store.set(func(f *faultStore) { f.raise = nil })
}

func TestCrowdedShardRefusesTransactions(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withLock, func(c *actors.Config) {
		c.Kinds = append(c.Kinds, grains.Map{}, grains.Transaction{})
		c.ResidentLimit, c.WaitLimit = 1, 10
	})
	for i := range 40 {
		_, err := r.lock("{x}"+strconv.Itoa(i)).Grant(t.Context(), handles.LockOptions{Owner: "o", TTL: time.Minute, Wait: -1})
		if err != nil && !errors.Is(err, failure.Overloaded) {
			t.Fatal(err)
		}
	}
	x := r.txn("x")
	x.CounterAdd("{x}c", 1)
	if err := x.Commit(t.Context()); !errors.Is(err, failure.Overloaded) {
		t.Errorf("a transaction on a new key: %v", err)
	}
}
