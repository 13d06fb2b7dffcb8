package faultstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/internal/frame"
)

var (
	errRefused = errors.New("faultstream: the stream was refused")
	errClosed  = errors.New("faultstream: the network is closed")
)

// notes bounds what is kept of what happened.
const notes = 4000

// Network lies between clients and one server. Its methods may be called
// concurrently.
type Network struct {
	seed    uint64
	faults  Faults
	calm    atomic.Bool
	start   time.Time
	running sync.WaitGroup
	closed  chan struct{}

	mu       sync.Mutex // guards what follows
	ended    bool
	serve    func(frame.Stream) error
	streams  uint64
	open     map[*conn]struct{}
	history  []string
	sessions []Session
}

// Session is one that the server has opened over the network.
type Session struct {
	Shard uint32
	ID    string
}

// New returns a network without a server. Its goroutines end by Close.
func New(seed uint64, f Faults) *Network {
	return &Network{seed: seed, faults: f, start: time.Now(), closed: make(chan struct{}), open: make(map[*conn]struct{})}
}

// Serve connects the server: serve is called with the server's end of each
// stream, in a goroutine of its own. Nil takes the server away: all streams are
// cut and nothing that is under way arrives.
func (n *Network) Serve(serve func(frame.Stream) error) {
	n.mu.Lock()
	n.serve = serve
	var cut []*conn
	if serve == nil {
		for c := range n.open {
			cut = append(cut, c)
		}
	}
	n.mu.Unlock()
	n.note("the server comes or goes; streams cut: %d", len(cut))
	for _, c := range cut {
		c.cut()
	}
}

// Calm ends all faults to come.
func (n *Network) Calm() {
	n.calm.Store(true)
	n.note("calm")
}

// Close cuts all streams and waits until the network is at rest. The server
// must return from them.
func (n *Network) Close() {
	n.Serve(nil)
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	close(n.closed)
	n.running.Wait()
}

// spawn runs f in a goroutine that Close waits for; false after Close.
func (n *Network) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.ended {
		n.running.Go(f)
	}
	return !n.ended
}

// Open is a client's opener.
func (n *Network) Open(ctx context.Context) (frame.Stream, error) {
	c, err := n.newStream(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.pause(ctx, c.plan.open); err != nil {
		return nil, err
	}
	if c.plan.refused || !n.begin(c) {
		return nil, errRefused
	}
	context.AfterFunc(c.near, clientEnd{c}.end) //nolint:contextcheck // the end of one is all that it takes
	return clientEnd{c}, nil
}

// end follows the client's context, as the streams of a transport do.
func (c clientEnd) end() {
	if c.plan.tail > 0 {
		c.cutLate(c.plan.tail)
	} else {
		c.cut()
	}
}

// pause waits; it fails where ctx or the network ends first.
func (n *Network) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // the opener's own
	case <-n.closed:
		return errClosed
	}
}

// newStream plans a stream.
func (n *Network) newStream(ctx context.Context) (*conn, error) {
	n.mu.Lock()
	n.streams++
	number, served := n.streams, n.serve != nil
	n.mu.Unlock()
	if !served {
		return nil, errRefused
	}
	r := rand.New(rand.NewPCG(n.seed, number)) //nolint:gosec // no secret
	p := calmPlan()
	if !n.calm.Load() {
		p = n.faults.newPlan(r)
	}
	c := newConn(n, ctx, fmt.Sprintf("stream %d", number), p, r)
	n.note("%s: %s", c.name, p)
	return c, nil
}

// begin gives a stream to the server; false where there is none.
func (n *Network) begin(c *conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	serve := n.serve
	if serve == nil || n.ended {
		return false
	}
	if c.plan.ungreeted {
		c.down.mute = true
	}
	n.open[c] = struct{}{}
	n.running.Go(func() {
		c.serve(serve)
		n.mu.Lock()
		delete(n.open, c)
		n.mu.Unlock()
	})
	return true
}

// opened notes sessions that the server has opened.
func (n *Network) opened(s []Session) {
	if len(s) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sessions = append(n.sessions, s...)
}

// Sessions returns those that were opened so far.
func (n *Network) Sessions() []Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]Session(nil), n.sessions...)
}

func (n *Network) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.history) < notes {
		n.history = append(n.history, fmt.Sprintf("%12v  ", time.Since(n.start))+fmt.Sprintf(format, args...))
	}
}

// Note adds a line to the schedule.
func (n *Network) Note(format string, args ...any) { n.note(format, args...) }

// Schedule tells what has happened so far, and when.
func (n *Network) Schedule() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Sprintf("seed %d\n", n.seed) + strings.Join(n.history, "\n")
}
