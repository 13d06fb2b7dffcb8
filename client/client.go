package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

const (
	// leastKeepAlive is the shortest time that grpc-go takes.
	leastKeepAlive = 10 * time.Second
	pingTimeout    = 3 * time.Second
	dialTimeout    = 5 * time.Second
	minBackoff     = 20 * time.Millisecond
	maxBackoff     = time.Second
)

// serviceConfig is the only service config: addresses in order, no retries.
const serviceConfig = `{"loadBalancingConfig":[{"pick_first":{}}],` +
	`"methodConfig":[{"name":[{}],"maxResponseMessageBytes":%d}]}`

// ErrUnreachable means that a call was not sent, since none of the addresses
// can be reached. Nothing happened; the same call can succeed later.
var ErrUnreachable = errors.New("client: no node can be reached")

var errNoNode = errors.New("no Quern node answered; is it the gRPC port?")

// Client is a connection to a Quern node. Its methods may be called
// concurrently.
type Client struct {
	options Options
	conns   []*grpc.ClientConn
	conn    *grpc.ClientConn // the first one
	dialers []*dialer        // of conns
	cluster quernv1.ClusterServiceClient
	addrs   string   // for people
	targets []string // to dial
	dials   dialErrors
	// engine is nil where every operation is a call of its own.
	engine   *engine
	cancel   context.CancelFunc
	upkeep   sync.WaitGroup
	closing  sync.Once
	closed   atomic.Bool
	closeErr error
}

var (
	_ handles.Batcher = (*Client)(nil)
	_ handles.Watcher = (*Client)(nil)
)

// Dial connects to target, which is one HOST:PORT or several, separated by
// commas, of the same cluster: the first one that answers is used, the others
// stand in for it. It returns when the connection is up. When ctx ends before
// that, the error wraps ctx's and [ErrUnreachable] and names the addresses.
func Dial(ctx context.Context, target string) (*Client, error) {
	return DialWith(ctx, target, Options{})
}

// DialWith is Dial with options.
func DialWith(ctx context.Context, target string, o Options) (*Client, error) {
	addrs, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	c := &Client{options: o.withDefaults(), addrs: strings.Join(addrs, ", "), targets: addrs, cancel: func() {}}
	for range c.options.Connections {
		d := &dialer{errors: &c.dials}
		c.dialers = append(c.dialers, d)
		conn, err := grpc.NewClient("quern:///"+addrs[0], c.dialOptions(addrs, d)...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("client: dial %s: %w", c.addrs, err), c.closeConns())
		}
		c.conns = append(c.conns, conn)
	}
	c.conn = c.conns[0]
	c.cluster = quernv1.NewClusterServiceClient(c.conn)
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.closeConns())
	}
	return c, nil
}

// Over returns a client whose streams are opened by open, whatever carries
// them. It has no Status and no Where.
func Over(ctx context.Context, open func(context.Context) (frame.Stream, error), o Options) (*Client, error) {
	c := &Client{options: o.withDefaults(), addrs: "its streams", cancel: func() {}}
	if err := c.stream(ctx, func(int) opener { return open }); err != nil {
		return nil, err
	}
	return c, nil
}

// start connects and brings the stream up.
func (c *Client) start(ctx context.Context) error {
	if c.options.Unary || c.options.GRPC {
		if err := c.connect(ctx, c.options.FailFast); err != nil || c.options.Unary {
			return err
		}
	}
	return c.stream(ctx, c.opener)
}

// stream brings the first stream up and keeps all of them up from then on.
func (c *Client) stream(ctx context.Context, open func(place int) opener) error {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	// Until there is a stream its life is bounded by ctx.
	stop := context.AfterFunc(ctx, cancel)
	first := open(0).dial(life)
	for pause := minBackoff; c.again(first.err) && rested(life, pause); pause = min(2*pause, maxBackoff) {
		d := open(0).dial(life)
		if d.err != nil && life.Err() != nil {
			break // the attempt before says more
		}
		first = d
	}
	if !stop() {
		first.err = errors.Join(first.err, context.Cause(ctx))
	}
	if first.err != nil {
		cancel()
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, c.addrs, first.err)
	}
	c.cancel = cancel
	c.engine = newEngine(c.options)
	c.engine.shards = first.hello.GetShards()
	c.engine.sessions = make([]*session, c.engine.shards)
	c.engine.owners.last = make([]handles.Origin, c.engine.shards)
	c.engine.links, c.engine.home = make([]*link, c.options.Connections), c.options.Connections
	c.register()
	if c.cluster != nil && !c.options.GRPC && !c.options.OneNode {
		c.upkeep.Go(func() { c.followRoutes(life) })
	}
	for place := range c.options.Connections {
		c.upkeep.Go(func() {
			d := first
			if place > 0 {
				d = c.engine.redial(life, open(place))
			}
			c.engine.maintain(life, place, open(place), d)
		})
	}
	return nil
}

