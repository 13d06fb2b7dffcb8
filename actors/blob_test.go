package actors_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
)

// blob is a kind whose state is the last string that came, and whose reply is
// the one before it. A state that begins with "bad" does not encode, the reply
// to "garble" does not.
type blob struct{}

func (blob) Name() string      { return "blob" }
func (blob) New() actors.State { return &blobState{} }

type blobState struct{ value string }

func (s *blobState) Apply(_ *actors.Turn, command, reply proto.Message) (bool, error) {
	q, ok := command.(*wrapperspb.StringValue)
	a, okay := reply.(*wrapperspb.StringValue)
	if !ok || !okay {
		return false, failure.New(failure.UnknownMethod, "%T, %T", command, reply)
	}
	a.Value, s.value = s.value, q.GetValue()
	if s.value == "garble" {
		a.Value = "\xff"
	}
	return true, nil
}

func (s *blobState) Assign(from actors.State) {
	if other, ok := from.(*blobState); ok {
		*s = *other
	}
}

func (s *blobState) Due() int64 { return 0 }
func (s *blobState) Size() int  { return len(s.value) }

func (s *blobState) Append(b []byte) ([]byte, error) {
	if strings.HasPrefix(s.value, "bad") {
		return b, errBroken
	}
	return append(b, s.value...), nil
}

func (s *blobState) Decode(b []byte) error {
	s.value = string(b)
	return nil
}

func withBlob(c *actors.Config) { c.Kinds = append(c.Kinds, blob{}) }

// swap puts a blob, under a number of a session where it has an id, and returns
// the one before it.
func (r *rig) swap(key, value string, in actors.Session) (string, error) {
	var reply wrapperspb.StringValue
	_, err := r.Runtime.Invoke(context.Background(), r.shardOf(key), &actors.Operation{
		Kind: "blob", Key: key, Method: "swap", Session: in, Command: wrapperspb.String(value), Reply: &reply,
	})
	if err != nil {
		return "", err
	}
	return reply.GetValue(), nil
}

// TestStateThatDoesNotEncode takes the results that tell of it with it, and
// leaves the others in their session.
func TestStateThatDoesNotEncode(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withBlob)
	id := r.mustOpen(t, "{x}")
	in := func(n uint64) actors.Session { return actors.Session{ID: id, Number: n} }
	for n, value := range map[uint64]string{1: "one", 2: "two"} {
		if _, err := r.swap("{x}a", value, in(n)); err != nil {
			t.Fatal(err)
		}
	}
	drainSignals(store.began)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	blocker := begin(add(r, "{x}blocker"))
	<-store.began
	swap := func(key, value string, n uint64) <-chan answer {
		return begin(func() (int64, error) {
			_, err := r.swap(key, value, in(n))
			return 0, err
		})
	}
	bad, good := swap("{x}a", "bad", 3), swap("{x}b", "good", 4)
	await(r, "{x}", 3)
	joined := swap("{x}a", "bad", 3)
	await(r, "{x}", 4)
	store.set(func(f *faultStore) { f.hold = nil })
	close(hold)
	for name, c := range map[string]<-chan answer{"bad": bad, "joined": joined} {
		if got := <-c; !errors.Is(got.err, failure.HandlerFailed) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := <-good; got.err != nil {
		t.Errorf("another grain: %+v", got)
	}
	<-blocker
	r.Crash(r.shardOf("{x}"))
	for range 2 {
		if got, err := r.swap("{x}a", "three", in(3)); err != nil || got != "one" && got != "two" {
			t.Errorf("the number is not free: %q, %v", got, err)
		}
		if got, err := r.swap("{x}b", "good", in(4)); err != nil || got != "" {
			t.Errorf("the other result: %q, %v", got, err)
		}
		r.Crash(r.shardOf("{x}"))
	}
	if got, err := r.swap("{x}a", "", in(5)); err != nil || got != "three" {
		t.Errorf("what came under the free number: %q, %v", got, err)
	}
}

