package clusterproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Dialer opens a connection to a service.
type Dialer func(ctx context.Context) (net.Conn, error)

// DialTo returns the dialer of one address.
func DialTo(network, addr string) Dialer {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr) //nolint:wrapcheck // says all there is to say
	}
}

// gate holds up what passes while it is shut. Like a cut network it tells
// nobody, and lets late what was sent meanwhile.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // guarded by mu; closed while the gate is open
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) passing() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// shut reports whether it was open.
func (g *gate) shut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		g.open = make(chan struct{})
		return true
	default:
		return false
	}
}

func (g *gate) unlock() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// relay carries connections to a service, through gates that may depend on who
// has connected.
type relay struct {
	dial    Dialer
	through func(near net.Conn) []*gate
	lis     net.Listener
	ctx     context.Context //nolint:containedctx // the relay's own life
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// startRelay takes connections from lis until it is closed.
func startRelay(lis net.Listener, dial Dialer, through func(net.Conn) []*gate) *relay {
	ctx, cancel := context.WithCancel(context.Background())
	r := &relay{dial: dial, through: through, lis: lis, ctx: ctx, cancel: cancel}
	r.running.Go(func() {
		for {
			near, err := lis.Accept()
			if err != nil {
				return
			}
			r.running.Go(func() { r.serve(near) })
		}
	})
	return r
}

func (r *relay) close() {
	r.cancel()
	_ = r.lis.Close() // nothing is waited for there
	r.running.Wait()
}

// serve carries one connection until either end closes it, or both directions
// have ended.
func (r *relay) serve(near net.Conn) {
	defer near.Close() //nolint:errcheck // it has ended
	gates := r.through(near)
	if !r.pass(gates) {
		return
	}
	far, err := r.dial(r.ctx)
	if err != nil {
		return
	}
	defer far.Close() //nolint:errcheck // it has ended
	stop := context.AfterFunc(r.ctx, func() {
		_ = near.Close() // to end what reads or writes
		_ = far.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { r.carry(near, far, gates) })
	both.Go(func() { r.carry(far, near, gates) })
	both.Wait()
}

// pass waits until all gates are open; false where the relay has ended.
func (r *relay) pass(gates []*gate) bool {
	for _, g := range gates {
		select {
		case <-g.passing():
		case <-r.ctx.Done():
			return false
		}
	}
	return r.ctx.Err() == nil
}

// carry copies one direction. An end in good order closes that direction, any
// other one the connection.
func (r *relay) carry(from, to net.Conn, gates []*gate) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if !r.pass(gates) {
			return
		}
		if n > 0 {
			if _, failed := to.Write(buffer[:n]); failed != nil {
				err = errors.Join(failed, err)
			}
		}
		if errors.Is(err, io.EOF) {
			if half, ok := to.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
				return
			}
		}
		if err != nil {
			_ = from.Close() // the other direction ends, too
			_ = to.Close()
			return
		}
	}
}

// listen listens on a TCP address.
func listen(addr string) (net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("clusterproc: %w", err)
	}
	return l, nil
}
