package server

import (
	"maps"
	"slices"

	"github.com/quern-io/quern/failure"
)

// streamWaits is how many operations of a stream may wait for others.
const streamWaits = 65_536

var errTwice = failure.New(failure.InvalidField, "two operations of this stream have the same id")

var errStreamWaits = failure.New(failure.Overloaded, "%d operations of this stream wait already, as many as it takes", streamWaits)

// beginWait submits an operation that may wait. It leaves the window of the
// stream alone: whoever holds the lock that it waits for may need that.
// An id that waits already ends the stream: one of the two could not be given up.
func (s *stream) beginWait(o *streamOp) error {
	id := o.id
	s.mu.Lock()
	if _, twice := s.waits[id]; twice {
		s.mu.Unlock()
		o.Completed(0, errTwice)
		return errTwice
	}
	if len(s.waits) >= streamWaits || s.ended {
		s.mu.Unlock()
		o.Completed(0, errStreamWaits)
		return nil
	}
	if s.waits == nil {
		s.waits = make(map[uint64]func(final bool))
	}
	s.waits[id] = nil
	s.pending--
	s.bytes -= o.bytes
	o.waits = true
	s.mu.Unlock()
	cancel := s.grains.backend.SubmitWait(&o.sub.Op, o.sub.Deadline, o)
	if cancel == nil {
		return nil
	}
	s.mu.Lock()
	_, waits := s.waits[id]
	if waits {
		s.waits[id] = cancel
	}
	ended := s.ended
	s.mu.Unlock()
	if waits && ended {
		cancel(false)
	}
	return nil
}

// endWait follows the answer to an operation that waited. It needs mu.
func (s *stream) endWait(id uint64) {
	delete(s.waits, id)
	s.pending++ // for answered, which takes it off
}

// Cancel implements frame.Requests. What is answered already is no more to be
// found, and what does not wait will be soon.
func (s *stream) Cancel(id uint64) error {
	s.submit()
	s.mu.Lock()
	cancel := s.waits[id]
	s.mu.Unlock()
	if cancel != nil {
		cancel(true)
	}
	return nil
}

// cancelWaits gives up what waits. The client may come back, on another stream.
func (s *stream) cancelWaits() {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.waits))
	s.mu.Unlock()
	for _, cancel := range all {
		if cancel != nil {
			cancel(false)
		}
	}
}
