package actors_test

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
)

// probe is a kind whose handlers misbehave on command.
type probe struct {
	entered chan struct{}
	block   chan struct{}
}

func (probe) Name() string        { return "probe" }
func (p probe) New() actors.State { return &probeState{kind: p} }

type probeState struct {
	kind probe
	n    uint64
}

func (s *probeState) Apply(_ *actors.Turn, command, reply proto.Message) (bool, error) {
	s.n++
	q, ok := command.(*wrapperspb.StringValue)
	a, okay := reply.(*wrapperspb.UInt64Value)
	if !ok || !okay {
		return false, failure.New(failure.UnknownMethod, "%T, %T", command, reply)
	}
	switch q.GetValue() {
	case "panic":
		panic("the handler panics") //nolint:forbidigo // the point of it
	case "goexit":
		runtime.Goexit()
	case "refuse":
		return true, failure.New(failure.ConditionFailed, "refused at %d", s.n)
	case "block":
		s.kind.entered <- struct{}{}
		<-s.kind.block
	}
	a.Value = s.n
	return true, nil
}

func (s *probeState) Assign(from actors.State) {
	if other, ok := from.(*probeState); ok {
		*s = *other
	}
}

func (s *probeState) Due() int64 { return 0 }

func (s *probeState) Append(b []byte) ([]byte, error) {
	return binary.AppendUvarint(b, s.n), nil
}

func (s *probeState) Decode(b []byte) error {
	n, width := binary.Uvarint(b)
	if width <= 0 {
		return errors.New("bad record")
	}
	s.n = n
	return nil
}

func withProbe(p probe) func(*actors.Config) {
	return func(c *actors.Config) { c.Kinds = append(c.Kinds, p) }
}

func (r *rig) probe(ctx context.Context, key, command, once string) (uint64, error) {
	var reply wrapperspb.UInt64Value
	_, err := r.Runtime.Invoke(ctx, r.shardOf(key), &actors.Operation{
		Kind: "probe", Key: key, Method: "probe/" + command, IdempotencyKey: once,
		Command: wrapperspb.String(command), Reply: &reply,
	})
	if err != nil {
		return 0, err
	}
	return reply.GetValue(), nil
}

func TestPanickingHandlerFailsItsOwnCall(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withProbe(probe{}))
	if n, err := r.probe(t.Context(), "p", "add", ""); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for range 3 {
		if _, err := r.probe(t.Context(), "p", "panic", "same-id"); !errors.Is(err, failure.HandlerFailed) {
			t.Errorf("got %v", err)
		}
		if _, err := r.probe(t.Context(), "p", "refuse", ""); !errors.Is(err, failure.ConditionFailed) {
			t.Errorf("got %v", err)
		}
	}
	// Undone, and the failed handler's id is free.
	if n, err := r.probe(t.Context(), "p", "panic", "same-id"); err == nil {
		t.Error("answered", n)
	}
	if n, err := r.probe(t.Context(), "p", "add", ""); n != 2 || err != nil {
		t.Errorf("got %d, %v; want 2", n, err)
	}
}

// TestGoexitInAHandler ends the runner's goroutine; the shard goes on. The
// runner is the caller itself, which is lost with its call, unless the shard was
// busy (with a commit that landed): then the caller is told.
func TestGoexitInAHandler(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withProbe(probe{}))
	if _, err := r.probe(t.Context(), "p", "add", ""); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if _, err := r.probe(context.Background(), "p", "goexit", ""); !errors.Is(err, failure.HandlerFailed) {
			t.Errorf("the goroutine outlived Goexit and got %v", err)
		}
	}()
	<-ended
	if n, err := r.probe(t.Context(), "p", "add", ""); n != 2 || err != nil {
		t.Errorf("got %d, %v; want 2", n, err)
	}
}

func TestCallsBehindAGoexitAreServed(t *testing.T) {
	t.Parallel()
	p := probe{entered: make(chan struct{}), block: make(chan struct{})}
	r := newRig(t, newMemory(), withProbe(p))
	go func() { _, _ = r.probe(context.Background(), "p", "block", "") }()
	<-p.entered
	failed := begin(func() (int64, error) {
		_, err := r.probe(context.Background(), "p", "goexit", "")
		return 0, err
	})
	for r.Queued("p") < 1 {
		runtime.Gosched()
	}
	behind := begin(func() (int64, error) {
		n, err := r.probe(context.Background(), "p", "add", "")
		return int64(n), err
	})
	for r.Queued("p") < 2 {
		runtime.Gosched()
	}
	close(p.block)
	if got := <-failed; !errors.Is(got.err, failure.HandlerFailed) {
		t.Errorf("goexit: %+v", got)
	}
	if got := <-behind; got != (answer{2, nil}) {
		t.Errorf("behind it: %+v", got)
	}
}

func TestCrashedShardReloads(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	for want := int64(1); want <= 5; want++ {
		got, err := r.counter("a").Add(t.Context(), 1)
		if err != nil || got != want {
			t.Fatalf("got %d, %v; want %d", got, err, want)
		}
		before := r.epoch("a")
		r.Crash(r.shardOf("a"))
		if got, err := r.counter("a").Get(t.Context()); err != nil || got != want {
			t.Fatalf("after the crash: %d, %v; want %d", got, err, want)
		}
		if after := r.epoch("a"); after <= before {
			t.Errorf("epoch went from %d to %d", before, after)
		}
	}
}

