package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/quern-io/quern"
)

const (
	defaultData = "./quern-data"
	maxShards   = 65_536
)

type serveCommand struct {
	Listen        string        `default:"127.0.0.1:7411" env:"QUERN_LISTEN" placeholder:"HOST:PORT" help:"gRPC listener; port 0 takes a free one."`
	HTTP          string        `name:"http" default:"127.0.0.1:7412" env:"QUERN_HTTP" placeholder:"HOST:PORT" help:"Listener for JSON, metrics and health."`
	Advertise     string        `env:"QUERN_ADVERTISE" placeholder:"HOST:PORT" help:"Address that others use for --listen (default: the listener's own)."`
	Data          string        `env:"QUERN_DATA" placeholder:"DIR" help:"Data folder (default ./quern-data; with --store memory none, unless named: it then holds node.json only)."`
	Store         string        `env:"QUERN_STORE" placeholder:"STORE" help:"memory, embedded or postgres://… (default embedded)."`
	Consul        string        `env:"QUERN_CONSUL" placeholder:"HOST:PORT" help:"Consul agent of the cluster to join."`
	Cluster       string        `env:"QUERN_CLUSTER" placeholder:"NAME" help:"Cluster to join."`
	Node          string        `env:"QUERN_NODE" placeholder:"NAME" help:"This node's name (default: the host's)."`
	Shards        *uint32       `env:"QUERN_SHARDS" placeholder:"N" help:"Number of shards of a new store, a power of two (default 256, or what the store has)."`
	ResidentLimit int           `env:"QUERN_RESIDENT_LIMIT" placeholder:"N" help:"Grains kept in memory; 0 is a share of the machine's memory."`
	DrainTimeout  time.Duration `default:"25s" env:"QUERN_DRAIN_TIMEOUT" help:"How long a stop may take to finish what was begun."`
	LogFormat     string        `default:"text" enum:"text,json" env:"QUERN_LOG_FORMAT" help:"text or json."`
	LogLevel      slog.Level    `default:"info" env:"QUERN_LOG_LEVEL" help:"debug, info, warn or error."`
	Config        string        `env:"QUERN_CONFIG" placeholder:"FILE" help:"YAML file with the flags' names; flags and environment stand above it."`
}

// Run serves until a signal or the end of ctx.
func (k *serveCommand) Run(ctx context.Context, a *app, parsed *kong.Context) error {
	if err := k.check(); err != nil {
		return err
	}
	log := k.logger(a.stderr)
	for _, name := range strangers(parsed.Selected(), os.Environ()) {
		log.WarnContext(ctx, "unknown environment variable ignored", slog.String("name", name))
	}
	for _, addr := range []string{k.Listen, k.HTTP} {
		if !loopback(addr) {
			log.WarnContext(ctx, "listening beyond this machine without authentication", slog.String("addr", addr))
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	again, release := twoSignals(cancel)
	defer release()

	n, err := a.open(ctx, k.config(log))
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			return nil // stopped before it had begun
		}
		return startError(err)
	}
	file := nodeFile{Node: n.Name(), GRPC: n.GRPCAddr(), HTTP: n.HTTPAddr(), PID: os.Getpid()}
	if dir := k.folder(); dir != "" {
		if err := file.write(dir); err != nil {
			return errors.Join(fmt.Errorf("--data %s: %w", dir, err), k.drain(ctx, n, again))
		}
	}
	log.InfoContext(ctx, "node is ready", slog.String("node", file.Node), slog.String("grpc", file.GRPC),
		slog.String("http", file.HTTP), slog.String("store", k.storeName()), slog.String("data", k.folder()))
	<-ctx.Done()
	log.InfoContext(ctx, "node is stopping", slog.String("node", file.Node), slog.Duration("drain_timeout", k.DrainTimeout))
	if err := k.drain(ctx, n, again); err != nil {
		return err
	}
	log.InfoContext(ctx, "node has stopped", slog.String("node", file.Node))
	if dir := k.folder(); dir != "" {
		return file.remove(dir)
	}
	return nil
}

// twoSignals calls first at the first SIGTERM or SIGINT and closes again at the
// second. release ends that.
func twoSignals(first func()) (again <-chan struct{}, release func()) {
	signals, second, quit := make(chan os.Signal, 2), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for _, do := range []func(){first, func() { close(second) }} {
			select {
			case <-signals:
				do()
			case <-quit:
				return
			}
		}
	}()
	return second, func() {
		signal.Stop(signals)
		close(quit)
	}
}

