package embedded

import (
	"log/slog"
	"time"
)

// supervise recovers the store whenever it breaks, until Close.
func (s *Store) supervise() {
	defer close(s.supervised)
	for {
		select {
		case <-s.closing:
			return
		case <-s.broken:
			s.recover()
		}
	}
}

// failed makes the store broken because of err, if g is its generation. It does
// not block and may be called under pebble's locks.
func (s *Store) failed(g *generation, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.gen != g || s.mu.phase != phaseOpen {
		return
	}
	s.mu.cause = err
	s.change(phaseBroken)
	s.o.Logger.Error("store is broken, recovering", slog.Any("err", err))
	signal(s.broken)
}

// recover replaces the generation that failed by a new one. It tries again for
// as long as that fails.
func (s *Store) recover() {
	s.mu.Lock()
	old := s.mu.gen
	s.mu.Unlock()
	old.fence.drain()
	s.write <- struct{}{}
	defer func() { <-s.write }()
	s.retire(old)
	s.metrics.recoveries.Inc()
	for pause := s.o.RetryMin; ; pause = min(2*pause, s.o.RetryMax) {
		g, err := s.openGeneration()
		if err == nil {
			s.install(g)
			return
		}
		if pause == s.o.RetryMin {
			s.o.Logger.Error("recovery fails, trying again", slog.Any("err", err))
		}
		if !s.wait(pause) {
			return
		}
	}
}

// wait waits for d and returns false where Close came first.
func (s *Store) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.closing:
		return false
	}
}

// install makes g the generation of the store.
func (s *Store) install(g *generation) {
	s.mu.Lock()
	recovered := s.mu.phase == phaseBroken
	s.mu.gen = g
	if s.mu.phase != phaseClosed {
		s.mu.cause = nil
		s.change(phaseOpen)
	}
	s.mu.Unlock()
	if recovered {
		s.o.Logger.Info("store is open again")
	}
	// It may have failed before it was the store's.
	if err := g.failure(); err != nil {
		s.failed(g, err)
	}
}
