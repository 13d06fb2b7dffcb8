package actors

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// The timer table is the only index of what is due, resident or not: a sweep
// reads its beginning and gives each grain named there a turn.

// sweepEvery is how often the shards' timers are looked at. Whoever uses a
// grain sees it expired at once; a sweep only clears away what nobody uses.
const sweepEvery = 500 * time.Millisecond

// sweepPage is how many timers of a shard one sweep runs.
const sweepPage = 512

// timers is what a shard knows of its timer table.
type timers struct {
	// next is a lower bound of the earliest due time; 0 is none. The sweeper
	// reads it.
	next     atomic.Int64
	underWay bool
}

func (t *timers) reset() {
	t.next.Store(0)
	t.underWay = false
}

// encodeTimer moves a timer to its new due time in the flight.
func (s *shard) encodeTimer(f *flight, g *grain, class byte, timer *int64, due int64) {
	if due == *timer {
		return
	}
	name := g.kind.kind.Name()
	for _, t := range [...]struct {
		at     int64
		remove bool
	}{{*timer, true}, {due, false}} {
		if t.at == 0 {
			continue
		}
		start := len(f.arena)
		f.arena = appendTimerKey(f.arena, t.at, class, name, g.key)
		f.add(start, len(f.arena), t.remove)
	}
	*timer = due
	if next := s.timers.next.Load(); due != 0 && (next == 0 || due < next) {
		s.timers.next.Store(due)
	}
}

// sweep looks for what is due.
func (s *shard) sweep() {
	if s.phase != serving || s.timers.underWay || s.drained != nil {
		return
	}
	s.timers.underWay = true
	activation, now := s.activation, s.now()
	s.rt.loader.run(func(ctx context.Context) {
		due, next, err := s.rt.readTimers(ctx, s.id, now)
		s.box.post(func() { s.swept(activation, due, next, err) })
	})
}

// readTimers returns the timers that are due, at most a page, and the due time
// of the first that is left, 0 where none is.
func (r *Runtime) readTimers(ctx context.Context, shard uint32, now int64) (due []timerKey, next int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	from := []byte{tableTimer}
	err = r.store.Scan(ctx, shard, from, prefixEnd(from), func(key, _ []byte) bool {
		t, err := parseTimerKey(key)
		if err != nil {
			r.log.ErrorContext(ctx, "timer record ignored", slog.Any("shard", shard), slog.Any("err", err))
			return true
		}
		if t.due > now || len(due) == sweepPage {
			next = t.due
			return false
		}
		due = append(due, t)
		return true
	})
	return due, next, err
}

// swept gives each grain that is due its turn.
func (s *shard) swept(activation uint64, due []timerKey, next int64, err error) {
	if activation != s.activation || s.phase != serving {
		return
	}
	s.timers.underWay = false
	if err != nil {
		s.rt.log.Warn("timers not read", slog.Any("shard", s.id), slog.Any("err", err))
		return
	}
	if len(due) > 0 && next == 0 {
		// Look again: those that ran may have left timers anew.
		next = s.now()
	}
	s.timers.next.Store(next)
	for _, t := range due {
		// A kind that this version does not serve keeps its timers.
		if index := s.rt.kindOf(t.kind); index >= 0 {
			s.runDue(index, t)
		}
	}
}

// runDue runs a grain's due turn. A timer of a state that the state does not
// know is removed.
func (s *shard) runDue(kindIndex int, t timerKey) {
	g := s.kinds[kindIndex].grains[t.key]
	if t.class == tableState && g != nil && g.flags&(loading|dirty|flying) == 0 && g.timer != t.due {
		s.gate.deletions = append(s.gate.deletions, appendTimerKey(nil, t.due, t.class, t.kind, t.key))
		return
	}
	c := s.rt.calls.get()
	c.state.Store(slotAbandoned) // nobody waits: completion recycles it
	c.kindIndex, c.key, c.due = kindIndex, t.key, t.due
	if t.class == tableOnce {
		c.once = onceSweep
	}
	s.admit(c)
}

// onceSweep makes a due call load the kept answers. It is no id that a caller
// could send.
const onceSweep = "\xff"
