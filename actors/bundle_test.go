package actors_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// together gathers adds of 1 to a key and submits them at once.
type together struct {
	bundle  actors.Bundle
	replies []*quernv1.CounterServiceAddResponse
	ends    []end
}

func (r *rig) gather(key string, n int, deadline time.Time) *together {
	t := &together{}
	for range n {
		reply, done := &quernv1.CounterServiceAddResponse{}, make(end, 2)
		r.Add(&t.bundle, &actors.Operation{Kind: "counter", Key: key, Method: "Add", Command: plus(1), Reply: reply}, deadline, done)
		t.replies, t.ends = append(t.replies, reply), append(t.ends, done)
	}
	return t
}

// TestBundleKeepsItsOrder on an idle shard, behind one that was left there, and
// beyond what one runner works off.
func TestBundleKeepsItsOrder(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 2, 3, 700} {
		for _, busy := range []bool{false, true} {
			t.Run(strconv.Itoa(size)+"/"+strconv.FormatBool(busy), func(t *testing.T) {
				t.Parallel()
				p := probe{entered: make(chan struct{}), block: make(chan struct{})}
				r := newRig(t, newMemory(), withProbe(p))
				if _, err := r.counter("a").Add(t.Context(), 0); err != nil { // loads it
					t.Fatal(err)
				}
				if busy {
					go func() { _, _ = r.probe(context.Background(), "a", "block", "") }()
					<-p.entered
				}
				first, second := r.gather("a", size, time.Time{}), r.gather("a", size, time.Time{})
				r.SubmitBundle(r.shardOf("a"), &first.bundle)
				r.SubmitBundle(r.shardOf("a"), &second.bundle)
				r.SubmitBundle(r.shardOf("a"), &second.bundle) // is empty by now
				// The look at what is due may be among them.
				if queued := r.Queued("a"); busy && queued != 2*size && queued != 2*size+1 {
					t.Errorf("%d are queued", queued)
				}
				close(p.block)
				for i := range 2 * size {
					of := first
					if i >= size {
						of = second
					}
					if err := <-of.ends[i%size]; err != nil {
						t.Fatal(err)
					}
					if got := of.replies[i%size].GetValue(); got != int64(i+1) {
						t.Fatalf("add %d got %d", i, got)
					}
				}
			})
		}
	}
}

// TestBundleIsRefusedAsAWhole where the queue is full.
func TestBundleIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	p := probe{entered: make(chan struct{}), block: make(chan struct{})}
	r := newRig(t, newMemory(), withProbe(p), func(c *actors.Config) { c.QueueLimit = 2 })
	go func() { _, _ = r.probe(context.Background(), "a", "block", "") }()
	<-p.entered
	taken, refused := r.gather("a", 5, time.Time{}), r.gather("a", 5, time.Time{})
	r.SubmitBundle(r.shardOf("a"), &taken.bundle)
	r.SubmitBundle(r.shardOf("a"), &refused.bundle)
	for _, e := range refused.ends {
		if err := <-e; !errors.Is(err, failure.Overloaded) {
			t.Errorf("beyond the limit: %v", err)
		}
	}
	close(p.block)
	for _, e := range taken.ends {
		if err := <-e; err != nil {
			t.Error(err)
		}
	}
	if got, err := r.counter("a").Get(t.Context()); got != 5 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

// TestBundleRefusesAtOnce what no shard should see, and runs the rest.
func TestBundleRefusesAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory())
	bad := r.gather("", 1, time.Time{})
	if err := <-bad.ends[0]; !errors.Is(err, failure.InvalidKey) {
		t.Error(err)
	}
	r.SubmitBundle(0, &bad.bundle)
	late := r.gather("a", 1, time.Unix(1, 0))
	r.SubmitBundle(r.shardOf("a"), &late.bundle)
	if err := <-late.ends[0]; !errors.Is(err, failure.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestMemoOfAnEarlierLife of the session: the shard looks for it again when it
// was evicted, when the shard has reloaded, and when it was closed.
func TestMemoOfAnEarlierLife(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	id, memo := r.mustOpen(t, "a"), new(handles.Memo)
	add := func(number uint64) (int64, error) {
		var reply quernv1.CounterServiceAddResponse
		done := make(end, 1)
		r.Submit(r.shardOf("a"), &actors.Operation{
			Kind: "counter", Key: "a", Method: "Add", Session: actors.Session{ID: id, Number: number}, Memo: memo,
			Command: plus(1), Reply: &reply,
		}, time.Time{}, done)
		err := <-done
		return reply.GetValue(), err
	}
	if _, err := add(1); err != nil || memo.Found == nil {
		t.Fatal(err, memo.Found)
	}
	known := memo.Found
	for _, step := range []struct {
		number uint64
		err    error
	}{{2, nil}, {1, nil}} {
		if _, err := add(step.number); !errors.Is(err, step.err) || memo.Found != known {
			t.Error(err, memo.Found != known)
		}
	}
	r.Crash(r.shardOf("a"))
	r.Barrier(r.shardOf("a"))
	if _, err := add(3); err != nil || memo.Found == known {
		t.Errorf("after a reload: %v, the former session %t", err, memo.Found == known)
	}
	if got, err := r.counter("a").Get(t.Context()); got != 3 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
	if err := r.shut("a", id); err != nil {
		t.Fatal(err)
	}
	if _, err := add(4); !errors.Is(err, failure.SessionExpired) {
		t.Errorf("closed: %v", err)
	}
}
