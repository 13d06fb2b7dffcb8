package server

import (
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// cheap is a transport of which there may be many that are idle.
type cheap interface {
	// Bounded reports whether it cuts off a client that does not read by
	// itself.
	Bounded() bool
	// OnIdle sets a function that Recv calls when the client has been silent
	// for a while.
	OnIdle(idle func())
	// Interrupt lets Recv fail.
	Interrupt()
}

// cheaply is what a stream over such a transport has: its reader is the
// goroutine that serves it, and its writer is a goroutine only while there is
// something to write, and until the client has been silent for a while.
type cheaply struct {
	over    cheap // nil: another transport
	bounded bool
	awake   atomic.Bool   // there is a writer
	park    chan struct{} // room for one: the writer is not needed
	result  chan error    // what the writer has ended with
}

func (s *stream) serveCheaply(c cheap) error {
	s.over, s.bounded = c, c.Bounded()
	s.park, s.result = make(chan struct{}, 1), make(chan error, 1)
	c.OnIdle(s.idled)
	if err := s.hello(); err != nil {
		return err
	}
	defer s.forgetSessions()
	s.read <- s.readAll()
	s.rouse()
	return <-s.result
}

// rouse lets the writer look for something to send.
func (s *stream) rouse() {
	s.signal(s.wake)
	if s.over != nil && s.awake.CompareAndSwap(false, true) {
		s.grains.readers.Go(s.writeWhileAwake)
	}
}

// writeWhileAwake is the writer. A panic beneath it must not end the process.
func (s *stream) writeWhileAwake() {
	err := errParked
	defer func() {
		if p := recover(); p != nil {
			err = s.refuse(s.grains.failure(s.frames.Context(), &panicked{value: p, stack: debug.Stack()}))
		}
		if err == errParked { //nolint:errorlint // it is never wrapped
			return
		}
		s.end()
		s.over.Interrupt()
		s.result <- err
	}()
	s.grains.parked.remove(s)
	for {
		if err = s.write(); err != errParked { //nolint:errorlint // as above
			return
		}
		s.grains.parked.add(s)
		s.awake.Store(false)
		// Who comes from here on starts another writer; who came before it has
		// left a signal.
		if len(s.wake) == 0 && !s.grains.gate.closed.Load() || !s.awake.CompareAndSwap(false, true) {
			return
		}
		s.grains.parked.remove(s)
	}
}

// idled gives back what a busy stream keeps for its next frame. The reader calls
// it.
func (s *stream) idled() {
	s.gathered, s.shards = perShard[gathered]{}, nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending > 0 || s.sending || s.out.len() > 0 {
		return
	}
	s.out, s.buffer = outgoing{}, nil
	if len(s.waits) == 0 { // else somebody may look meanwhile
		s.forgetSides()
	}
	if s.awake.Load() {
		s.signal(s.park)
	}
}

// parked are the streams without a writer, which a node that stops has to wake.
type parked struct {
	mu  sync.Mutex
	all map[*stream]struct{} // guarded by mu
}

func (p *parked) add(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = make(map[*stream]struct{})
	}
	p.all[s] = struct{}{}
}

func (p *parked) remove(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, s)
}

// rouse wakes all of them.
func (p *parked) rouse() {
	p.mu.Lock()
	all := p.all
	p.all = nil
	p.mu.Unlock()
	for s := range all {
		s.rouse()
	}
}
