package owner_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/owner"
)

// moving is an authority of several servers, of which another one comes to
// lead: calls get no answer for a while, and reads that wait were passed on to a
// server from which nothing comes any more.
type moving struct {
	cluster.Authority

	mu    sync.Mutex
	moved chan struct{} // closed and replaced when another one leads
	leads time.Time     // since when
}

func (m *moving) elect(takes time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.moved)
	m.moved, m.leads = make(chan struct{}), time.Now().Add(takes)
}

// passed begins a read; what it returns says whether its answer is lost.
func (m *moving) passed(ctx context.Context) (lost func() error) {
	m.mu.Lock()
	moved := m.moved
	m.mu.Unlock()
	return func() error {
		select {
		case <-moved:
			<-ctx.Done()
			return fmt.Errorf("%w: %w", cluster.ErrUnreachable, ctx.Err())
		default:
			return nil
		}
	}
}

func (m *moving) Table(ctx context.Context, w cluster.Watch) (cluster.Table, error) {
	lost := m.passed(ctx)
	t, err := m.Authority.Table(ctx, w)
	if gone := lost(); gone != nil {
		return cluster.Table{}, gone
	}
	return t, err
}

func (m *moving) Members(ctx context.Context, w cluster.Watch) (cluster.Members, error) {
	lost := m.passed(ctx)
	list, err := m.Authority.Members(ctx, w)
	if gone := lost(); gone != nil {
		return cluster.Members{}, gone
	}
	return list, err
}

func (m *moving) Prove(ctx context.Context, s cluster.Session, shards []uint32) ([]cluster.Result, error) {
	m.mu.Lock()
	wait := time.Until(m.leads)
	m.mu.Unlock()
	if wait > 0 {
		return nil, cluster.ErrUnreachable
	}
	return m.Authority.Prove(ctx, s, shards)
}

// TestLostWatches: when another server of the authority leads, what it tells is
// seen at once, though reads that wait hang at the one before.
func TestLostWatches(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 64, true, func(w *world) {
		var all []*moving
		w.authority = func(a cluster.Authority) cluster.Authority {
			m := &moving{Authority: a, moved: make(chan struct{})}
			all = append(all, m)
			return m
		}
		nodes := []*node{w.start("a"), w.start("b"), w.start("c")}
		w.settle(10*time.Second, nodes...)
		w.run(20 * time.Second)
		w.gap()
		for _, m := range all {
			m.elect(time.Second)
		}
		nodes[2].kill()
		w.run(20 * time.Second)
		w.settle(time.Second, nodes[:2]...)
		if gap := w.gap(); gap > 5*time.Second {
			t.Errorf("a shard was without an owner for %v", gap)
		} else {
			t.Logf("%v without an owner", gap)
		}
	})
}

// TestSilent: a node that the authority does not answer takes no offers, since
// it could not take what is released to it.
func TestSilent(t *testing.T) {
	t.Parallel()
	bubble(t, 1, 32, true, func(w *world) {
		a := w.start("a")
		w.settle(5*time.Second, a)
		offer := func() error { return a.owner.Offered(cluster.NewIncarnation(), nil) }
		if err := offer(); err != nil {
			t.Error(err)
		}
		a.client.Cut()
		w.run(time.Second)
		if err := offer(); !errors.Is(err, owner.ErrSilent) {
			t.Errorf("while it is cut off: %v", err)
		}
		a.client.Heal()
		w.run(2 * time.Second)
		if err := offer(); err != nil {
			t.Error(err)
		}
	})
}
