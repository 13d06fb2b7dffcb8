package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/internal/frameconn"
	"github.com/quern-io/quern/internal/wire"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

const (
	helloTimeout = 5 * time.Second
	// giveUpEvery is how often operations that wait for a node are looked at.
	giveUpEvery = 50 * time.Millisecond
)

// opener opens streams.
type opener func(ctx context.Context) (frame.Stream, error)

// dialled is what an attempt to get a stream came to.
type dialled struct {
	frames frame.Stream
	hello  *quernv1.StreamHello
	err    error
}

// dial opens a stream and reads its hello.
func (o opener) dial(ctx context.Context) dialled {
	f, err := o(ctx)
	if err != nil {
		return dialled{err: err}
	}
	late := time.AfterFunc(helloTimeout, f.Close)
	hello, err := greet(f)
	late.Stop()
	if err != nil {
		f.Close()
		return dialled{err: err}
	}
	return dialled{frames: f, hello: hello}
}

// maintain keeps the stream of a place up, beginning with d, until ctx ends.
func (e *engine) maintain(ctx context.Context, place int, open opener, d dialled) {
	pause := minBackoff
	for ctx.Err() == nil {
		if d.err == nil {
			began := time.Now()
			d.err = e.use(ctx, place, d)
			if time.Since(began) > maxBackoff { // else it is a stream that something breaks
				pause = minBackoff
			}
		}
		e.sweep()
		e.failing(d.err)
		if !e.rest(ctx, pause) {
			return
		}
		pause = min(2*pause, maxBackoff)
		d = e.redial(ctx, open)
	}
}

// use works on a stream until it breaks.
func (e *engine) use(ctx context.Context, place int, d dialled) error {
	if d.hello.GetShards() != e.shards {
		d.frames.Close()
		return fmt.Errorf("client: %s has %d shards instead of %d; it belongs to another cluster", d.hello.GetNode(), d.hello.GetShards(), e.shards)
	}
	l := newLink(e, place, d.frames, d.hello)
	e.mu.Lock()
	e.connected(l)
	e.mu.Unlock()
	if hook := e.options.Hooks.Connected; hook != nil {
		hook(d.hello.GetNode())
	}
	err := l.run(ctx)
	e.mu.Lock()
	e.broke(l, err)
	e.mu.Unlock()
	if hook := e.options.Hooks.Disconnected; hook != nil {
		hook(err)
	}
	return err
}

// failing notes why there is no stream.
func (e *engine) failing(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.up() != nil {
		return // another stream serves
	}
	e.down = err
	if e.options.Patience < 0 {
		e.drop(func(c *call) error { return unreached(c, err) })
	}
}

// redial gets a stream. Operations whose time is up meanwhile are told.
func (e *engine) redial(ctx context.Context, open opener) dialled {
	ctx, cancel := context.WithCancel(ctx)
	result := make(chan dialled, 1)
	go func() { result <- open.dial(ctx) }()
	look := time.NewTicker(giveUpEvery)
	defer look.Stop()
	for {
		select {
		case d := <-result:
			if d.err != nil {
				cancel()
			} else {
				d.frames = &cancelling{d.frames, cancel}
			}
			return d
		case <-look.C:
			e.sweep()
		}
	}
}

// cancelling ends the context of its stream with it.
type cancelling struct {
	frame.Stream

	cancel context.CancelFunc
}

// Abandon implements abandoner.
func (c *cancelling) Abandon() {
	if a, ok := c.Stream.(abandoner); ok {
		a.Abandon()
	}
}

func (c *cancelling) Close() {
	c.Stream.Close()
	c.cancel()
}

// rest waits before another attempt; false where ctx ended.
func (e *engine) rest(ctx context.Context, pause time.Duration) bool {
	end := time.NewTimer(pause)
	defer end.Stop()
	look := time.NewTicker(giveUpEvery)
	defer look.Stop()
	for {
		select {
		case <-end.C:
			return true
		case <-look.C:
			e.sweep()
		case <-ctx.Done():
			return false
		}
	}
}

func (e *engine) sweep() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.giveUp(time.Now(), e.down)
}

var streamDesc = grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true}

// opener opens the streams of a place: over a connection of their own, or over
// gRPC's where the node does not speak that, or Options.GRPC is set.
func (c *Client) opener(place int) opener {
	return func(ctx context.Context) (frame.Stream, error) {
		if c.options.GRPC {
			return c.openStream(ctx, c.conns[place], c.dialers[place])
		}
		f, err := c.openFramed(ctx, c.targets...)
		if !errors.Is(err, frameconn.ErrNotSpoken) {
			return f, err
		}
		f, failed := c.openStream(ctx, c.conns[place], c.dialers[place])
		if failed != nil {
			return nil, fmt.Errorf("%w (%w; %w)", errNoNode, failed, err)
		}
		return f, nil
	}
}

func (c *Client) openStream(ctx context.Context, conn *grpc.ClientConn, d *dialer) (frame.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	conn.Connect()
	stream, err := conn.NewStream(ctx, &streamDesc, quernv1.GrainService_Stream_FullMethodName,
		grpc.ForceCodecV2(wire.NewCodec()), grpc.MaxCallRecvMsgSize(c.options.MaxMessageBytes))
	if err != nil {
		cancel()
		if last := c.dials.last(); last != nil {
			err = errors.Join(last, err)
		}
		return nil, fmt.Errorf("client: open a stream to %s: %w", c.addrs, err)
	}
	return &grpcFrames{stream: stream, cancel: cancel, dialer: d}, nil
}

// grpcFrames is a stream of gRPC.
type grpcFrames struct {
	stream grpc.ClientStream
	cancel context.CancelFunc
	dialer *dialer
}

func (f *grpcFrames) Context() context.Context { return f.stream.Context() }

func (f *grpcFrames) Send(b []byte) error {
	if err := f.stream.SendMsg(wire.Copy(b)); err != nil {
		// The reader knows what ended the stream.
		return fmt.Errorf("client: send a frame: %w", err)
	}
	return nil
}

func (f *grpcFrames) Recv() ([]byte, error) {
	var raw wire.Frame
	if err := f.stream.RecvMsg(&raw); err != nil {
		return nil, fmt.Errorf("client: the stream ended: %w", err)
	}
	return raw.Bytes, nil
}

func (f *grpcFrames) Close() { f.cancel() }

// Abandon implements abandoner.
func (f *grpcFrames) Abandon() { f.dialer.cut() }
