package peers

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNoRedis says that Redis is neither on PATH nor under .tools.
var ErrNoRedis = errors.New("peers: no redis-server and redis-benchmark on PATH or in .tools/redis; `make redis` fetches them")

// Fsync is Redis's way with its append-only file.
type Fsync string

const (
	// NoFile keeps nothing on disk.
	NoFile Fsync = ""
	// Always syncs before a reply: what Quern's embedded store promises.
	Always Fsync = "always"
)

// Redis is a private server on loopback. Close it.
type Redis struct {
	Version string
	tools   redisTools
	port    int
	folder  string
	server  *exec.Cmd
	exited  chan struct{}
	log     bytes.Buffer // read after exited is closed
}

type redisTools struct {
	server, benchmark string
	env               []string
}

// StartRedis starts a private server on a free port with its files in a
// temporary folder. It returns ErrNoRedis where there is none.
func StartRedis(ctx context.Context, fsync Fsync) (*Redis, error) {
	tools, err := findRedis()
	if err != nil {
		return nil, err
	}
	version, err := tools.command(ctx, tools.server, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("peers: redis-server --version: %w", err)
	}
	r := &Redis{tools: tools, exited: make(chan struct{})}
	for field := range strings.FieldsSeq(string(version)) {
		if v, ok := strings.CutPrefix(field, "v="); ok {
			r.Version = v
		}
	}
	if r.folder, err = os.MkdirTemp("", "quern-redis"); err != nil {
		return nil, err
	}
	if err := r.start(ctx, fsync); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Redis) start(ctx context.Context, fsync Fsync) error {
	var err error
	if r.port, err = freePort(ctx); err != nil {
		return err
	}
	args := []string{
		"--port", strconv.Itoa(r.port), "--bind", "127.0.0.1", "--dir", r.folder,
		"--save", "", "--daemonize", "no",
	}
	if fsync != NoFile {
		args = append(args, "--appendonly", "yes", "--appendfsync", string(fsync))
	}
	r.server = r.tools.command(context.WithoutCancel(ctx), r.tools.server, args...)
	r.server.Stdout, r.server.Stderr = &r.log, &r.log
	if err := r.server.Start(); err != nil {
		close(r.exited)
		return fmt.Errorf("peers: redis-server: %w", err)
	}
	go func() {
		defer close(r.exited)
		_ = r.server.Wait() // Close ends it by a signal
	}()
	return r.ready(ctx)
}

// ready waits until the server answers a ping.
func (r *Redis) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if r.ping(ctx) == nil {
			return nil
		}
		select {
		case <-poll.C:
		case <-r.exited:
			return fmt.Errorf("peers: redis-server ended:\n%s", r.log.String())
		case <-ctx.Done():
			return fmt.Errorf("peers: redis-server does not answer: %w", ctx.Err())
		}
	}
}

func (r *Redis) ping(ctx context.Context) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer := make([]byte, 7)
	if _, err := conn.Read(answer); err != nil {
		return err
	}
	if !bytes.HasPrefix(answer, []byte("+PONG")) {
		return fmt.Errorf("peers: redis-server answered %q", answer)
	}
	return nil
}

// Incr runs redis-benchmark: n INCR over random keys from so many connections,
// each with pipeline requests under way (1: one at a time). It returns requests
// per second.
func (r *Redis) Incr(ctx context.Context, n, connections, keys, pipeline int) (float64, error) {
	return r.benchmark(ctx, n, connections, keys, pipeline, "-t", "incr")
}

// Set is Incr with SET of so many bytes.
func (r *Redis) Set(ctx context.Context, n, connections, keys, pipeline, size int) (float64, error) {
	return r.benchmark(ctx, n, connections, keys, pipeline, "-t", "set", "-d", strconv.Itoa(size))
}

