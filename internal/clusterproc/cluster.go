package clusterproc

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Config says what a cluster consists of.
type Config struct {
	// Network has a side for each node.
	Network Network
	// Nodes is how many there are at most.
	Nodes int
	// Binary is the program.
	Binary string
	// Folder takes data folders and logs.
	Folder string
	// Name is the cluster's; empty for nodes without Consul.
	Name string
	// Consul reaches Consul from this process; nil where Name is empty, or
	// where each side has an agent of its own at LocalConsul.
	Consul Dialer
	// LocalConsul is the address of an agent on each node's own side.
	LocalConsul string
	// Postgres reaches the store from this process; nil for the memory store.
	Postgres Dialer
	// Database is the user and the name of the database.
	Database string
	// Args are further arguments of each node.
	Args []string
}

// Cluster is nodes as processes. Each is started, ended and waited for by one
// goroutine at a time.
type Cluster struct {
	config Config
	consul []string // by side less 1: the address to use there
	store  []string // as above
	nodes  []*Process
}

// NewCluster offers the services to all sides. It starts no node.
func NewCluster(c Config) (*Cluster, error) {
	all := &Cluster{config: c, nodes: make([]*Process, c.Nodes)}
	for i := range c.Nodes {
		consul, store := c.LocalConsul, "memory"
		if c.Consul != nil {
			addr, err := c.Network.Offer(i+1, Authority, c.Consul)
			if err != nil {
				return nil, err //nolint:wrapcheck // of this package
			}
			consul = addr
		}
		if c.Postgres != nil {
			addr, err := c.Network.Offer(i+1, Store, c.Postgres)
			if err != nil {
				return nil, err //nolint:wrapcheck // as above
			}
			store = fmt.Sprintf("postgres://%s@%s/%[1]s?sslmode=disable", c.Database, addr)
		}
		all.consul, all.store = append(all.consul, consul), append(all.store, store)
	}
	return all, nil
}

// Name is that of a node, by its number from 1 on.
func Name(node int) string { return "n" + strconv.Itoa(node) }

// Number is a node's by its name, 0 for a name that none has.
func Number(name string) int {
	if len(name) < 2 || name[0] != 'n' {
		return 0
	}
	n, err := strconv.Atoi(name[1:])
	if err != nil || n < 1 {
		return 0
	}
	return n
}

// Args are the arguments of a node. Later ones stand above them.
func (c *Cluster) Args(node int) []string {
	n := c.config.Network
	listen := n.Listen(node)
	host, _, _ := net.SplitHostPort(listen) // of our own making
	args := []string{
		"serve", "--data", c.data(node), "--node", Name(node), "--listen", listen,
		"--http", net.JoinHostPort(host, "0"), "--advertise", n.Advertise(node), "--store", c.store[node-1],
	}
	if c.config.Name != "" {
		args = append(args, "--cluster", c.config.Name, "--consul", c.consul[node-1])
	}
	return append(args, c.config.Args...)
}

func (c *Cluster) data(node int) string { return filepath.Join(c.config.Folder, Name(node)) }

// LogFile is where a node's lives write to.
func (c *Cluster) LogFile(node int) string {
	return filepath.Join(c.config.Folder, Name(node)+".log")
}

// Start starts a node and returns at once.
func (c *Cluster) Start(node int) error {
	p, err := c.Run(node, c.Args(node)...)
	if err != nil {
		return err
	}
	c.nodes[node-1] = p
	return nil
}

// Run starts the program on a node's side with other arguments.
func (c *Cluster) Run(side int, args ...string) (*Process, error) {
	cmd := exec.Command(c.config.Binary, args...) //nolint:gosec,noctx // ends by a signal; the caller's program
	cmd.Env = Environ()
	return Start(c.config.Network, side, cmd, c.LogFile(side))
}

// Environ is this process's environment without what speaks to tests.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "QUERN_") })
}

// Node returns the process of a node that was started.
func (c *Cluster) Node(node int) *Process { return c.nodes[node-1] }

// Ready waits until a node accepts calls.
func (c *Cluster) Ready(ctx context.Context, node int) error {
	p := c.nodes[node-1]
	err := poll(ctx, p.Exited(), func() bool {
		text, err := os.ReadFile(filepath.Join(c.data(node), "node.json"))
		var file struct {
			PID int `json:"pid"`
		}
		return err == nil && json.Unmarshal(text, &file) == nil && file.PID == p.PID()
	})
	if err != nil {
		return fmt.Errorf("clusterproc: node %d is not ready: %w\n%s", node, err, p.Log())
	}
	return nil
}

// Kill kills all nodes.
func (c *Cluster) Kill() {
	for _, p := range c.nodes {
		if p != nil {
			p.Kill()
		}
	}
}
