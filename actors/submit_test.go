package actors_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// end is a completer that passes on what it gets.
type end chan error

func (e end) Completed(_ uint64, err error) { e <- err }

func TestSubmitAnswersEachOnce(t *testing.T) {
	t.Parallel()
	p := probe{entered: make(chan struct{}), block: make(chan struct{})}
	r := newRig(t, newFaultStore(), withProbe(p), func(c *actors.Config) { c.QueueLimit = 2 })
	submit := func(kind, key string, deadline time.Time) end {
		done := make(end, 2)
		r.Submit(r.shardOf("a"), &actors.Operation{
			Kind: kind, Key: key, Method: "Add", Command: plus(1), Reply: &quernv1.CounterServiceAddResponse{},
		}, deadline, done)
		return done
	}
	for name, row := range map[string]struct {
		got  end
		want error
	}{
		"fine":         {submit("counter", "a", time.Time{}), nil},
		"in time":      {submit("counter", "a", time.Now().Add(time.Hour)), nil},
		"too late":     {submit("counter", "a", time.Unix(1, 0)), failure.DeadlineExceeded},
		"bad key":      {submit("counter", "", time.Time{}), failure.InvalidKey},
		"no such kind": {submit("nothing", "a", time.Time{}), failure.UnknownKind},
	} {
		if err := <-row.got; !errors.Is(err, row.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	go func() { _, _ = r.probe(context.Background(), "a", "block", "") }()
	<-p.entered
	var queued []end
	for range 2 {
		queued = append(queued, submit("counter", "a", time.Time{}))
	}
	if err := <-submit("counter", "a", time.Time{}); !errors.Is(err, failure.Overloaded) {
		t.Errorf("full: %v", err)
	}
	close(p.block)
	for _, c := range queued {
		if err := <-c; err != nil {
			t.Errorf("queued: %v", err)
		}
	}
	if got, err := r.counter("a").Get(t.Context()); got != 4 || err != nil {
		t.Errorf("%d, %v; want 4", got, err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-submit("counter", "a", time.Time{}); !errors.Is(err, failure.Stopping) {
		t.Errorf("stopped: %v", err)
	}
}

// TestWaiterThatGivesUp has the answers that came, and may be left behind.
func TestWaiterThatGivesUp(t *testing.T) {
	t.Parallel()
	w := actors.NewWaiter(3)
	w.For(0).Completed(7, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		w.Wait(ctx)
		close(ended)
	}()
	w.For(2).Completed(0, failure.New(failure.Limit, "no"))
	cancel()
	<-ended
	if epoch, err := w.Answer(0); epoch != 7 || err != nil {
		t.Errorf("answered: %d, %v", epoch, err)
	}
	for range 2 {
		if _, err := w.Answer(1); !errors.Is(err, failure.Canceled) || failure.OutcomeOf(err) != failure.Unknown {
			t.Errorf("not answered: %v", err)
		}
		w.For(1).Completed(9, nil)
	}
	if _, err := w.Answer(2); !errors.Is(err, failure.Limit) {
		t.Errorf("refused: %v", err)
	}
	all := actors.NewWaiter(0)
	all.Wait(t.Context())
}

// counted counts what was completed.
type counted struct {
	n, failed atomic.Int64
	first     error
}

func (c *counted) Completed(_ uint64, err error) {
	if err != nil {
		if c.failed.Add(1) == 1 {
			c.first = err
		}
	}
	c.n.Add(1)
}

func BenchmarkSubmit(b *testing.B) {
	for _, withSession := range []bool{false, true} {
		b.Run("session="+strconv.FormatBool(withSession), func(b *testing.B) {
			const keys = 1000
			r := newRig(b, newMemory())
			var done counted
			var replies [keys]quernv1.CounterServiceAddResponse
			ops := make([]actors.Operation, keys)
			sessions := make([]actors.Session, r.shards)
			for i := range ops {
				key := "counter:" + strconv.Itoa(i)
				ops[i] = actors.Operation{Kind: "counter", Key: key, Method: "Add", Command: plus(1), Reply: &replies[i]}
				if in := &sessions[r.shardOf(key)]; withSession && in.ID == "" {
					in.ID = r.mustOpen(b, key)
				}
			}
			submit := func(i int) {
				op := &ops[i%keys]
				shard := r.shardOf(op.Key)
				in := &sessions[shard]
				in.Number++
				in.Settled = in.Number - min(in.Number, 64)
				op.Session = *in
				if !withSession {
					op.Session = actors.Session{}
				}
				r.Submit(shard, op, time.Time{}, &done)
			}
			for i := range 20 * keys {
				submit(i)
				for i < keys && done.n.Load() <= int64(i) { // it must be read first
					runtime.Gosched()
				}
			}
			for done.n.Load() < 20*keys {
				runtime.Gosched()
			}
			done.n.Store(0)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				submit(i)
			}
			for done.n.Load() < int64(b.N) {
				runtime.Gosched()
			}
			if n := done.failed.Load(); n > 0 {
				b.Errorf("%d failed, the first: %v", n, done.first)
			}
		})
	}
}
