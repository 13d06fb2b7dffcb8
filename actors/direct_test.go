package actors_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// direct adds to a counter as a stream does: at once where that can be, else by
// Submit.
func (r *rig) direct(d *actors.Direct, memo *handles.Memo, key string, in actors.Session, q *quernv1.CounterServiceAddRequest) (value int64, atOnce bool, err error) {
	var reply quernv1.CounterServiceAddResponse
	op := actors.Operation{Kind: "counter", Method: "Add", Session: in, Memo: memo, Command: q, Reply: &reply}
	if _, done, err := d.Try(r.shardOf(key), &op, []byte(key)); done {
		return reply.GetValue(), true, err
	}
	op.Key = key
	ended := make(end, 1)
	r.Submit(r.shardOf(key), &op, time.Time{}, ended)
	err = <-ended
	return reply.GetValue(), false, err
}

// TestDirectAgainstTwin: what is run at once gets the answers that it would have
// got on the usual way, whatever its number.
func TestDirectAgainstTwin(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		r, twin := newRig(t, newMemory()), newRig(t, newMemory())
		d, memo := r.Direct(), &handles.Memo{}
		random := rand.New(rand.NewPCG(seed, 1))
		id, twins := r.mustOpen(t, "a"), twin.mustOpen(t, "a")
		atOnce, top, settled := 0, uint64(0), uint64(0)
		for step := range 400 {
			in := actors.Session{}
			if random.IntN(4) > 0 {
				top += random.Uint64N(3)
				in = actors.Session{ID: id, Number: max(1, top-min(top, random.Uint64N(6))), Settled: settled}
				settled = max(settled, top-min(top, random.Uint64N(40)))
			}
			key := [...]string{"{a}1", "{a}2"}[random.IntN(2)]
			delta := random.Int64N(7) - 3
			got, once, err := r.direct(d, memo, key, in, atMost(delta, 10))
			if in.ID != "" {
				in.ID = twins
			}
			want, wanted := twin.numbered(key, in, atMost(delta, 10))
			if err == nil && got != want || reasonOf(err) != reasonOf(wanted) {
				t.Fatalf("seed %d, step %d, %+v: got %d, %v; the twin %d, %v", seed, step, in, got, err, want, wanted)
			}
			if once {
				atOnce++
			}
		}
		if atOnce < 200 {
			t.Errorf("seed %d: only %d of 400 were run at once", seed, atOnce)
		}
	}
}

// TestDirectStandsBack where an operation has to wait, or is not for it.
func TestDirectStandsBack(t *testing.T) {
	t.Parallel()
	p := probe{entered: make(chan struct{}), block: make(chan struct{})}
	r := newRig(t, newMemory(), withProbe(p))
	id := r.mustOpen(t, "a")
	d := r.Direct()
	try := func(change func(op *actors.Operation), key string) bool {
		op := actors.Operation{Kind: "counter", Method: "Add", Command: plus(1), Reply: &quernv1.CounterServiceAddResponse{}}
		change(&op)
		_, done, _ := d.Try(r.shardOf("a"), &op, []byte(key))
		return done
	}
	plain := func(*actors.Operation) {}
	for _, key := range []string{"a", "", "a\xff"} {
		if try(plain, key) {
			t.Errorf("%q was run, which is not in memory", key)
		}
	}
	if n, err := r.counter("a").Add(t.Context(), 1); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for what, change := range map[string]func(op *actors.Operation){
		"another kind":           func(op *actors.Operation) { op.Kind = "none" },
		"an idempotency key":     func(op *actors.Operation) { op.IdempotencyKey = "i" },
		"a guard":                func(op *actors.Operation) { op.Guard = &actors.Guard{Lock: "l", Token: 1} },
		"a session without memo": func(op *actors.Operation) { op.Session = actors.Session{ID: id, Number: 1} },
		"a memo without session": func(op *actors.Operation) {
			op.Session, op.Memo = actors.Session{ID: id, Number: 1}, &handles.Memo{}
		},
	} {
		if try(change, "a") {
			t.Errorf("%s: was run", what)
		}
	}
	go func() { _, _ = r.probe(context.Background(), "a", "block", "") }()
	<-p.entered
	if try(plain, "a") {
		t.Error("was run beside another turn")
	}
	close(p.block)
	for !r.IdleAt(r.shardOf("a")) {
		runtime.Gosched()
	}
	if !try(plain, "a") {
		t.Error("was not run")
	}
	if n, err := r.counter("a").Get(t.Context()); n != 2 || err != nil {
		t.Errorf("got %d, %v; want 2", n, err)
	}
	if newRig(t, newFaultStore()).Direct() != nil {
		t.Error("a durable store has it too")
	}
}