// TestReplyThatDoesNotEncode undoes its turn, whose number stays free.
func TestReplyThatDoesNotEncode(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withBlob)
	in := actors.Session{ID: r.mustOpen(t, "a"), Number: 1}
	if _, err := r.swap("a", "garble", in); !errors.Is(err, failure.HandlerFailed) {
		t.Errorf("got %v", err)
	}
	if got, err := r.swap("a", "fine", in); err != nil || got != "" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestResultsOfASessionAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withBlob)
	id := r.mustOpen(t, "a")
	const size = 64 << 10
	big := strings.Repeat("x", size)
	n := uint64(0)
	put := func(settled uint64) error {
		_, err := r.swap("a", big, actors.Session{ID: id, Number: n + 1, Settled: settled})
		if err == nil {
			n++
		}
		return err
	}
	for range 1 + actors.SessionBytes/size { // the first reply is empty
		if err := put(0); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := put(0); !errors.Is(err, failure.Overloaded) {
			t.Errorf("beyond the bound: %v", err)
		}
		r.Crash(r.shardOf("a"))
	}
	for settled := range uint64(10) {
		if err := put(settled + 2); err != nil {
			t.Errorf("after one was settled: %v", err)
		}
	}
}

// TestCommitsAreBounded: turns wait where a commit would grow too large, in
// their order, and events do not.
func TestCommitsAreBounded(t *testing.T) {
	t.Parallel()
	const size, puts = 64 << 10, 400
	store := newFaultStore()
	var largest atomic.Int64
	store.verdict = func(b actors.Batch) actors.Status {
		bytes := 0
		for _, rec := range b.Records {
			bytes += len(rec.Key) + len(rec.Value)
		}
		largest.Store(max(largest.Load(), int64(bytes)))
		return actors.Done
	}
	r := newRig(t, store, withBlob, func(c *actors.Config) { c.ResidentLimit = 1 })
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	value := strings.Repeat("x", size-8)
	var got []<-chan answer
	for i := range puts {
		got = append(got, begin(func() (int64, error) {
			_, err := r.swap("{x}"+strconv.Itoa(i), value+strconv.Itoa(i), actors.Session{})
			return 0, err
		}))
		await(r, "{x}", i+1)
	}
	// One that was put twice, and so must see the other.
	again := begin(func() (int64, error) {
		before, err := r.swap("{x}399", "", actors.Session{})
		return int64(len(before)), err
	})
	await(r, "{x}", puts+1)
	store.set(func(f *faultStore) { f.hold = nil })
	close(hold)
	for i, c := range got {
		if a := <-c; a.err != nil {
			t.Errorf("put %d: %v", i, a.err)
		}
	}
	if a := <-again; a.err != nil || a.value != size-5 {
		t.Errorf("the one behind it: %+v", a)
	}
	if n := largest.Load(); n < actors.FlightBytes/2 || n > actors.FlightBytes+2*size {
		t.Errorf("the largest commit had %d bytes", n)
	}
}

// TestStalledCallsOfAnActivationThatEnds have their turn in the next one.
func TestStalledCallsOfAnActivationThatEnds(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withBlob)
	hold := make(chan struct{})
	store.set(func(f *faultStore) {
		f.hold = hold
		f.verdict = func(actors.Batch) actors.Status { return actors.Unclear }
	})
	put := func(i int, value string) <-chan answer {
		return begin(func() (int64, error) {
			_, err := r.swap("{x}"+strconv.Itoa(i), value, actors.Session{})
			return 0, err
		})
	}
	first := put(0, "small")
	<-store.began
	full := put(1, strings.Repeat("x", actors.FlightBytes))
	await(r, "{x}", 2)
	stalled := put(2, "small")
	await(r, "{x}", 3)
	store.set(func(f *faultStore) { f.verdict, f.hold = nil, nil })
	close(hold)
	for _, c := range []<-chan answer{first, full} {
		if got := <-c; failure.OutcomeOf(got.err) != failure.Unknown {
			t.Errorf("it had its turn: %+v", got)
		}
	}
	if got := <-stalled; got.err != nil {
		t.Errorf("it had none: %+v", got)
	}
}

// TestLowestNumberIsTakenByAFullSession: nothing above it can be settled before
// it is.
func TestLowestNumberIsTakenByAFullSession(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withBlob)
	id := r.mustOpen(t, "a")
	const size = 64 << 10
	big := strings.Repeat("x", size)
	last := uint64(2 + actors.SessionBytes/size)
	for n := uint64(2); n <= last; n++ {
		if _, err := r.swap("a", big, actors.Session{ID: id, Number: n}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.swap("a", big, actors.Session{ID: id, Number: last + 1}); !errors.Is(err, failure.Overloaded) {
		t.Errorf("beyond the bound: %v", err)
	}
	if _, err := r.swap("a", big, actors.Session{ID: id, Number: 1}); err != nil {
		t.Errorf("the lowest number: %v", err)
	}
	if _, err := r.swap("a", big, actors.Session{ID: id, Number: last + 1, Settled: last}); err != nil {
		t.Errorf("after all were settled: %v", err)
	}
}
