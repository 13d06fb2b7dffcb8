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
// grain sees it expired at once; a sweep clears away what nobody uses, and
// passes on what others wait for.
const sweepEvery = 100 * time.Millisecond

// sweepPage is how many timers of a shard one sweep runs. The next one follows
// when these have had their turns.
const sweepPage = 128

// timers is what a shard knows of its timer table.
type timers struct {
	// cursor is where the next sweep goes on: a page that was full is
	// followed by the next one, also where nothing of it could be run.
	cursor []byte
	// next is a lower bound of the earliest due time; 0 is none. The sweeper
	// reads it.
	next     atomic.Int64
	underWay bool
	// flying is the earliest timer that was cut and has not landed, missed
	// the earliest that the sweep under way may not have seen; 0 is none.
	flying, missed int64
}

func (t *timers) reset() {
	t.next.Store(0)
	t.underWay, t.cursor, t.flying, t.missed = false, nil, 0, 0
}

// goOn reads the next page once the turns of the last one are over.
func (t *timers) goOn(s *shard) {
	if t.cursor != nil && s.box.ready.n == 0 {
		s.sweep()
	}
}

// cut notes a timer that goes with the next commit.
func (t *timers) cut(due int64) {
	t.flying = earlier(t.flying, due)
	if t.underWay {
		t.missed = earlier(t.missed, due)
	}
	t.next.Store(earlier(t.next.Load(), due))
}

// earlier returns the earlier of two times, of which 0 is never.
func earlier(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
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
	if due != 0 {
		s.timers.cut(due)
	}
}

// sweep looks for what is due.
func (s *shard) sweep() {
	if s.phase != serving || s.timers.underWay || s.drained != nil {
		return
	}
	s.timers.underWay, s.timers.missed = true, s.timers.flying
	activation, now, from := s.activation, s.now(), s.timers.cursor
	s.rt.loader.run(func(ctx context.Context) {
		page, err := s.rt.readTimers(ctx, s.id, from, now)
		s.box.post(func() { s.swept(activation, page, err) })
	})
}

// timerPage is what a sweep has read.
type timerPage struct {
	due []timerKey
	// cursor is where the next page begins; nil where this was the last.
	cursor []byte
	// next is the time of the first timer that is not due; 0 is none.
	next int64
}

// readTimers returns the timers that are due, from a cursor on, at most a page.
func (r *Runtime) readTimers(ctx context.Context, shard uint32, from []byte, now int64) (page timerPage, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	table := []byte{tableTimer}
	if from == nil {
		from = table
	}
	err = r.store.Scan(ctx, shard, from, prefixEnd(table), func(key, _ []byte) bool {
		t, err := parseTimerKey(key)
		if err != nil {
			r.log.ErrorContext(ctx, "timer record ignored", slog.Any("shard", shard), slog.Any("err", err))
			return true
		}
		switch {
		case t.due > now:
			page.next = t.due
			return false
		case len(page.due) == sweepPage:
			page.cursor = append([]byte{}, key...)
			return false
		}
		page.due = append(page.due, t)
		return true
	})
	return page, err
}

// swept gives each grain that is due its turn.
func (s *shard) swept(activation uint64, page timerPage, err error) {
	if activation != s.activation || s.phase != serving {
		return
	}
	s.timers.underWay = false
	if err != nil {
		s.rt.log.Warn("timers not read", slog.Any("shard", s.id), slog.Any("err", err))
		return
	}
	s.timers.cursor = page.cursor
	next := earlier(page.next, s.timers.missed)
	if page.cursor != nil {
		next = s.now()
	}
	s.timers.next.Store(next)
	for _, t := range page.due {
		// A kind that this version does not serve keeps its timers.
		index := s.rt.kindOf(t.kind)
		if t.kind == sessionKindName {
			index = s.rt.sessionIndex()
		}
		if index >= 0 {
			s.runDue(index, t)
		}
	}
}

// runDue lets a grain have its due turn. A timer of a state that the state does
// not know is removed.
func (s *shard) runDue(kindIndex int, t timerKey) {
	g := s.kinds[kindIndex].grains[t.key]
	if t.class == tableState && g != nil && g.flags&(loading|dirty|flying) == 0 && g.timer != t.due {
		s.gate.deletions = append(s.gate.deletions, appendTimerKey(nil, t.due, t.class, t.kind, t.key))
		return
	}
	c := s.rt.calls.get()
	c.state.Store(slotAbandoned) // nobody waits: completion recycles it
	c.task, c.admitted = taskDue, true
	c.kindIndex, c.key, c.due = kindIndex, t.key, t.due
	if t.class == tableOnce {
		c.once = onceSweep
	}
	s.box.ready.push(c) // rather than run here, so that it can stall
}

// onceSweep makes a due call load the kept answers. It is no id that a caller
// could send.
const onceSweep = "\xff"
