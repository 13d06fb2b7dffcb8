package owner_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/owner"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs a test on a cluster of its own.
func bubble(t *testing.T, seed uint64, shards uint32, shared bool, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, shards, shared)
		defer w.end()
		test(w)
	})
}

// TestOneToFive starts nodes one after the other, and lets them leave.
func TestOneToFive(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		var nodes []*node
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			nodes = append(nodes, w.start(name))
			w.settle(5*time.Second, nodes...)
		}
		w.gap()
		for len(nodes) > 1 {
			began := w.clock()
			if err := nodes[0].owner.Leave(w.Context()); err != nil {
				w.Fatal(err)
			}
			took := w.clock() - began
			nodes = nodes[1:]
			w.settle(5*time.Second, nodes...)
			if gap := w.gap(); gap > time.Second || took > time.Second {
				w.Errorf("a leave took %v, with a gap of %v", took, gap)
			}
		}
	})
}

// TestIdle: an idle node of three, at 256 shards, asks the authority at most 10
// times a second.
func TestIdle(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 256, true, func(w *world) {
		nodes := []*node{w.start("a"), w.start("b"), w.start("c")}
		w.settle(10*time.Second, nodes...)
		pass(15 * time.Second) // watches that were short end
		const seconds = 20
		before := w.twin.Requests()
		pass(seconds * time.Second)
		each := float64(w.twin.Requests()-before) / seconds / 3
		t.Logf("an idle node asks %.2f times a second", each)
		// Proofs of 86 shards are two transactions, twice a second; a renewal of
		// the check comes every 0.67 s, one of the session every 5 s, and each of
		// two watches answers every 10 s.
		if each > 6.2 {
			t.Errorf("an idle node asks %.2f times a second", each)
		}
		// One lock that nobody can have is enough to keep watches short.
		w.twin.Restore(w.twin.Snapshot())
		nodes[0].setSkew(time.Hour)
		nodes[1].setSkew(time.Hour)
		nodes[2].setSkew(time.Hour)
		pass(15 * time.Second)
		w.twin.DeleteLock(clusterName, 7)
		pass(15 * time.Second)
		before = w.twin.Requests()
		pass(seconds * time.Second)
		each = float64(w.twin.Requests()-before) / seconds / 3
		t.Logf("with a shard that nobody takes it asks %.2f times a second", each)
		if w.unserved() != 1 || each > 10 {
			t.Errorf("with %d shards that nobody takes it asks %.2f times a second", w.unserved(), each)
		}
	})
}

// TestSkew: a node whose clock is off gets no shards, says so, keeps what it
// has, and takes part again when the clock is right.
func TestSkew(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		a := w.start("a")
		w.settle(5*time.Second, a)
		b := w.boot("b")
		b.setSkew(-6 * time.Second)
		if err := b.owner.Start(w.Context()); err != nil {
			t.Fatal(err)
		}
		w.run(10 * time.Second)
		if v := b.owner.View(); !v.Skewed || v.Self.State != cluster.Joining || v.Skew != -6*time.Second {
			t.Errorf("its view is %+v", v)
		}
		w.settle(0, a)
		b.setSkew(time.Second)
		w.settle(10*time.Second, a, b)
		b.setSkew(time.Minute)
		w.run(15 * time.Second)
		if v := b.owner.View(); !v.Skewed || v.Self.State != cluster.Cordoned {
			t.Errorf("its view is %+v", v)
		}
		w.settle(0, a, b)
		// What it loses it does not take again.
		w.twin.EndSession(w.session(b))
		w.run(10 * time.Second)
		if n := b.count(); n != 0 {
			t.Errorf("it serves %d shards", n)
		}
		b.setSkew(0)
		w.settle(10*time.Second, a, b)
	})
}

// TestNames: a second process of one name waits for the first to be missed, and
// is refused where it is not. Of two that come together one has the name.
func TestNames(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		a := w.start("a")
		w.settle(5*time.Second, a)
		began := w.clock()
		err := w.boot("a").owner.Start(w.Context())
		if took := w.clock() - began; !errors.Is(err, owner.ErrName) || took < 4*time.Second || took > 5*time.Second {
			t.Errorf("a second one: %v after %v", err, took)
		}
		w.settle(0, a)
		errs := make(chan error, 3)
		for range 3 {
			n := w.boot("b")
			go func() { errs <- n.owner.Start(w.Context()) }()
		}
		refused := 0
		for range 3 {
			if err := <-errs; errors.Is(err, owner.ErrName) {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
		if refused != 2 {
			t.Errorf("%d of three are refused", refused)
		}
	})
}

