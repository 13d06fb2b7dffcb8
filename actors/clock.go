package actors

import (
	"sync/atomic"
	"time"
)

// shardClock is the shard's own time: it starts at the later of the last
// committed time and the wall clock, and runs on by the monotonic clock.
type shardClock struct {
	cached int64 // what now has returned last; it never falls
	asked  bool  // in the present batch, so that cached is the time of it
	runs   bool
	// origin is the shard's time at clockOrigin, in Unix milliseconds.
	origin atomic.Int64
}

// start sets the clock. A clock that ran already does not go back.
func (k *shardClock) start(last int64) {
	now := time.Now()
	passed := now.Sub(clockOrigin)
	if k.runs {
		last = max(last, k.at(passed))
	}
	k.origin.Store(max(last, now.UnixMilli()) - passed.Milliseconds())
	k.runs, k.asked = true, false
}

// clockOrigin is where the monotonic clock of the process is counted from.
var clockOrigin = time.Now()

// seen reads the clock; any goroutine may call it.
func (k *shardClock) seen() int64 { return k.at(time.Since(clockOrigin)) }

// at is the time that the clock shows so long after clockOrigin.
func (k *shardClock) at(passed time.Duration) int64 { return k.origin.Load() + passed.Milliseconds() }

// begin begins a batch.
func (k *shardClock) begin() { k.asked = false }

// beginAt begins a batch whose time is known.
func (k *shardClock) beginAt(passed time.Duration) {
	k.cached, k.asked = max(k.cached, k.at(passed)), true
}

// now reads the clock at most once a batch.
func (s *shard) now() int64 {
	k := &s.clock
	if !k.asked {
		k.beginAt(time.Since(clockOrigin))
	}
	return k.cached
}

// epochShift leaves each activation 2^32 numbers before those of the next
// epoch.
const epochShift = 32

// shardNumbers are shared out among the shards, so that the first numbers of one
// are not those of another: a fencing token that belongs to another key is then
// hardly ever taken for the key's own.
const shardNumbers = 1 << 24

// firstNumber is below all numbers of an activation.
func (s *shard) firstNumber(epoch uint64) uint64 {
	return epoch<<epochShift + uint64(s.id)*shardNumbers/uint64(len(s.rt.shards))
}

// next is [Turn.Next]. The numbers of an activation start at its epoch, which
// is durable and higher than those before it; so none of them is stored. That
// asks for epochs below 2^32, and of a shard that moves or is restarted for
// fewer than 2^32 numbers per epoch; one that reloads goes on where it was.
func (s *shard) next() uint64 {
	s.sequence++
	return s.sequence
}
