package bench

import (
	"sync/atomic"
	"time"
)

// schedule hands out the operations of an open loop. Operation i is due at
// i/rate, whoever is free takes the next one, and nothing is queued: what is
// due and not yet taken is only a difference of two numbers.
type schedule struct {
	interval float64 // nanoseconds from one operation to the next
	end      int64   // nanoseconds
	next     atomic.Int64
	pace     func(time.Duration, <-chan struct{})
	stop     <-chan struct{}
	// waiting is held by the one worker that waits for the next due time. It
	// is a channel because a mutex would hold up the time of a synctest bubble.
	waiting chan struct{}
}

func newSchedule(rate float64, d time.Duration, pace func(time.Duration, <-chan struct{}), stop <-chan struct{}) *schedule {
	return &schedule{
		interval: float64(time.Second) / rate,
		end:      int64(d),
		pace:     pace,
		stop:     stop,
		waiting:  make(chan struct{}, 1),
	}
}

// take returns the due time of the next operation when it has come; false
// when the load is over.
func (s *schedule) take(now func() int64) (due int64, ok bool) {
	if due, late, over := s.claim(now()); late || over {
		return due, !over
	}
	s.waiting <- struct{}{}
	defer func() { <-s.waiting }()
	for {
		t := now()
		due, late, over := s.claim(t)
		if late || over {
			return due, !over
		}
		s.pace(time.Duration(due-t), s.stop)
	}
}

// claim takes the next operation if it is due at now (late). Otherwise it says
// when it will be, or that the load is over.
func (s *schedule) claim(now int64) (due int64, late, over bool) {
	for {
		i := s.next.Load()
		due = s.due(i)
		switch {
		case now >= s.end || due >= s.end || s.ended():
			return 0, false, true
		case due > now:
			return due, false, false
		case s.next.CompareAndSwap(i, i+1):
			return due, true, false
		}
	}
}

func (s *schedule) due(i int64) int64 { return int64(float64(i) * s.interval) }

func (s *schedule) ended() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// backlog is the number of operations that were due at the given time and had
// not been taken.
func (s *schedule) backlog(at time.Duration) int64 {
	due := int64(float64(min(int64(at), s.end)) / s.interval)
	return max(0, due-s.next.Load())
}
