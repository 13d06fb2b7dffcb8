package routing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/internal/frameconn"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

const (
	// dialTimeout bounds each step of a connection to another node.
	dialTimeout = time.Second
	// leastPause and mostPause bound the time to the next attempt.
	leastPause = 20 * time.Millisecond
	mostPause  = 200 * time.Millisecond
	// peerFrame is the largest frame that is taken from a node.
	peerFrame = 16 << 20
	// peerWrite is how long a node may take nothing of what it is sent.
	peerWrite = 3 * time.Second
)

// peerKey is a node at an address, which another node may have later.
type peerKey struct{ node, addr string }

// peer is the way to one node.
type peer struct {
	peerKey

	router *Router
	link   atomic.Pointer[link] // nil while there is none

	mu       sync.Mutex // guards what follows
	running  bool
	left     bool
	failures int
	again    time.Time // no attempt before
	close    context.CancelFunc
}

// connect sees to a link, unless there is one, one is under way, or the last
// attempt has failed just now. It does not block.
func (p *peer) connect() {
	if p.link.Load() != nil {
		return
	}
	r := p.router
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running || p.left || time.Now().Before(p.again) || !r.goes(func() { p.run() }) {
		return
	}
	p.running = true
}

// goes starts a goroutine unless the router has ended.
func (r *Router) goes(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.group.Go(f)
	return true
}

// leave ends the link for good.
func (p *peer) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = true
	if p.close != nil {
		p.close()
	}
}

// run has a link until it breaks.
func (p *peer) run() {
	r := p.router
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	p.mu.Lock()
	p.close = cancel
	if p.left {
		cancel()
	}
	p.mu.Unlock()
	began := time.Now()
	l, err := p.open(ctx)
	if err == nil {
		p.link.Store(l)
		r.log.Info("connected to a node", slog.String("node", l.hello.GetNode()), slog.String("addr", p.addr))
		r.hold.rouse()
		err = l.run(ctx)
		p.link.Store(nil)
	}
	p.paused(l != nil && time.Since(began) > time.Second)
	if l == nil {
		r.log.Debug("cannot connect to a node", slog.String("addr", p.addr), slog.Any("err", err))
	} else {
		r.log.Info("lost the connection to a node", slog.String("addr", p.addr), slog.Any("err", err))
		l.broke()
	}
	r.hold.rouse()
}

// paused lets the next attempt wait, the longer the more have failed.
func (p *peer) paused(lasted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.close = false, nil
	if lasted {
		p.failures = 0
		return
	}
	p.again = time.Now().Add(min(leastPause<<min(p.failures, 16), mostPause))
	p.failures++
}

var errHello = errors.New("routing: the node did not say hello")

// open makes a link.
func (p *peer) open(ctx context.Context) (*link, error) {
	f, err := p.router.cfg.Dial(ctx, p.addr)
	if err != nil {
		return nil, err
	}
	late := time.AfterFunc(dialTimeout, f.Close)
	b, err := f.Recv()
	if !late.Stop() || err != nil {
		f.Close()
		return nil, errors.Join(errHello, err)
	}
	var m quernv1.GrainServiceStreamResponse
	if err := proto.Unmarshal(b, &m); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w: %w", errHello, err)
	}
	h := m.GetHello()
	if err := p.meant(h); err != nil {
		f.Close()
		return nil, err
	}
	return newLink(p, f, h), nil
}

// meant says why the node that was reached is not the one that was meant. A lone
// node, or one of another cluster, would execute whatever it is sent.
func (p *peer) meant(h *quernv1.StreamHello) error {
	r := p.router
	switch {
	case !bytes.Equal(h.GetClusterId(), r.ClusterID()):
		return fmt.Errorf("%w of a node of this cluster: its id is %x, not %x", errHello, h.GetClusterId(), r.ClusterID())
	case h.GetNode() != p.node:
		return fmt.Errorf("%w of %s: it is %s", errHello, p.node, h.GetNode())
	case h.GetShards() != r.shards || h.GetWindow() == 0 || h.GetMaxFrameBytes() == 0:
		return fmt.Errorf("%w of a node of this cluster: %d shards, not %d", errHello, h.GetShards(), r.shards)
	default:
		return nil
	}
}

var dialer = net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{
	Enable: true, Idle: time.Second, Interval: time.Second, Count: 2,
}}

// dialTCP is Config.Dial.
func dialTCP(ctx context.Context, addr string) (frame.Stream, error) {
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("routing: %w", err)
	}
	f, err := frameconn.Dial(ctx, conn, dialTimeout, frameconn.Config{MaxFrame: peerFrame, WriteTimeout: peerWrite})
	if err != nil {
		return nil, fmt.Errorf("routing: %w", err)
	}
	return f, nil
}
