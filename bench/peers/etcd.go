package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/quern-io/quern/internal/nodeproc"
)

// ErrNoEtcd says that etcd is neither on PATH nor under .tools.
var ErrNoEtcd = errors.New("peers: no etcd on PATH or in .tools/etcd; `make etcd` fetches it")

// etcdStart bounds the start of a server.
const etcdStart = 30 * time.Second

// Etcd is a private server of one member on loopback, at its own defaults: it
// syncs its log before a reply. Close it.
type Etcd struct {
	Version string
	folder  string
	server  *nodeproc.Process
	conn    *grpc.ClientConn
}

// StartEtcd starts a private server on free ports with its files in a temporary
// folder. It returns ErrNoEtcd where there is none.
func StartEtcd(ctx context.Context) (*Etcd, error) {
	binary, err := findEtcd()
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, binary, "--version").Output() //nolint:gosec // the program that was found
	if err != nil {
		return nil, fmt.Errorf("peers: etcd --version: %w", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	e := &Etcd{Version: strings.TrimPrefix(line, "etcd Version: ")}
	if e.folder, err = os.MkdirTemp("", "quern-etcd"); err != nil {
		return nil, err
	}
	if err := e.start(ctx, binary); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Etcd) start(ctx context.Context, binary string) error {
	var at [2]string // for clients, for members
	for i := range at {
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		at[i] = "127.0.0.1:" + strconv.Itoa(port)
	}
	var err error
	e.server, err = nodeproc.Start(binary, "--data-dir", e.folder, "--name", "peer", "--log-level", "error", "--logger", "zap",
		"--listen-client-urls", "http://"+at[0], "--advertise-client-urls", "http://"+at[0],
		"--listen-peer-urls", "http://"+at[1], "--initial-advertise-peer-urls", "http://"+at[1],
		"--initial-cluster", "peer=http://"+at[1])
	if err != nil {
		return err
	}
	if e.conn, err = grpc.NewClient(at[0], grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return fmt.Errorf("peers: etcd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, etcdStart)
	defer cancel()
	if _, err := e.lease(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, e.server.Stderr())
	}
	return nil
}

// Close ends the server and removes its files.
func (e *Etcd) Close() {
	if e.conn != nil {
		_ = e.conn.Close() // nothing is under way
	}
	if e.server != nil {
		e.server.Kill() // nothing of it is kept
	}
	_ = os.RemoveAll(e.folder) // a left-over in the temporary folder harms nobody
}

func findEtcd() (string, error) {
	if path, err := exec.LookPath("etcd"); err == nil {
		return path, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", ErrNoEtcd
	}
	path := filepath.Join(root, ".tools", "etcd", "usr", "bin", "etcd")
	if _, err := os.Stat(path); err != nil {
		return "", ErrNoEtcd
	}
	return path, nil
}
