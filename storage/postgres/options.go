package postgres

import (
	"fmt"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/quern-io/quern/internal/boottime"
	"github.com/quern-io/quern/keyspace"
)

// Defaults and fixed bounds.
const (
	defaultSchema      = "quern"
	defaultMaxValue    = 16 << 20
	defaultConns       = 16
	defaultPatience    = 5 * time.Second
	defaultTimeout     = 10 * time.Second
	defaultLockTimeout = 2 * time.Second
	defaultLockWait    = 5 * time.Second
	// maxKey is below what an index entry may take: a third of a page.
	maxKey = 2600
	// idleInTransaction is after how long the server ends a transaction whose
	// client has gone without a word between two of its steps.
	idleInTransaction = 3 * time.Second
	connectTimeout    = 5 * time.Second
	// The pause between two attempts doubles from the one to the other.
	retryPause    = 5 * time.Millisecond
	retryPauseMax = 250 * time.Millisecond
)

// Options configure Open. The zero value of every field but URL is a sensible
// default.
type Options struct {
	// URL names server, database and role, as postgres://user@host/database.
	// It takes libpq's parameters, those of pgxpool, and schema=NAME, the
	// schema of Quern's tables, "quern" by default. Several hosts, separated
	// by commas, are tried for the primary. A pooler between node and server
	// must keep sessions.
	URL string
	// Shards is the number of shards, a power of two. Zero takes what the
	// schema has, 256 for a new one. A schema that says otherwise is refused
	// with ErrShards.
	Shards uint32
	// Lone takes the store for this process alone, by an advisory lock that
	// is held as long as its connection. Another lone one is refused with
	// ErrTaken.
	Lone bool
	// Cluster is the name of the cluster whose members share the store. A new
	// schema gets it; one that has another is refused with ErrCluster. Members
	// and a lone node keep each other out, with ErrTaken.
	Cluster string
	// OnLost is called when a lone store has lost its lock, before it tries
	// to take it again: what was read before proves nothing any more. It must
	// not block. Raise waits until the lock is back.
	OnLost func(err error)
	// OnProof is called when a lone store has found that it has its lock, with
	// the time by Clock until which nobody else can serve. It must not block.
	OnProof func(until time.Duration)
	// Clock is CLOCK_BOOTTIME where it is nil. It must run on while the process
	// is stopped.
	Clock func() time.Duration
	// Logger gets changes of state. Nil logs nothing.
	Logger *slog.Logger
	// Metrics gets the store's metrics. Nil keeps them private.
	Metrics *metrics.Set

	// Patience is how long a call tries again while the server does not
	// answer or refuses to work. Default 5 s.
	Patience time.Duration
	// Timeout bounds each attempt. A commit that was sent and not answered in
	// this time is Unclear. Default 10 s.
	Timeout time.Duration
	// LockTimeout is how long a commit waits for the rows of its shards; then
	// it leaves out those that others hold. Default 2 s.
	LockTimeout time.Duration
	// LockWait is how long Open waits for the lock of a lone store. Default
	// 5 s.
	LockWait time.Duration
	// MaxValueBytes is the largest value. Default 16 MiB.
	MaxValueBytes int

	hooks hooks
}

// hooks break the store on purpose. Tests set them to show that they would
// notice.
type hooks struct {
	// rowLock replaces the lock that a commit takes on its shards' rows.
	rowLock string
	// locked, where not nil, is called by a commit that has its rows.
	locked func()
	// sent, where not nil, is called by a commit before it reads the answers.
	sent func()
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = metrics.NewSet()
	}
	if o.OnLost == nil {
		o.OnLost = func(error) {}
	}
	if o.OnProof == nil {
		o.OnProof = func(time.Duration) {}
	}
	if o.Clock == nil {
		o.Clock = boottime.Now
	}
	if o.hooks.rowLock == "" {
		o.hooks.rowLock = rowLock
	}
	orDefault(&o.Patience, defaultPatience)
	orDefault(&o.Timeout, defaultTimeout)
	orDefault(&o.LockTimeout, defaultLockTimeout)
	orDefault(&o.LockWait, defaultLockWait)
	orDefault(&o.MaxValueBytes, defaultMaxValue)
	return o
}

func orDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Check returns what Open would say about the options alone: ErrURL or
// ErrShards.
func (o Options) Check() error {
	_, _, err := o.parse()
	return err
}

// schemaName is what a schema may be called: no quoting, no surprise.
var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// parse splits the URL into the pool's configuration and the schema.
func (o Options) parse() (*pgxpool.Config, string, error) {
	if o.Shards != 0 && !keyspace.ValidShards(o.Shards) {
		return nil, "", fmt.Errorf("%w: got %d, must be a power of two of at most %d", ErrShards, o.Shards, keyspace.MaxShards)
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, "", fmt.Errorf("%w: it must have the form postgres://user@host/database", ErrURL) // without the password
	}
	query := u.Query()
	schema := defaultSchema
	if query.Has("schema") {
		schema = query.Get("schema")
		query.Del("schema")
	}
	if !schemaName.MatchString(schema) || strings.HasPrefix(schema, "pg_") {
		return nil, "", fmt.Errorf("%w: schema=%s: a schema's name has 1 to 63 lower-case letters, digits and _, and does not begin with a digit or pg_", ErrURL, schema)
	}
	if attrs := query.Get("target_session_attrs"); !slices.Contains([]string{"", "any", "primary", "read-write"}, attrs) {
		return nil, "", fmt.Errorf("%w: target_session_attrs=%s: Quern works on the primary only; leave it away", ErrURL, attrs)
	}
	query.Del("target_session_attrs") // every connection is checked, see validate
	conns := query.Has("pool_max_conns")
	u.RawQuery = query.Encode()
	cfg, err := pgxpool.ParseConfig(u.String())
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrURL, err)
	}
	if !conns {
		cfg.MaxConns = defaultConns
	}
	if o.Cluster != "" {
		cfg.MinConns = max(cfg.MinConns, 1) // an idle member keeps its share of the lock, see share
	}
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = connectTimeout
	}
	cfg.PingTimeout = connectTimeout
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "quern"
	}
	return cfg, schema, nil
}
