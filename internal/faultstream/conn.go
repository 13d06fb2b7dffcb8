package faultstream

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/quern-io/quern/internal/frame"
)

// conn is one stream of the network.
type conn struct {
	net      *Network
	name     string
	plan     *plan
	up, down *pipe
	near     context.Context //nolint:containedctx // of the client's end, as frame.Stream has it
	far      context.Context //nolint:containedctx // of the server's
	leave    context.CancelFunc
	gone     context.CancelFunc

	mu      sync.Mutex // guards what follows
	rand    *rand.Rand
	carried [2]int // frames, down and up
	log     *record
}

func newConn(n *Network, ctx context.Context, name string, p *plan, r *rand.Rand) *conn { //nolint:revive // a method in all but name
	c := &conn{net: n, name: name, plan: p, up: newPipe(p.room), down: newPipe(p.room), rand: r, log: newRecord()}
	c.near, c.leave = context.WithCancel(ctx)
	c.far, c.gone = context.WithCancel(context.Background())
	return c
}

// clientEnd and serverEnd are the two ends.
type (
	clientEnd struct{ *conn }
	serverEnd struct{ *conn }
)

var _, _ frame.Stream = clientEnd{}, serverEnd{}

func (c clientEnd) Context() context.Context { return c.near }
func (c serverEnd) Context() context.Context { return c.far }

// Send implements frame.Stream.
func (c clientEnd) Send(b []byte) error {
	mine := seize(b)
	return c.up.send(mine, c.carry(true, mine))
}

// Send implements frame.Stream.
func (c serverEnd) Send(b []byte) error {
	mine := seize(b)
	return c.down.send(mine, c.carry(false, mine))
}

// seize takes a frame out of the buffer that a sender has given away, and
// spoils that: a sender that goes on to use it is found out.
func seize(b []byte) []byte {
	mine := append(make([]byte, 0, len(b)), b...)
	for i := range b {
		b[i] = 0xff
	}
	return mine
}

func (c clientEnd) Recv() ([]byte, error) { return c.down.recv() }
func (c serverEnd) Recv() ([]byte, error) { return c.up.recv() }

// Close implements frame.Stream: the client leaves, the server may be told
// later.
func (c clientEnd) Close() {
	if c.near.Err() != nil {
		return
	}
	if c.plan.tail > 0 {
		c.cutLate(c.plan.tail)
		return
	}
	c.cut()
}

// Close implements frame.Stream.
func (c serverEnd) Close() { c.cut() }

// cut fails both ends.
func (c *conn) cut() {
	c.log.broke()
	c.leave()
	c.gone()
	c.up.cut()
	c.down.cut()
}

// cutLate fails the client's end; the server gets what was under way.
func (c *conn) cutLate(tail time.Duration) {
	c.log.broke()
	c.leave()
	c.down.leave()
	c.up.release(tail)
}

// carry counts a frame, does what is due with it, and returns its delay.
func (c *conn) carry(up bool, b []byte) time.Duration {
	if up {
		c.log.sent(b)
	} else {
		c.net.opened(c.log.answered(b))
	}
	c.mu.Lock()
	direction := 0
	if up {
		direction = 1
	}
	c.carried[direction]++
	n, delay := c.carried[direction], upTo(c.rand, c.net.faults.Delay)
	c.mu.Unlock()
	if c.net.calm.Load() {
		return 0
	}
	for _, s := range c.plan.steps {
		if s.up == up && s.after == n {
			c.act(s)
		}
	}
	return delay
}

// act does to the stream what a step says.
func (c *conn) act(s step) {
	c.net.note("%s: %s", c.name, s)
	towards := c.down
	if s.up {
		towards = c.up
	}
	switch s.act {
	case actCut:
		c.cut()
	case actLate:
		c.cutLate(s.lasts)
	case actMute:
		towards.silence()
	case actHalfClose:
		c.up.end(io.EOF)
	case actStall:
		towards.hold(s.lasts)
	case actReplay:
		c.net.replayLater(c, s.lasts)
	}
}

// serve lets the server have the stream until it is done with it.
func (c *conn) serve(serve func(frame.Stream) error) {
	err := serve(serverEnd{c})
	if err == nil {
		err = io.EOF
	}
	c.gone()
	c.up.cut()
	c.down.end(err)
}
