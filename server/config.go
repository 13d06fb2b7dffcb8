package server

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Backend does the work behind the services. All methods may be called
// concurrently. Errors are *failure.Error or the context's; any other one is
// logged and answered with INTERNAL.
type Backend interface {
	handles.Invoker
	handles.Submitter
	// SubmitWait is Submit for a method that waits. cancel, which may be nil,
	// gives the operation up; it may be called at any time. final says that
	// nobody will ask again under the operation's number.
	SubmitWait(op *handles.Operation, deadline time.Time, done handles.Completer) (cancel func(final bool))
	// EndWaits answers all that waits with STOPPING, and from now on what would
	// have to.
	EndWaits()
	// Watch watches until the key's owner ends the watch.
	handles.Watcher
	// OpenSession opens a session at a shard. done gets its id, 16 bytes,
	// when it is durable, or why there is none; like a Completer it must not
	// block.
	OpenSession(shard uint32, done func(id string, epoch uint64, err error))
	// CloseSession forgets a session; one that is not known is no error.
	CloseSession(shard uint32, id string, done func(epoch uint64, err error))
	// Name is the node's, Shards the cluster's number of shards. Neither
	// changes.
	Name() string
	Shards() uint32
	// Status lists the nodes.
	Status(ctx context.Context) (*quernv1.ClusterServiceStatusResponse, error)
	// Where finds a key's owner; a bad key is refused with INVALID_KEY.
	Where(ctx context.Context, key string) (*quernv1.ClusterServiceWhereResponse, error)
	// Routes tells who owns each shard; the answer is short where the table is
	// the one of that version.
	Routes(ctx context.Context, version uint64) (*quernv1.ClusterServiceRoutesResponse, error)
	// Ready returns nil while the node can serve, else why it cannot. It
	// must not block: health checks call it.
	Ready() error
}

// Defaults of Config.
const (
	defaultMaxMessageBytes  = 1 << 20
	defaultMaxInFlight      = 16_384
	defaultMaxStreams       = 4_096
	defaultMaxWatches       = 16_384
	defaultWatchesPerConn   = 1_024
	defaultMaxConns         = 65_536
	defaultKeepAlive        = 10 * time.Second
	defaultHandshakeTimeout = 10 * time.Second
	defaultReadTimeout      = 30 * time.Second
	defaultWriteTimeout     = 30 * time.Second
	defaultIdleTimeout      = 2 * time.Minute
)

// Config configures a Server. In every number and duration zero means the
// default and negative means off: no such limit.
type Config struct {
	// Backend is required.
	Backend Backend
	// Listen is the gRPC listener's HOST:PORT, HTTP the other's. Port 0
	// takes a free one. An empty address opens no such listener.
	Listen, HTTP string
	// Logger gets changes of state at Info, defects at Error and bad
	// connections at Debug. Nil logs nothing.
	Logger *slog.Logger
	// Metrics gets the server's metrics and is what /metrics writes, with
	// those of the process. Nil means a set of the server's own.
	Metrics *metrics.Set
	// MaxMessageBytes bounds a request message, decompressed. Beyond it a
	// call is refused with LIMIT. Default 1 MiB.
	MaxMessageBytes int
	// MaxInFlight bounds the calls under way on both listeners together.
	// Beyond it a call is refused with OVERLOADED. Default 16,384.
	MaxInFlight int
	// MaxStreams bounds the calls under way on one connection. A client of
	// gRPC or HTTP/2 holds further ones back by itself. Default 4,096.
	MaxStreams int
	// MaxWatches bounds the watches on both listeners together, MaxWatchesPerConn
	// those of one connection. Beyond them a watch is refused with OVERLOADED.
	// Defaults 16,384 and 1,024.
	MaxWatches, MaxWatchesPerConn int
	// Heartbeat is the time without an event after which a watcher is told
	// that nothing has changed. Default handles.WatchHeartbeat.
	Heartbeat time.Duration
	// MaxConns bounds the connections of each listener; where the process may
	// not open so many files, that bounds both together. Further ones are
	// closed at once. Default 65,536.
	MaxConns int
	// KeepAlive is the silence after which a client is pinged; it is cut off
	// when it stays silent for as long again. At least a second. Default 10 s.
	KeepAlive time.Duration
	// HandshakeTimeout bounds the time to a gRPC connection's preface and to
	// an HTTP request's complete header. Default 10 s.
	HandshakeTimeout time.Duration
	// ReadTimeout bounds the time to an HTTP request's complete body.
	// Default 30 s.
	ReadTimeout time.Duration
	// WriteTimeout is how long a client may leave unread what it is sent,
	// 64 KiB of it at a time; then its connection is cut. It does not bound
	// how long a reply or a stream lasts. Default 30 s.
	WriteTimeout time.Duration
	// IdleTimeout ends an HTTP connection without a request. gRPC
	// connections may idle for ever. Default 2 min.
	IdleTimeout time.Duration
}

func (c Config) validate() error {
	if c.Backend == nil {
		return errors.New("server: config without a backend")
	}
	return nil
}

// withDefaults returns a copy in which no field is zero and no limit negative.
func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = metrics.NewSet()
	}
	c.MaxMessageBytes = limit(c.MaxMessageBytes, defaultMaxMessageBytes, math.MaxInt32)
	c.MaxInFlight = limit(c.MaxInFlight, defaultMaxInFlight, math.MaxInt32)
	c.MaxStreams = limit(c.MaxStreams, defaultMaxStreams, math.MaxInt32)
	c.MaxWatches = limit(c.MaxWatches, defaultMaxWatches, math.MaxInt32)
	c.MaxWatchesPerConn = limit(c.MaxWatchesPerConn, defaultWatchesPerConn, math.MaxInt32)
	c.Heartbeat = limit(c.Heartbeat, handles.WatchHeartbeat, 0)
	c.MaxConns = limit(c.MaxConns, defaultMaxConns, math.MaxInt32)
	const forever = time.Duration(math.MaxInt64)
	c.KeepAlive = limit(c.KeepAlive, defaultKeepAlive, forever)
	c.HandshakeTimeout = limit(c.HandshakeTimeout, defaultHandshakeTimeout, 365*24*time.Hour)
	c.ReadTimeout = limit(c.ReadTimeout, defaultReadTimeout, 0)
	c.WriteTimeout = limit(c.WriteTimeout, defaultWriteTimeout, 0)
	c.IdleTimeout = limit(c.IdleTimeout, defaultIdleTimeout, 0)
	return c
}

// limit replaces zero by the default and a negative value by off.
func limit[T int | time.Duration](v, def, off T) T {
	switch {
	case v == 0:
		return def
	case v < 0:
		return off
	default:
		return v
	}
}
