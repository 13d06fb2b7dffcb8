package quern

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern/cluster/consul"
	"github.com/quern-io/quern/internal/machine"
	"github.com/quern-io/quern/keyspace"
	"github.com/quern-io/quern/storage/postgres"
)

// Names of stores for Config.Store.
const (
	// StoreMemory keeps states in memory only. What it acknowledged is gone
	// when the process ends.
	StoreMemory = "memory"
	// StoreEmbedded keeps states on the node's own disk.
	StoreEmbedded = "embedded"
)

// ErrConfig is wrapped by the errors of a Config that cannot work.
var ErrConfig = errors.New("quern: bad configuration")

// Config is what a node is opened with. The zero value of every field but
// DataDir is a sensible default.
type Config struct {
	// DataDir is the folder of the embedded store, created where it does not
	// exist. It must be empty or a Quern data folder.
	DataDir string
	// Store is where states are kept: StoreEmbedded, which is the default,
	// StoreMemory, or a PostgreSQL server as
	// postgres://user@host/database?schema=NAME, see storage/postgres. With
	// Consul it must be named, and StoreEmbedded is refused, since nobody could
	// take over a lost node's shards.
	Store string
	// Listen is the host and port of the gRPC listener, HTTP that of the
	// listener for JSON, gRPC-Web and metrics. Port 0 takes a free one. None
	// is opened where the field is empty, but for Listen with Consul, which then
	// is 127.0.0.1:0. Neither has authentication.
	Listen, HTTP string
	// Advertise is the host and port under which clients and other nodes reach
	// Listen. The default is the listener's own address.
	Advertise string
	// Consul is the address of a Consul agent, HOST:PORT or a URL, best of this
	// machine's; Cluster is the cluster to join, 1 to 40 lower-case letters,
	// digits and inner hyphens. Empty runs a lone node. Token and TLS are taken
	// from the environment as Consul's own tools do (CONSUL_HTTP_TOKEN and so
	// on).
	Consul, Cluster string
	// Node is the node's name, the host's by default: 1 to 255 printable ASCII
	// characters without blanks, since replies carry it in a header.
	Node string
	// Shards is the number of shards of a new store, a power of two of at
	// most 65,536. Zero takes what an existing store has, 256 for a new one.
	// A store with another number is refused.
	Shards uint32
	// ResidentLimit bounds the grains in memory; idle ones beyond it are
	// evicted, least recently used first, and come back when they are
	// called. Zero allows one per 2 KiB of the machine's memory, at least
	// 100,000.
	ResidentLimit int
	// MinFreeBytes is the free space below which the embedded store refuses
	// writes. Zero means 256 MiB or an eighth of the disk, whichever is less;
	// negative switches the check off.
	MinFreeBytes int64
	// Logger gets changes of state and defects; nil discards them.
	Logger *slog.Logger
	// Metrics gets the node's metrics; nil makes a set, see Node.Metrics.
	Metrics *metrics.Set

	// clock replaces CLOCK_BOOTTIME in tests.
	clock func() time.Duration
}

func (c Config) withDefaults() (Config, error) {
	if c.Store == "" && !c.clustered() {
		c.Store = StoreEmbedded
	}
	if err := c.validate(); err != nil {
		return c, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if c.clustered() && c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("%w: the host has no name, set Node: %w", ErrConfig, err)
		}
		c.Node = host
	}
	if !validNode(c.Node) {
		return c, fmt.Errorf("%w: the node's name is %q, must be 1 to 255 printable ASCII characters without blanks", ErrConfig, c.Node)
	}
	if c.ResidentLimit == 0 {
		c.ResidentLimit = residentDefault()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = metrics.NewSet()
	}
	return c, nil
}

func (c Config) validate() error {
	if err := c.validateCluster(); err != nil {
		return err
	}
	switch {
	case c.Store != StoreEmbedded && c.Store != StoreMemory && !c.postgres():
		return fmt.Errorf("no store is named %q; use embedded, memory or postgres://…", c.Store)
	case c.postgres() && c.postgresOptions().Check() != nil:
		return c.postgresOptions().Check() //nolint:wrapcheck // says all there is to say
	case c.Store == StoreEmbedded && c.DataDir == "":
		return errors.New("the embedded store needs DataDir")
	case c.Shards != 0 && !keyspace.ValidShards(c.Shards):
		return fmt.Errorf("the number of shards is %d, must be a power of two of at most %d", c.Shards, keyspace.MaxShards)
	case c.ResidentLimit < 0:
		return fmt.Errorf("the resident limit is %d, must not be negative", c.ResidentLimit)
	default:
		return nil
	}
}

// clustered says whether the node joins a cluster.
func (c Config) clustered() bool { return c.Consul != "" || c.Cluster != "" }

// validateCluster checks what a cluster needs beyond a lone node.
func (c Config) validateCluster() error {
	switch {
	case !c.clustered():
		return nil
	case c.Consul == "":
		return fmt.Errorf("the cluster %q needs Consul, the address of an agent", c.Cluster)
	case c.Cluster == "":
		return errors.New("the cluster to join has no name: set Cluster beside Consul")
	case !consul.ValidCluster(c.Cluster):
		return fmt.Errorf("the cluster's name is %q, must be 1 to 40 lower-case letters, digits and inner hyphens", c.Cluster)
	case c.Store == "":
		return errors.New("with Consul the store must be named: a shared one as postgres://…, or memory")
	case c.Store == StoreEmbedded:
		return errors.New("the embedded store cannot be used with Consul, since nobody could take over a lost node's shards; use postgres://… or memory")
	default:
		return nil
	}
}

// postgres says whether Store is the URL of a PostgreSQL server.
func (c Config) postgres() bool {
	return strings.HasPrefix(c.Store, "postgres://") || strings.HasPrefix(c.Store, "postgresql://")
}

func (c Config) postgresOptions() postgres.Options {
	return postgres.Options{URL: c.Store, Shards: c.Shards, Logger: c.Logger, Metrics: c.Metrics}
}

func validNode(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return name != "" && len(name) <= 255
}

// residentDefault allows a grain per 2 KiB of the machine's memory: an idle
// counter with a short key takes about 200 bytes, so that all of them take a
// tenth of it, which leaves room for states that are larger.
func residentDefault() int {
	const perGrain, least = 2 << 10, 100_000
	return max(least, int(machine.Memory()/perGrain)) //nolint:gosec // far below 2^63
}