// TestDirectAndExpiry: a state expires before it is seen.
func TestDirectAndExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newMemory())
		d := r.Direct()
		if _, err := r.counter("a").Add(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		op := actors.Operation{
			Kind: "counter", Method: "Expire",
			Command: &quernv1.CounterServiceExpireRequest{Ttl: durationpb.New(time.Second)}, Reply: &quernv1.CounterServiceExpireResponse{},
		}
		if _, done, err := d.Try(r.shardOf("a"), &op, []byte("a")); !done || err != nil {
			t.Fatal(done, err)
		}
		if n, atOnce, err := r.direct(d, nil, "a", actors.Session{}, plus(1)); n != 6 || !atOnce || err != nil {
			t.Errorf("got %d, %v, %v; want 6", n, atOnce, err)
		}
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble
		d.Begin()
		if n, _, err := r.direct(d, nil, "a", actors.Session{}, plus(1)); n != 1 || err != nil {
			t.Errorf("got %d, %v; want 1", n, err)
		}
	})
}

// TestDirectOfBadHandlers: a handler that panics is undone, one that ends its
// goroutine ends the caller's, and the shard and others go on.
func TestDirectOfBadHandlers(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withProbe(probe{}))
	if _, err := r.probe(t.Context(), "p", "add", ""); err != nil {
		t.Fatal(err)
	}
	d := r.Direct()
	for _, tt := range []struct {
		command string
		want    uint64
		reason  error
	}{{"add", 2, nil}, {"panic", 0, failure.HandlerFailed}, {"refuse", 0, failure.ConditionFailed}, {"goexit", 0, failure.HandlerFailed}, {"add", 3, nil}} {
		var reply wrapperspb.UInt64Value
		op := actors.Operation{Kind: "probe", Method: tt.command, Command: wrapperspb.String(tt.command), Reply: &reply}
		var caller sync.WaitGroup
		caller.Go(func() {
			_, done, err := d.Try(r.shardOf("p"), &op, []byte("p"))
			if !done || !errors.Is(err, tt.reason) || err == nil && reply.GetValue() != tt.want {
				t.Errorf("%s: got %d, %v, %v", tt.command, reply.GetValue(), done, err)
			}
		})
		caller.Wait()
		for !r.IdleAt(r.shardOf("p")) {
			runtime.Gosched()
		}
	}
	if n, err := r.probe(t.Context(), "p", "add", ""); n != 4 || err != nil {
		t.Errorf("got %d, %v; want 4", n, err)
	}
}

// TestDirectBesideOthers: whoever adds, each add counts once.
func TestDirectBesideOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory())
	var all sync.WaitGroup
	var atOnce atomic.Int64
	const each = 2000
	for who := range 6 {
		all.Go(func() {
			d, memo, id := r.Direct(), &handles.Memo{}, r.mustOpen(t, "a")
			for i := range uint64(each) {
				key := "{a}" + strconv.Itoa(int(i%3))
				in := actors.Session{ID: id, Number: i + 1, Settled: i}
				var err error
				once := false
				if who%2 == 0 {
					_, once, err = r.direct(d, memo, key, in, plus(1))
				} else {
					_, err = r.numbered(key, in, plus(1))
				}
				if err != nil {
					t.Error(err)
					return
				}
				if once {
					atOnce.Add(1)
				}
			}
		})
	}
	all.Wait()
	sum := int64(0)
	for i := range 3 {
		n, err := r.counter("{a}" + strconv.Itoa(i)).Get(t.Context())
		if err != nil {
			t.Error(err)
		}
		sum += n
	}
	if sum != 6*each {
		t.Errorf("%d adds counted, want %d; %d were run at once", sum, 6*each, atOnce.Load())
	}
	if atOnce.Load() == 0 {
		t.Error("nothing was run at once")
	}
}

func reasonOf(err error) failure.Reason {
	if e, ok := errors.AsType[*failure.Error](err); ok {
		return e.Reason
	}
	return 0
}
