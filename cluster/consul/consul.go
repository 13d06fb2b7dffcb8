package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/quern-io/quern/cluster"
)

const (
	// defaultTimeout bounds a call whose context has no deadline. Consul's
	// agents themselves hold a request for up to 7 s when there is no leader.
	defaultTimeout = 5 * time.Second
	// idleConns is how many connections stay open: two watches, and some calls
	// at once.
	idleConns = 8
)

// Config says which cluster, and how to reach Consul.
type Config struct {
	// Cluster is its name: 1 to 40 lower-case letters, digits and inner
	// hyphens, since it becomes a part of names in DNS.
	Cluster string
	// Address is a Consul agent's, HOST:PORT or a URL. Empty takes API's, or
	// that of the environment, or localhost:8500. It should be the agent of
	// this machine: the member's check lives there, and ends with it.
	Address string
	// API is all else that consul/api can be told: token, TLS, namespace,
	// partition, datacenter. What is empty there comes from the environment as
	// the library reads it (CONSUL_HTTP_TOKEN, CONSUL_CACERT, CONSUL_NAMESPACE
	// and so on); nil takes all from there. It is not changed.
	API *api.Config
	// CheckTTL is for how long the member passes after KeepAlive; zero means
	// cluster.DefaultCheckTTL.
	CheckTTL time.Duration
	// Timeout bounds calls whose context has no deadline, and what a watch may
	// take beyond its wait. Zero means 5 s.
	Timeout time.Duration
}

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`)

// ValidCluster says whether a cluster can have this name.
func ValidCluster(name string) bool { return validName.MatchString(name) }

func (c Config) validate() error {
	switch {
	case !ValidCluster(c.Cluster):
		return fmt.Errorf("cluster/consul: the cluster's name is %q, must be 1 to 40 lower-case letters, digits and inner hyphens", c.Cluster)
	case c.CheckTTL < 0 || c.Timeout < 0:
		return errors.New("cluster/consul: a negative duration")
	default:
		return nil
	}
}

// Authority is a cluster.Authority. Its methods may be called concurrently.
type Authority struct {
	api      *api.Client
	idle     func() // closes idle connections
	cluster  string
	keys     keys
	scope    scope
	checkTTL time.Duration
	timeout  time.Duration

	mu      sync.Mutex
	id      string          // of service instance and check, empty before Join
	self    cluster.Member  // who joined
	session cluster.Session // the one that was renewed last
	renewed time.Time
}

// scope is where keys are, in the editions of Consul that know such places. It
// must stand in each operation of a transaction.
type scope struct{ namespace, partition string }

var _ cluster.Authority = (*Authority)(nil)

// New returns an authority that has not asked Consul for anything yet. It
// reads the files of tokens and certificates that the configuration names.
func New(cfg Config) (*Authority, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	conf := api.DefaultConfig()
	pooled := conf.Transport
	if cfg.API != nil {
		// HTTP basic authentication is the one thing that the library takes
		// from the environment for its own defaults only.
		auth := conf.HttpAuth
		given := *cfg.API
		conf = &given
		if conf.HttpAuth == nil {
			conf.HttpAuth = auth
		}
	}
	if conf.Transport == nil {
		conf.Transport = pooled
	}
	if conf.Transport == pooled {
		pooled.MaxIdleConnsPerHost = idleConns
	}
	conf.Address = cmp.Or(cfg.Address, conf.Address)
	client, err := api.NewClient(conf) // fills in conf
	if err != nil {
		return nil, fmt.Errorf("cluster/consul: %w", err)
	}
	return &Authority{
		api: client, idle: idleCloser(conf), cluster: cfg.Cluster, keys: keys("quern/" + cfg.Cluster + "/"),
		scope:    scope{conf.Namespace, conf.Partition},
		checkTTL: cmp.Or(cfg.CheckTTL, cluster.DefaultCheckTTL),
		timeout:  cmp.Or(cfg.Timeout, defaultTimeout),
	}, nil
}

// idleCloser closes connections of our own; those of a client that was handed
// in are its owner's.
func idleCloser(conf *api.Config) func() {
	if conf.HttpClient != nil && conf.HttpClient.Transport != http.RoundTripper(conf.Transport) {
		return func() {}
	}
	return conf.Transport.CloseIdleConnections
}

// Close closes idle connections. Calls under way go on.
func (a *Authority) Close() { a.idle() }

// bounded gives a call its end: the context's, and the authority's own where
// that has none.
func (a *Authority) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ends := ctx.Deadline(); ends {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, a.timeout)
}

// watch runs a query that waits as w says, and ends by itself even if Consul
// never answers. It returns the index of the answer, and whether it fell.
//
// The leader answers, and only when it has caught up: one that was just elected
// would answer from before otherwise, even with nothing at all.
//
// When its state is replaced, Consul answers all that waits at once, with what
// was there before; asked again under that index, it would wait. So an answer
// that comes too soon and tells nothing new is asked for again without index.
func (a *Authority) watch(ctx context.Context, w cluster.Watch, read func(*api.QueryOptions) (*api.QueryMeta, error)) (index uint64, fell bool, err error) {
	q := &api.QueryOptions{RequireConsistent: true}
	if w.Index > 0 && w.Wait > 0 {
		q.WaitIndex, q.WaitTime = w.Index, min(w.Wait, cluster.MaxWait)
	}
	// Consul adds up to a sixteenth to the wait.
	ctx, cancel := context.WithTimeout(ctx, q.WaitTime+q.WaitTime/16+a.timeout)
	defer cancel()
	began := time.Now()
	meta, err := read(q.WithContext(ctx))
	if err == nil && meta.LastIndex <= q.WaitIndex && time.Since(began) < q.WaitTime {
		meta, err = read(query(ctx))
	}
	if err != nil {
		return 0, false, err
	}
	if meta.ResultsFilteredByACLs {
		return 0, false, errFiltered
	}
	index = max(meta.LastIndex, 1) // zero would make the next watch a busy loop
	return index, index < w.Index, nil
}

func query(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

func write(ctx context.Context) *api.WriteOptions { return (&api.WriteOptions{}).WithContext(ctx) }