// TestAddresses: nor may a node announce an address that another has, by whatever
// name; it may when the other was missed.
func TestAddresses(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		a := w.start("a")
		w.settle(5*time.Second, a)
		began := w.clock()
		err := w.bootAt("b", a.member.Addr).owner.Start(w.Context())
		if took := w.clock() - began; !errors.Is(err, owner.ErrAddr) || took < 4*time.Second || took > 5*time.Second {
			t.Errorf("another name: %v after %v", err, took)
		} else if text := err.Error(); !strings.Contains(text, a.member.Name+", ") || !strings.Contains(text, a.member.Addr) {
			t.Errorf("it does not say who has it: %v", err)
		}
		w.settle(0, a)
		errs := make(chan error, 2)
		for _, name := range []string{"c", "d"} {
			n := w.bootAt(name, "c:1")
			go func() { errs <- n.owner.Start(w.Context()) }()
		}
		if one, two := <-errs, <-errs; errors.Is(one, owner.ErrAddr) == errors.Is(two, owner.ErrAddr) {
			t.Errorf("of two that come together: %v, %v", one, two)
		}
		a.kill()
		began = w.clock()
		e := w.bootAt("e", a.member.Addr)
		if err := e.owner.Start(w.Context()); err != nil || w.clock() > began+3*time.Second {
			t.Errorf("after the other was killed: %v after %v", err, w.clock()-began)
		}
	})
}

// TestStart: it waits for an authority that is away, ends with its context, and
// refuses another cluster's record.
func TestStart(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		w.twin.Stop()
		n := w.boot("a")
		ctx, cancel := context.WithTimeout(w.Context(), 7*time.Second)
		defer cancel()
		if err := n.owner.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without an authority: %v", err)
		}
		n = w.boot("a")
		time.AfterFunc(20*time.Second, w.twin.Start)
		if err := n.owner.Start(w.Context()); err != nil || w.clock() < 20*time.Second {
			t.Errorf("when it comes: %v at %v", err, w.clock())
		}
		w.shards = 64
		if err := w.boot("b").owner.Start(w.Context()); !errors.Is(err, cluster.ErrRecord) {
			t.Errorf("with another number of shards: %v", err)
		}
		w.shards = 32
		n.client.Deny()
		pass(5 * time.Second)
		n.client.Heal()
		w.settle(10*time.Second, n)
		// Before it was started, and twice.
		idle := w.boot("c")
		if err := errors.Join(idle.owner.Leave(w.Context()), idle.owner.Close(w.Context())); err != nil {
			t.Error(err)
		}
		if err := idle.owner.Start(w.Context()); !errors.Is(err, owner.ErrClosed) {
			t.Errorf("after its end: %v", err)
		}
		if err := n.owner.Start(w.Context()); err == nil {
			t.Error("it starts twice")
		}
	})
}

// TestOtherRecord: under a record that does not fit a node owns nothing and says
// why, and goes on when the old one is back.
func TestOtherRecord(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		n := w.start("a")
		w.settle(5*time.Second, n)
		right := w.twin.Snapshot()
		w.twin.Empty()
		other := w.twin.Connect(clusterName, 0)
		if _, err := other.Establish(w.Context(), cluster.Record{Shards: 32, LockDelay: 3 * time.Second}); err != nil {
			t.Fatal(err)
		}
		w.run(5 * time.Second)
		if v := n.owner.View(); !errors.Is(v.Err, cluster.ErrRecord) || n.count() != 0 {
			t.Errorf("it serves %d shards: %v", n.count(), v.Err)
		}
		w.twin.Restore(right)
		w.settle(30*time.Second, n)
		if v := n.owner.View(); v.Err != nil {
			t.Error(v.Err)
		}
	})
}

// TestLeaveThatCannot: with the end of its context a Leave lets go of what is
// left, says so, and what was drained for nobody is served by others.
func TestLeaveThatCannot(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		a, b := w.start("a"), w.start("b")
		w.settle(5*time.Second, a, b)
		a.shards.mu.Lock()
		a.shards.drains = time.Minute
		a.shards.mu.Unlock()
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		began := w.clock()
		err := a.owner.Leave(ctx)
		if took := w.clock() - began; !errors.Is(err, owner.ErrNotGiven) || took > 1500*time.Millisecond {
			t.Errorf("after %v: %v", took, err)
		}
		w.settle(5*time.Second, b)
		// The last one has nobody to give to.
		if err := b.owner.Leave(w.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestClose: who is closed answers for nothing any more.
func TestClose(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		a := w.start("a")
		w.settle(5*time.Second, a)
		if err := a.owner.Close(w.Context()); err != nil || a.count() != 0 {
			t.Errorf("it answers for %d shards: %v", a.count(), err)
		}
	})
}
