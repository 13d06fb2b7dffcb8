package lease_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster/lease"
)

var (
	firstSeed = flag.Uint64("seed", 0, "the first seed of TestOneOwner")
	seeds     = flag.Uint64("seeds", 24, "how many seeds TestOneOwner plays")
)

// play runs one cluster through a minute of faults, and then through calm.
func play(seed uint64, omit lease.Omitted, blind bool) *world {
	w := newWorld(seed, omit, blind)
	w.run(6 * time.Second)
	for end := w.now + 2*time.Minute; w.now < end && w.wrong == ""; {
		w.fault()
		// Some faults hit what is still shaken, others what serves again.
		if w.chance(50) {
			w.run(w.between(4*time.Second, 8*time.Second))
		} else {
			w.run(w.between(50*time.Millisecond, 2*time.Second))
		}
	}
	w.calm = true
	w.locks.stalled = 0
	for _, n := range w.nodes {
		n.paused, n.cut, n.slow = 0, 0, 0
	}
	w.reshuffle()
	w.run(25 * time.Second)
	return w
}

// TestOneOwner: at no time two nodes would answer for one shard, and epochs
// rise. When the faults are over, each shard is served by who is to have it.
func TestOneOwner(t *testing.T) {
	t.Parallel()
	count := make(map[string]int)
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		w := play(seed, lease.NoOmitted, seed%2 == 1)
		if w.wrong != "" {
			t.Fatalf("seed %d: %s\n%s", seed, w.wrong, strings.Join(w.log, "\n"))
		}
		for shard := range uint32(worldShards) {
			for _, n := range w.nodes {
				if _, ok := n.machine.Serves(shard, n.clock()); ok != n.want[shard] {
					t.Fatalf("seed %d: %s serves shard %d: %t, but should: %t\n%s", seed, n.id, shard, ok, n.want[shard], strings.Join(w.log, "\n"))
				}
			}
		}
		for what, n := range w.count {
			count[what] += n
		}
	}
	// How often each must have happened in ten runs, lest this shows nothing.
	for what, least := range map[string]uint64{
		"served": 200, "kept": 30, "handed": 2, "loaded": 20,
		"reraised":        20,
		"stopped: lapsed": 30, "stopped: not_held": 30, "stopped: session_ended": 20, "stopped: given_up": 5,
	} {
		if *seeds >= 20 && count[what] < int(least**seeds/10) {
			t.Errorf("%q happened %d times in %d runs", what, count[what], *seeds)
		}
	}
	t.Log(fmt.Sprint(count))
}

// TestOmittedRulesAreNoticed: the same runs break as soon as a rule is missing.
// Each begins with a seed that is known to show it soon.
func TestOmittedRulesAreNoticed(t *testing.T) {
	t.Parallel()
	for omit, first := range map[lease.Omitted]uint64{
		lease.NoWait: 0, lease.NoGap: 0, lease.FromEnd: 90, lease.AnyEpoch: 0, lease.NoMargin: 80,
	} {
		t.Run(string(omit), func(t *testing.T) {
			t.Parallel()
			for seed := first; seed < first+300; seed++ {
				if w := play(seed, omit, seed%2 == 1); w.wrong != "" {
					t.Logf("seed %d: %s", seed, w.wrong)
					return
				}
			}
			t.Error("not noticed")
		})
	}
}
