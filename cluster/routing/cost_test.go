package routing_test

import (
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/machine"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// echo is a runtime that answers at once.
type echo struct{ *local }

func (e echo) Submit(op *handles.Operation, _ time.Time, done handles.Completer) {
	op.Origin = handles.Origin{Node: e.node.name, Shard: op.Origin.Shard}
	if out, ok := op.Reply.(*quernv1.CounterServiceAddResponse); ok {
		out.Value, out.Applied = 1_000_000, 1
	}
	done.Completed(1, nil)
}

func (e echo) SubmitList(first *handles.Submission) {
	for s := first; s != nil; {
		next := s.Next
		s.Next = nil
		e.Submit(&s.Op, s.Deadline, s.Done)
		s = next
	}
}

type nothing struct{}

func (nothing) Completed(uint64, error) {}

// TestLocalCallsCostNothing more than without a router, in allocations.
func TestLocalCallsCostNothing(t *testing.T) { //nolint:paralleltest // counts allocations
	n := alone(t, nil)
	defer n.end(t)
	r, err := routing.New(routing.Config{Local: echo{n.local}, View: n.view})
	if err != nil {
		t.Fatal(err)
	}
	n.own(1, 1)
	op := addOf(keyOf(1, 0))
	op.Placed, op.Origin.Shard = true, 1
	sub := &handles.Submission{Op: *op, Done: nothing{}}
	for name, call := range map[string]func(){
		"Submit":     func() { r.Submit(op, time.Time{}, nothing{}) },
		"SubmitList": func() { r.SubmitList(sub) },
		"Invoke":     func() { _ = r.Invoke(t.Context(), op) },
	} {
		want := 0.0
		if name == "Invoke" { // of the fake's own
			want = testing.AllocsPerRun(100, func() { _ = n.local.Invoke(t.Context(), op) })
		}
		op.Origin.Shard = 1
		if got := testing.AllocsPerRun(1000, call); got > want {
			t.Errorf("%s: %v allocations, %v without a router", name, got, want)
		}
	}
}

// BenchmarkPass is what an operation costs all who take part, the client among
// them, in CPU time: at its owner, and by way of another node. Few as the runtime's
// share is here, the ratio is an upper bound.
func BenchmarkPass(b *testing.B) {
	w := newWorld()
	w.echo = true
	one, two := w.start(b, "a"), w.start(b, "b")
	for shard := range uint32(shards) {
		w.give("b", shard)
	}
	for _, way := range []struct {
		name string
		to   *node
	}{{"direct", two}, {"passed", one}} {
		b.Run(way.name, func(b *testing.B) {
			c := way.to.dial(b, client.Options{})
			const batch = 100
			ops := make([]*handles.Operation, batch)
			for i := range ops {
				ops[i] = addOf(keyOf(uint32(i)%shards, i))
			}
			c.InvokeAll(b.Context(), ops)
			b.ReportAllocs()
			b.ResetTimer()
			before := machine.CPUTime()
			for n := 0; n < b.N; n += batch {
				c.InvokeAll(b.Context(), ops)
			}
			b.StopTimer()
			b.ReportMetric(float64((machine.CPUTime()-before).Nanoseconds())/float64(max(b.N, batch)), "cpu-ns/op")
			for _, op := range ops {
				if op.Err != nil {
					b.Fatal(op.Err)
				}
			}
		})
	}
}
