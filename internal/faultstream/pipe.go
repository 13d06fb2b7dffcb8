package faultstream

import (
	"errors"
	"sync"
	"time"
)

// errCut is what the ends of a stream see that was cut.
var errCut = errors.New("faultstream: the stream was cut")

// packet is a frame under way.
type packet struct {
	bytes []byte
	due   time.Time
	never bool
}

// pipe is one direction of a stream.
type pipe struct {
	room int // how many packets may be under way before a sender waits

	mu      sync.Mutex // guards what follows
	queue   []packet
	last    time.Time // when the last packet is due
	mute    bool      // what is sent does not arrive
	left    bool      // the receiver fails, what is sent vanishes
	ended   error     // follows the queue
	broken  bool      // both ends fail at once
	changed chan struct{}
}

func newPipe(room int) *pipe { return &pipe{room: room, changed: make(chan struct{})} }

// change runs f and lets both ends look again.
func (p *pipe) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

// cut fails both ends.
func (p *pipe) cut() { p.change(func() { p.broken = true }) }

// end lets the receiver have what was sent, then err.
func (p *pipe) end(err error) {
	p.change(func() {
		if p.ended == nil {
			p.ended = err
		}
	})
}

// leave fails the receiver; the sender does not learn of it.
func (p *pipe) leave() { p.change(func() { p.left, p.queue = true, nil }) }

// silence loses what is sent from now on.
func (p *pipe) silence() { p.change(func() { p.mute = true }) }

// hold lets nothing arrive before d has passed.
func (p *pipe) hold(d time.Duration) {
	p.change(func() { p.last = later(p.last, time.Now().Add(d)) })
}

// release lets what is under way, stuck packets too, arrive within d, and then
// ends the pipe.
func (p *pipe) release(d time.Duration) {
	p.change(func() {
		due := time.Now().Add(d)
		for i := range p.queue {
			if k := &p.queue[i]; k.never || k.due.Before(due) {
				k.never, k.due = false, due
			}
		}
		if p.ended == nil {
			p.ended = errCut
		}
	})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// send waits for room and puts a frame under way.
func (p *pipe) send(b []byte, delay time.Duration) error {
	for {
		p.mu.Lock()
		switch {
		case p.broken || p.ended != nil:
			p.mu.Unlock()
			return errCut
		case p.left:
			p.mu.Unlock()
			return nil
		case len(p.queue) < p.room:
			p.last = later(p.last, time.Now().Add(delay))
			p.queue = append(p.queue, packet{b, p.last, p.mute})
			close(p.changed)
			p.changed = make(chan struct{})
			p.mu.Unlock()
			return nil
		}
		changed := p.changed
		p.mu.Unlock()
		<-changed
	}
}

// recv waits for a frame.
func (p *pipe) recv() ([]byte, error) {
	for {
		b, wait, changed, err := p.next()
		if b != nil || err != nil {
			return b, err
		}
		if wait == 0 {
			<-changed
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// next returns a frame that has arrived, or how long to wait for one; 0 where
// that is not known.
func (p *pipe) next() (b []byte, wait time.Duration, changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.broken || p.left:
		return nil, 0, nil, errCut
	case len(p.queue) == 0:
		return nil, 0, p.changed, p.ended
	case p.queue[0].never:
		return nil, 0, p.changed, nil
	}
	first := p.queue[0]
	if wait = time.Until(first.due); wait > 0 {
		return nil, wait, p.changed, nil
	}
	p.queue = p.queue[1:]
	close(p.changed)
	p.changed = make(chan struct{})
	return first.bytes, 0, nil, nil
}