// TestCrashWithACommitUnderWay: the commit lands after the crash; what it wrote
// is seen, and its callers are not told that it failed.
func TestCrashWithACommitUnderWay(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	first := begin(add(r, "a"))
	<-store.began
	await(r, "a", 1)
	r.Crash(r.shardOf("a"))
	if got := <-first; failure.OutcomeOf(got.err) != failure.Unknown {
		t.Errorf("got %+v", got)
	}
	store.set(func(f *faultStore) { f.hold = nil })
	close(hold)
	got, err := r.counter("a").Add(t.Context(), 1)
	if err != nil || got < 1 || got > 2 {
		t.Errorf("got %d, %v", got, err)
	}
}

func TestCallerThatGivesUp(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	ctx, cancel := context.WithCancel(t.Context())
	first := begin(func() (int64, error) { return r.counter("a").Add(ctx, 1) })
	<-store.began
	cancel()
	got := <-first
	if !errors.Is(got.err, context.Canceled) || !errors.Is(got.err, failure.Canceled) || failure.OutcomeOf(got.err) != failure.Unknown {
		t.Errorf("got %+v", got)
	}
	close(hold)
	if got, err := r.counter("a").Get(t.Context()); err != nil || got != 1 {
		t.Errorf("got %d, %v; want 1", got, err)
	}
	past, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if _, err := r.counter("a").Add(past, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline in the past: %v", err)
	}
	if got, err := r.counter("a").Get(t.Context()); err != nil || got != 1 {
		t.Errorf("got %d, %v; want 1", got, err)
	}
}

// TestDeadlineBehindABusyShard: an operation whose deadline passes in the queue
// is never run.
func TestDeadlineBehindABusyShard(t *testing.T) {
	t.Parallel()
	p := probe{entered: make(chan struct{}), block: make(chan struct{})}
	r := newRig(t, newMemory(), withProbe(p))
	go func() { _, _ = r.probe(context.Background(), "p", "block", "") }()
	<-p.entered
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := r.probe(ctx, "p", "add", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(p.block)
	if n, err := r.probe(t.Context(), "p", "add", ""); n != 2 || err != nil {
		t.Errorf("got %d, %v; want 2", n, err)
	}
}

func TestFullQueueAndFullGateRefuse(t *testing.T) {
	t.Parallel()
	const limit = 10
	p := probe{entered: make(chan struct{}), block: make(chan struct{})}
	store := newFaultStore()
	r := newRig(t, store, withProbe(p), func(c *actors.Config) { c.QueueLimit, c.WaitLimit = limit, limit })
	overloaded := func(what string) {
		t.Helper()
		var e *failure.Error
		_, err := r.counter("p").Add(t.Context(), 1)
		if !errors.As(err, &e) || e.Reason != failure.Overloaded || e.Outcome() != failure.NotDone || e.RetryAfter <= 0 {
			t.Errorf("%s: got %v", what, err)
		}
	}

	hold := make(chan struct{})
	store.set(func(f *faultStore) { f.hold = hold })
	var gated []<-chan answer
	for range limit {
		gated = append(gated, begin(add(r, "p")))
	}
	await(r, "p", limit)
	overloaded("gate")
	store.set(func(f *faultStore) { f.hold = nil })
	close(hold)
	for _, c := range gated {
		if got := <-c; got.err != nil {
			t.Error(got.err)
		}
	}

	go func() { _, _ = r.probe(context.Background(), "p", "block", "") }()
	<-p.entered
	var queued []<-chan answer
	for range limit {
		queued = append(queued, begin(get(r, "p")))
	}
	for r.Queued("p") < limit {
		runtime.Gosched()
	}
	overloaded("queue")
	close(p.block)
	for _, c := range queued {
		if got := <-c; got.err != nil || got.value != limit {
			t.Errorf("%+v", got)
		}
	}
}

func TestStoreThatCannotBeRead(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	store.set(func(f *faultStore) { f.read = func(uint32) error { return errBroken } })
	if _, err := r.counter("a").Add(t.Context(), 1); !errors.Is(err, failure.StoreUnavailable) || failure.OutcomeOf(err) != failure.NotDone {
		t.Errorf("got %v", err)
	}
	store.set(func(f *faultStore) { f.read = nil })
	if got, err := r.counter("a").Add(t.Context(), 1); got != 1 || err != nil {
		t.Errorf("got %d, %v; want 1", got, err)
	}
}

func TestUnknownKindAndMethod(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory())
	if _, err := r.probe(t.Context(), "p", "add", ""); !errors.Is(err, failure.UnknownKind) {
		t.Errorf("got %v", err)
	}
	_, err := r.Runtime.Invoke(t.Context(), 0, &actors.Operation{
		Kind: "counter", Key: "k", Method: "m", Command: wrapperspb.String(""), Reply: wrapperspb.String(""),
	})
	if !errors.Is(err, failure.UnknownMethod) {
		t.Errorf("got %v", err)
	}
}