func (r *Redis) benchmark(ctx context.Context, n, connections, keys, pipeline int, more ...string) (float64, error) {
	args := append([]string{
		"-p", strconv.Itoa(r.port), "--csv",
		"-n", strconv.Itoa(n), "-c", strconv.Itoa(connections), "-r", strconv.Itoa(keys), "-P", strconv.Itoa(pipeline),
	}, more...)
	cmd := r.tools.command(ctx, r.tools.benchmark, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("peers: redis-benchmark: %w: %s", err, stderr.String())
	}
	return parseRedisRate(string(out))
}

// For returns a function that does Incr for about a given time, as a contender
// needs it.
func (r *Redis) For(connections, keys, pipeline int) func(context.Context, time.Duration) (float64, error) {
	return sized(connections*pipeline, func(ctx context.Context, n int) (float64, error) {
		return r.Incr(ctx, n, connections, keys, pipeline)
	})
}

// SetFor is For with Set.
func (r *Redis) SetFor(connections, keys, pipeline, size int) func(context.Context, time.Duration) (float64, error) {
	return sized(connections*pipeline, func(ctx context.Context, n int) (float64, error) {
		return r.Set(ctx, n, connections, keys, pipeline, size)
	})
}

// sized sizes each run, of at least so many operations, by the rate of the one
// before.
func sized(least int, run func(ctx context.Context, n int) (float64, error)) func(context.Context, time.Duration) (float64, error) {
	rate := 20_000.0
	return func(ctx context.Context, d time.Duration) (float64, error) {
		got, err := run(ctx, max(least, int(rate*d.Seconds())))
		if err == nil {
			rate = got
		}
		return got, err
	}
}

// Close ends the server and removes its files.
func (r *Redis) Close() {
	if r.server != nil && r.server.Process != nil {
		_ = r.server.Process.Kill() // nothing of it is kept
		<-r.exited
	}
	_ = os.RemoveAll(r.folder) // a left-over in the temporary folder harms nobody
}

// parseRedisRate reads the requests per second from redis-benchmark's CSV: a
// header line with the column "rps" and one line per test.
func parseRedisRate(out string) (float64, error) {
	rows, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil {
		return 0, fmt.Errorf("peers: redis-benchmark's output: %w", err)
	}
	if len(rows) != 2 {
		return 0, fmt.Errorf("peers: redis-benchmark printed %d lines: %q", len(rows), out)
	}
	column := slices.Index(rows[0], "rps")
	if column < 0 {
		return 0, fmt.Errorf("peers: redis-benchmark printed no rps: %q", out)
	}
	rate, err := strconv.ParseFloat(rows[1][column], 64)
	if err != nil {
		return 0, fmt.Errorf("peers: redis-benchmark's rate: %w", err)
	}
	if !(rate > 0) {
		return 0, fmt.Errorf("peers: redis-benchmark's rate is %v", rate)
	}
	return rate, nil
}

func findRedis() (redisTools, error) {
	server, err1 := exec.LookPath("redis-server")
	benchmark, err2 := exec.LookPath("redis-benchmark")
	if err1 == nil && err2 == nil {
		return redisTools{server: server, benchmark: benchmark}, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return redisTools{}, ErrNoRedis
	}
	base := filepath.Join(root, ".tools", "redis")
	tools := redisTools{
		server:    filepath.Join(base, "usr", "bin", "redis-server"),
		benchmark: filepath.Join(base, "usr", "bin", "redis-benchmark"),
	}
	for _, program := range []string{tools.server, tools.benchmark} {
		if _, err := os.Stat(program); err != nil {
			return redisTools{}, ErrNoRedis
		}
	}
	var libraries []string
	for _, pattern := range []string{"usr/lib/*-linux-gnu", "lib/*-linux-gnu"} {
		found, err := filepath.Glob(filepath.Join(base, pattern))
		if err != nil {
			return redisTools{}, err
		}
		libraries = append(libraries, found...)
	}
	tools.env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
	return tools, nil
}

func (t redisTools) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // one of the two programs that were found
	cmd.Env = t.env
	return cmd
}

// moduleRoot finds the folder of go.mod above the working folder.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", os.ErrNotExist
		}
		dir = parent
	}
}

func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("peers: no free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("peers: no free port: %v", l.Addr())
	}
	return addr.Port, nil
}