// again reports whether another attempt at a first stream can end better.
func (c *Client) again(err error) bool {
	return err != nil && !c.options.FailFast && !errors.Is(err, errHello) && status.Code(err) != codes.Unimplemented
}

// rested waits; false where ctx ended.
func rested(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// parseTarget splits a target into its addresses.
func parseTarget(target string) ([]string, error) {
	var addrs []string
	for a := range strings.SplitSeq(target, ",") {
		a = strings.TrimSpace(a)
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			return nil, fmt.Errorf("client: %q in target %q is not HOST:PORT", a, target)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

func (c *Client) dialOptions(addrs []string, d *dialer) []grpc.DialOption {
	o := c.options
	nodes := manual.NewBuilderWithScheme("quern")
	var state resolver.State
	for _, a := range addrs {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	nodes.InitialState(state)
	options := []grpc.DialOption{
		grpc.WithResolvers(nodes),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(d.dial),
		grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(fmt.Sprintf(serviceConfig, o.MaxMessageBytes)),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: dialTimeout,
		}),
	}
	if o.KeepAlive >= 0 {
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: max(o.KeepAlive, leastKeepAlive), Timeout: pingTimeout, PermitWithoutStream: true,
		}))
	}
	return options
}

// connect waits until the connection is up.
func (c *Client) connect(ctx context.Context, failFast bool) error {
	for {
		state := c.conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			c.conn.Connect()
		case connectivity.TransientFailure:
			if failFast {
				return c.unreachable()
			}
		default:
		}
		if !c.conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("%w (%w)", c.unreachable(), context.Cause(ctx))
		}
	}
}

// unreachable says why the last attempt failed.
func (c *Client) unreachable() error {
	last := c.dials.last()
	if last == nil {
		last = errNoNode
	}
	return fmt.Errorf("%w: %s: %w", ErrUnreachable, c.addrs, last)
}

// Close ends the client: operations under way fail, perhaps done; the sessions
// are closed, so that no numbered operation can take effect once the node has
// said so; the connections are closed and all goroutines end. It takes up to a
// second where the node does not answer. Later calls do nothing.
func (c *Client) Close() error {
	c.closing.Do(func() {
		c.closed.Store(true)
		if c.engine != nil {
			c.engine.close()
		}
		c.cancel()
		c.upkeep.Wait()
		c.unregister()
		c.closeErr = c.closeConns()
	})
	return c.closeErr
}

func (c *Client) closeConns() error {
	for _, conn := range c.conns {
		if err := conn.Close(); err != nil {
			return fmt.Errorf("client: close: %w", err)
		}
	}
	return nil
}

// Counter returns a handle of the counter with this key. It does no I/O.
func (c *Client) Counter(key string) handles.Counter { return handles.NewCounter(c, key) }

// Lock returns a handle of the lock with this key.
func (c *Client) Lock(key string) handles.Lock { return handles.NewLock(c, key) }

// Txn returns an empty transaction on keys of the shard of key, such as their
// common tag.
func (c *Client) Txn(key string) *handles.Txn { return handles.NewTxn(c, key) }

// Map returns a handle of the map entry with this key. It does no I/O.
func (c *Client) Map(key string) handles.MapEntry { return handles.NewMapEntry(c, key) }

// dialErrors remembers why the last attempt to connect failed.
type dialErrors struct {
	mu  sync.Mutex
	err error // guarded by mu; nil after a success
}

// dialer opens the connections of one gRPC client connection, one at a time.
type dialer struct {
	errors *dialErrors
	mu     sync.Mutex
	conn   net.Conn // the last one; guarded by mu
}

func (d *dialer) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := tcpDialer.DialContext(ctx, "tcp", addr)
	d.errors.mu.Lock()
	d.errors.err = err
	d.errors.mu.Unlock()
	d.mu.Lock()
	d.conn = c
	d.mu.Unlock()
	return c, err //nolint:wrapcheck // names the address already
}

// cut closes the connection, so that the next stream gets another one.
func (d *dialer) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		_ = d.conn.Close()
	}
}

func (d *dialErrors) last() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
