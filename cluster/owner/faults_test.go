package owner_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/clustertest"
)

var (
	firstSeed = flag.Uint64("seed", 0, "the first seed of TestFaults")
	seeds     = flag.Uint64("seeds", 8, "how many seeds TestFaults plays")
)

// chaos plays faults on a cluster, several at a time.
type chaos struct {
	*world

	live  []*node
	names int
	saved []clustertest.Snapshot
	// log is what happened.
	log []string
	// keeps: the authority forgets nothing. Where each node has a store of its
	// own, epochs rise only then: whoever knew the last one may be gone.
	keeps bool
}

func (c *chaos) say(format string, args ...any) {
	c.log = append(c.log, fmt.Sprintf("%v ", c.clock().Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (c *chaos) chance(percent int) bool { return c.rng.IntN(100) < percent }

func (c *chaos) between(from, to time.Duration) time.Duration {
	return from + time.Duration(c.rng.Int64N(int64(to-from)))
}

// later does something after a while, if the test still runs.
func (c *chaos) later(d time.Duration, do func()) {
	timer := time.AfterFunc(d, do)
	c.Cleanup(func() { timer.Stop() })
}

// boots begins a life in the background: it may have to wait for its name, or
// for the authority.
func (c *chaos) boots(name string) {
	n := c.boot(name)
	c.live = append(c.live, n)
	go func() { _ = n.owner.Start(context.Background()) }()
}

func (c *chaos) fault() {
	i := c.rng.IntN(len(c.live))
	n := c.live[i]
	name := n.member.Name
	span := c.between(100*time.Millisecond, 8*time.Second)
	what := c.rng.IntN(16)
	if c.keeps && what >= 10 && what <= 13 {
		what = c.rng.IntN(10)
	}
	switch what {
	case 0:
		c.say("%s is killed", name)
		n.kill()
		c.live = slices.Delete(c.live, i, i+1)
		c.say("and started again")
		c.boots(name)
	case 1:
		if len(c.live) < 5 {
			c.names++
			name = fmt.Sprint("n", c.names)
			c.say("%s is started", name)
			c.boots(name)
		}
	case 2:
		if len(c.live) > 2 {
			c.say("%s leaves", name)
			c.live = slices.Delete(c.live, i, i+1)
			ctx, cancel := context.WithTimeout(context.Background(), c.between(time.Millisecond, 10*time.Second))
			go func() {
				defer cancel()
				_ = n.owner.Leave(ctx)
			}()
		}
	case 3, 4:
		c.say("%s is paused for %v", name, span)
		n.pause()
		c.later(span, n.resume)
	case 5, 6:
		c.say("%s is cut off for %v", name, span)
		n.client.Stall()
		c.later(span, n.client.Resume)
	case 7:
		c.say("%s is refused for %v", name, span)
		n.client.Cut()
		c.later(span, n.client.Heal)
	case 8:
		c.say("the authority stalls for %v", span)
		c.twin.Stall()
		c.later(span, c.twin.Resume)
	case 9:
		c.say("the authority is stopped for %v", span)
		c.twin.Stop()
		c.later(span, c.twin.Start)
	case 10:
		if c.chance(50) {
			c.say("the authority is emptied")
			c.saved = nil
			c.twin.Empty()
		}
	case 11:
		c.say("a snapshot is taken")
		c.saved = append(c.saved, c.twin.Snapshot())
	case 12:
		if len(c.saved) > 0 {
			c.say("a snapshot is restored")
			c.twin.Restore(c.saved[c.rng.IntN(len(c.saved))])
		}
	case 13:
		shard := c.rng.Uint32N(c.shards)
		c.say("lock %d is deleted", shard)
		c.twin.DeleteLock(clusterName, shard)
	case 14:
		c.say("peers do not reach %s for %v", name, span)
		c.cutPeers(name, true)
		c.later(span, func() { c.cutPeers(name, false) })
	case 15:
		c.say("replies to %s are lost", name)
		n.client.LoseReplies(1 + c.rng.IntN(10))
	}
	// Outcomes are unclear only of stores that are somewhere else.
	for range c.rng.IntN(6) {
		if !c.shared {
			break
		}
		c.live[c.rng.IntN(len(c.live))].shards.reraise(c.rng.Uint32N(c.shards))
	}
}

// play runs a cluster through faults and then through calm.
func play(t *testing.T, seed uint64) {
	t.Helper()
	bubble(t, seed, 16, seed%2 == 0, func(w *world) {
		w.lookEvery = 50 * time.Millisecond
		c := &chaos{world: w, keeps: seed%4 == 1}
		w.witness.forgets = !w.shared && !c.keeps
		defer func() {
			if t.Failed() {
				for _, line := range c.log {
					t.Log(line)
				}
			}
		}()
		for range 1 + w.rng.IntN(5) {
			c.names++
			c.boots(fmt.Sprint("n", c.names))
		}
		w.run(5 * time.Second)
		for range 40 {
			c.fault()
			if c.chance(50) {
				w.run(c.between(10*time.Millisecond, time.Second))
			} else {
				w.run(c.between(time.Second, 8*time.Second))
			}
		}
		w.run(10 * time.Second)
		w.settle(60*time.Second, c.live...)
		w.gap()
		// In calm nothing happens any more.
		w.run(20 * time.Second)
		if gap := w.gap(); gap > 0 {
			t.Errorf("in calm a shard was without an owner for %v", gap)
		}
		for _, n := range c.live {
			c.looksRight(n)
		}
	})
}

// looksRight compares a node's view with what is.
func (w *world) looksRight(n *node) {
	w.Helper()
	v := n.owner.View()
	if !v.Fresh || v.Err != nil || v.Self.State != cluster.Ready {
		w.Errorf("%s: the view is %+v", n.member.Name, v)
	}
	for shard := range w.shards {
		m, epoch, ok := v.Owner(shard)
		w.mu.Lock()
		by := w.nodes[m.Incarnation]
		w.mu.Unlock()
		if !ok || by == nil {
			w.Errorf("%s knows no owner of shard %d", n.member.Name, shard)
			continue
		}
		if served, answers := by.shards.answers(shard, w.clock()); !answers || served != epoch {
			w.Errorf("%s sees shard %d#%d on %s, which answers: %t, #%d", n.member.Name, shard, epoch, m.Name, answers, served)
		}
	}
}

// TestFaults: whatever happens, never two nodes answer for one shard, and
// epochs rise; when it is over, all is served evenly, and every node knows by
// whom.
func TestFaults(t *testing.T) {
	t.Parallel()
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			play(t, seed)
		})
	}
}