// drain closes the node within the drain timeout, or gives up at once when
// again is closed.
func (k *serveCommand) drain(ctx context.Context, n node, again <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.DrainTimeout)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- n.Close(ctx) }()
	select {
	case err := <-closed:
		if err != nil {
			return &nodeError{fmt.Errorf("the node did not stop cleanly (--drain-timeout %v): %w", k.DrainTimeout, err)}
		}
		return nil
	case <-again:
		return errors.New("second signal: stopped at once, without waiting for what was begun")
	}
}

// store is the store's name as given, or the default.
func (k *serveCommand) store() string {
	if k.Store == "" {
		return quern.StoreEmbedded
	}
	return k.Store
}

// postgres says whether the store is a PostgreSQL server.
func (k *serveCommand) postgres() bool {
	return strings.HasPrefix(k.Store, "postgres://") || strings.HasPrefix(k.Store, "postgresql://")
}

// storeName is the store without what a URL may hold of a password.
func (k *serveCommand) storeName() string {
	if k.postgres() {
		return "postgres"
	}
	return k.store()
}

// folder is where node.json goes; empty where there is no data folder.
func (k *serveCommand) folder() string {
	if k.Data == "" && k.store() != quern.StoreMemory {
		return defaultData
	}
	return k.Data
}

func (k *serveCommand) config(log *slog.Logger) quern.Config {
	cfg := quern.Config{
		DataDir: k.folder(), Store: k.store(), Listen: k.Listen, HTTP: k.HTTP, Advertise: k.Advertise,
		Consul: k.Consul, Cluster: k.Cluster, Node: k.Node, ResidentLimit: k.ResidentLimit, Logger: log,
	}
	if k.Shards != nil {
		cfg.Shards = *k.Shards
	}
	return cfg
}

func (k *serveCommand) check() error {
	for _, a := range []struct{ flag, addr string }{{"--listen", k.Listen}, {"--http", k.HTTP}, {"--advertise", k.Advertise}} {
		if a.flag == "--advertise" && a.addr == "" {
			continue
		}
		if _, port, err := net.SplitHostPort(a.addr); err != nil || port == "" {
			return usagef("%s %q: is not HOST:PORT", a.flag, a.addr)
		}
	}
	switch {
	case k.Shards != nil && (*k.Shards > maxShards || bits.OnesCount32(*k.Shards) != 1):
		return usagef("--shards %d: must be a power of two up to %d", *k.Shards, maxShards)
	case k.ResidentLimit < 0:
		return usagef("--resident-limit %d: must not be negative", k.ResidentLimit)
	case k.DrainTimeout <= 0:
		return usagef("--drain-timeout %v: must be more than 0", k.DrainTimeout)
	}
	if err := k.checkStore(); err != nil {
		return err
	}
	if dir := k.folder(); dir != "" && k.store() != quern.StoreEmbedded {
		return claimFolder(dir)
	}
	return nil
}

// checkStore checks --store together with --consul and --cluster.
func (k *serveCommand) checkStore() error {
	switch {
	case k.Consul != "" && k.Store == "":
		return usagef("--consul %s: name the store with --store", k.Consul)
	case k.Consul != "" && k.Store == quern.StoreEmbedded:
		return usagef("--store embedded: cannot be used with --consul, since nobody could take over a lost node's shards")
	case k.store() != quern.StoreEmbedded && k.store() != quern.StoreMemory && !k.postgres():
		return usagef("--store %q: is none of memory, embedded and postgres://…", k.Store)
	case k.Consul != "" && k.Cluster == "":
		return usagef("--consul %s: name the cluster to join with --cluster", k.Consul)
	case k.Consul == "" && k.Cluster != "":
		return usagef("--cluster %s: needs --consul", k.Cluster)
	}
	return nil
}

func (k *serveCommand) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: k.LogLevel}
	if k.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// startError says which flag to change where the node's own error does not.
func startError(err error) error {
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		err = fmt.Errorf("%w: this user or this machine cannot use that; choose another with --listen, --http or --data", err)
	}
	return &nodeError{err}
}

// loopback says whether an address can be reached from this machine only.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
