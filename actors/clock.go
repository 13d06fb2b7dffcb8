package actors

import (
	"sync/atomic"
	"time"
)

// shardClock is the shard's own time: it starts at the later of the last
// committed time and the wall clock, and runs on by the monotonic clock.
type shardClock struct {
	cached int64 // of the present batch; 0 where nobody asked yet
	base   int64 // Unix milliseconds
	// origin is base less the monotonic time since clockOrigin at the start, so
	// that the sweeper can tell the shard's time.
	origin  atomic.Int64
	started time.Time
}

// start sets the clock. A clock that ran already does not go back.
func (k *shardClock) start(last int64) {
	if !k.started.IsZero() {
		last = max(last, k.read())
	}
	k.started = time.Now()
	k.base = max(last, k.started.UnixMilli())
	k.origin.Store(k.base - k.started.Sub(clockOrigin).Milliseconds())
	k.cached = 0
}

// clockOrigin is where the monotonic clock of the process is counted from.
var clockOrigin = time.Now()

// seen is read for other goroutines.
func (k *shardClock) seen() int64 { return k.origin.Load() + time.Since(clockOrigin).Milliseconds() }

func (k *shardClock) read() int64 { return k.base + time.Since(k.started).Milliseconds() }

// now reads the clock at most once a batch.
func (s *shard) now() int64 {
	k := &s.clock
	if k.cached == 0 {
		k.cached = k.read()
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
