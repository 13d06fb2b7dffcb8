package clusterproc

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/quern-io/quern/internal/consulproc"
)

// ServerAddr is where a side reaches its own server of Consul.
const ServerAddr = "127.0.0.1:8500"

// Servers are the servers of one Consul, one on each side, which reach each other
// over the links to the peers. They need sides of their own: namespaces.
type Servers struct {
	network   Network
	processes []*Process
}

// StartServers starts a server on each of so many sides and returns when they
// have a leader. Config is further configuration as HCL.
func StartServers(ctx context.Context, network Network, sides int, folder, config string) (*Servers, error) {
	binary, err := consulproc.Find()
	if err != nil {
		return nil, err //nolint:wrapcheck // says all there is to say
	}
	all := &Servers{network: network}
	for side := 1; side <= sides; side++ {
		args := []string{
			"agent", "-server", fmt.Sprintf("-bootstrap-expect=%d", sides), fmt.Sprintf("-node=s%d", side),
			"-data-dir=" + filepath.Join(folder, fmt.Sprintf("s%d", side)), "-bind=" + all.host(side), "-client=127.0.0.1",
			"-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1", "-log-level=info", "-hcl=disable_update_check = true", "-hcl=" + config,
		}
		for other := 1; other <= sides; other++ {
			args = append(args, "-retry-join="+all.host(other))
		}
		cmd := exec.Command(binary, args...) //nolint:gosec,noctx // ends by a signal
		p, err := Start(network, side, cmd, filepath.Join(folder, fmt.Sprintf("s%d.log", side)))
		if err != nil {
			all.Kill()
			return nil, err
		}
		all.processes = append(all.processes, p)
	}
	for side := 1; side <= sides; side++ {
		if err := poll(ctx, nil, func() bool { return all.Accepts(ctx, side) }); err != nil {
			all.Kill()
			return nil, fmt.Errorf("clusterproc: the servers of Consul have no leader: %w\n%s", err, all.processes[side-1].Log())
		}
	}
	return all, nil
}

func (s *Servers) host(side int) string {
	host, _, _ := net.SplitHostPort(s.network.Listen(side)) // of our own making
	return host
}

// dial reaches the server of a side.
func (s *Servers) dial(side int) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (conn net.Conn, err error) {
		s.network.Run(side, func() { conn, err = DialTo("tcp", ServerAddr)(ctx) })
		return conn, err
	}
}

// Accepts says whether the server of a side takes writes.
func (s *Servers) Accepts(ctx context.Context, side int) bool {
	_, err := askConsul(ctx, s.dial(side), ServerAddr, "PUT", "kv/clusterproc", nil)
	return err == nil
}

// Leader returns the side whose server leads, as that of another side sees it; 0
// where there is none.
func (s *Servers) Leader(ctx context.Context, side int) int {
	out, err := askConsul(ctx, s.dial(side), ServerAddr, "GET", "status/leader", nil)
	if err != nil {
		return 0
	}
	for other := range s.processes {
		if strings.Contains(string(out), `"`+s.host(other+1)+":") {
			return other + 1
		}
	}
	return 0
}

// Log returns the end of what the server of a side has written.
func (s *Servers) Log(side int) string { return s.processes[side-1].Log() }

// Kill ends all servers.
func (s *Servers) Kill() {
	for _, p := range s.processes {
		p.Kill()
	}
}
