// Package consulproc runs a private Consul agent as a process of its own, for
// tests and benchmarks that need a real one: to ask, to stop, to restore.
//
// The agent is a single server on free loopback ports. It ends with the process
// that started it where the system can do that.
package consulproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// attempts is how often Start tries again where a port was taken by
	// somebody else between its choice and its use.
	attempts = 3
	// pollEvery is how often Start asks whether the agent is ready.
	pollEvery = 20 * time.Millisecond
	// stopTimeout is how long Stop waits before it kills.
	stopTimeout = 10 * time.Second
	// keepLog bounds the output that is kept, in bytes.
	keepLog = 64 << 10
)

// Options say how the agent runs.
type Options struct {
	// Binary is the program.
	Binary string
	// Dir keeps the data, so that an agent which is started there again finds
	// it. Empty runs the agent in memory, which starts sooner.
	Dir string
	// Config is more configuration, as HCL or JSON; empty for none.
	Config string
}

// Process is a running agent. Its methods may be called concurrently.
type Process struct {
	cmd    *exec.Cmd
	binary string
	args   []string
	addr   string
	exited chan struct{}
	log    tail
}

// Find returns the program: the one on PATH, else the one that
// scripts/consul.sh unpacked in the module that holds the working directory.
func Find() (string, error) {
	if path, err := exec.LookPath("consul"); err == nil {
		return path, nil
	}
	folder, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("consulproc: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			break
		}
		if filepath.Dir(folder) == folder {
			return "", errors.New("consulproc: consul is not on PATH, and there is no module here")
		}
		folder = filepath.Dir(folder)
	}
	path := filepath.Join(folder, ".tools", "consul", "usr", "bin", "consul")
	if _, err := os.Stat(path); err != nil {
		return "", errors.New("consulproc: consul is neither on PATH nor in .tools; scripts/consul.sh fetches it")
	}
	return path, nil
}

var versionLine = regexp.MustCompile(`^Consul v((\d+)\.(\d+)\S*)`)

// Version asks the program for its version, such as 1.8.7.
func Version(ctx context.Context, binary string) (text string, major, minor int, err error) {
	out, err := exec.CommandContext(ctx, binary, "version").Output()
	if err != nil {
		return "", 0, 0, fmt.Errorf("consulproc: %s version: %w", binary, err)
	}
	found := versionLine.FindSubmatch(out)
	if found == nil {
		return "", 0, 0, fmt.Errorf("consulproc: %s version says %q", binary, out)
	}
	major, _ = strconv.Atoi(string(found[2])) // digits, by the expression
	minor, _ = strconv.Atoi(string(found[3]))
	return string(found[1]), major, minor, nil
}

// Start starts an agent and returns when it has a leader. The agent outlives
// ctx, which bounds the start only.
func Start(ctx context.Context, o Options) (*Process, error) {
	_, major, minor, err := Version(ctx, o.Binary)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		p, err := start(o, major > 1 || minor >= 14)
		if err != nil {
			return nil, err
		}
		if err = p.ready(ctx); err == nil {
			return p, nil
		}
		p.Kill()
		if attempt == attempts || !strings.Contains(err.Error(), "address already in use") {
			return nil, err
		}
	}
}

// start starts the program. tlsPort says whether it knows a port for gRPC
// over TLS, which has to be switched off then.
func start(o Options, tlsPort bool) (*Process, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	args := []string{
		"agent", "-bind=127.0.0.1", "-client=127.0.0.1", "-node=quern-test", "-log-level=warn",
		"-http-port=" + ports[0], "-server-port=" + ports[1], "-serf-lan-port=" + ports[2],
		"-serf-wan-port=-1", "-dns-port=-1", "-https-port=-1", "-grpc-port=-1",
		"-hcl=performance { raft_multiplier = 1 }", "-hcl=disable_update_check = true",
	}
	if tlsPort {
		args = append(args, "-grpc-tls-port=-1")
	}
	if o.Dir == "" {
		args = append(args, "-dev")
	} else {
		args = append(args, "-server", "-bootstrap-expect=1", "-data-dir="+o.Dir)
	}
	if o.Config != "" {
		args = append(args, "-hcl="+o.Config)
	}
	p := &Process{binary: o.Binary, args: args, addr: "127.0.0.1:" + ports[0]}
	return p, p.run()
}

// Again starts an agent that has ended once more, on the same ports and with
// what it kept. It returns when that has a leader.
func (p *Process) Again(ctx context.Context) (*Process, error) {
	<-p.exited
	next := &Process{binary: p.binary, args: p.args, addr: p.addr}
	if err := next.run(); err != nil {
		return nil, err
	}
	if err := next.ready(ctx); err != nil {
		next.Kill()
		return nil, err
	}
	return next, nil
}

// run starts the program on a thread that lives as long as the program does:
// the system ends it with the thread that started it.
func (p *Process) run() error {
	p.exited = make(chan struct{})
	p.cmd = exec.Command(p.binary, p.args...) //nolint:noctx,gosec // ends by a signal; the caller's program
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = endWithParent()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is of no interest
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("consulproc: %w", err)
	}
	return nil
}

// ready waits until the agent has a leader that has caught up with what was kept:
// one that was just elected answers other reads from before.
func (p *Process) ready(ctx context.Context) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		if p.answers(ctx) {
			return nil
		}
		select {
		case <-ticker.C:
		case <-p.exited:
			return fmt.Errorf("consulproc: the agent has ended:\n%s", p.Log())
		case <-ctx.Done():
			return fmt.Errorf("consulproc: no leader: %w\n%s", ctx.Err(), p.Log())
		}
	}
}

func (p *Process) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+"/v1/kv/none?consistent", nil)
	if err != nil {
		return false
	}
	// A transport of its own leaves no connection behind.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // the status says enough
	// There is no such key, or nobody may read it.
	return resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusForbidden
}

// Addr returns HOST:PORT of the HTTP interface.
func (p *Process) Addr() string { return p.addr }

// Log returns the end of what the agent has written.
func (p *Process) Log() string { return p.log.String() }

// Signal sends a signal to the agent, such as SIGSTOP.
func (p *Process) Signal(s os.Signal) error {
	return p.cmd.Process.Signal(s) //nolint:wrapcheck // says all there is to say
}

// Stop ends the agent and waits for its end.
func (p *Process) Stop() {
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	_ = p.Signal(syscall.SIGCONT) // one that is stopped would not hear the next
	_ = p.Signal(os.Interrupt)
	select {
	case <-p.exited:
	case <-timer.C:
		p.Kill()
	}
}

// Kill ends the agent at once and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.exited
}

// freePorts returns ports that were free a moment ago, for TCP and UDP.
func freePorts(n int) ([]string, error) {
	var ports []string
	for len(ports) < n {
		tcp, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed below
		if err != nil {
			return nil, fmt.Errorf("consulproc: %w", err)
		}
		defer func() { _ = tcp.Close() }()                       // all are held until all are chosen
		udp, err := net.ListenPacket("udp", tcp.Addr().String()) //nolint:noctx // closed below
		if err != nil {
			continue
		}
		defer func() { _ = udp.Close() }()
		_, port, err := net.SplitHostPort(tcp.Addr().String())
		if err != nil {
			return nil, fmt.Errorf("consulproc: %w", err)
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// tail keeps the last keepLog bytes that were written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.buf.Len() > keepLog {
		t.buf.Next(t.buf.Len() - keepLog/2)
	}
	return t.buf.Write(b)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
