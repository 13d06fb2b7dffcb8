//go:build linux

package pgproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Role is the superuser and the database that a server begins with.
const Role = "quern"

const (
	// prefix begins the name of a server's folder.
	prefix    = "quern-pg"
	pollEvery = 5 * time.Millisecond
	// startTimeout bounds one start, with the recovery after a kill.
	startTimeout = 60 * time.Second
)

// Server is a private server. Its methods must not be called concurrently.
type Server struct {
	home     string
	bin      string
	settings []string
	user     *syscall.Credential // nil: as this process
	version  string
	process  *process // nil while it does not run
}

// process is one life of the server.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// Start makes an empty server and returns when it accepts connections. Settings
// are those of postgresql.conf, such as "max_connections=20". The database named
// Role exists. Whoever comes over the socket is trusted, but for the role
// "locked", who needs a password.
func Start(ctx context.Context, settings ...string) (*Server, error) {
	bin, err := find()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, settings: settings}
	if s.user, err = unprivileged(); err != nil {
		return nil, err
	}
	sweep()
	if s.home, err = os.MkdirTemp("", prefix); err != nil {
		return nil, fmt.Errorf("pgproc: %w", err)
	}
	if err := s.create(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.home))
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// create makes the data folder.
func (s *Server) create(ctx context.Context) error {
	if err := s.own(); err != nil {
		return fmt.Errorf("pgproc: %w", err)
	}
	if s.user != nil {
		if err := os.Chown(s.home, int(s.user.Uid), int(s.user.Gid)); err != nil {
			return fmt.Errorf("pgproc: %w", err)
		}
	}
	if err := s.adopt(ctx); err != nil {
		return err
	}
	if _, err := s.run(ctx, "initdb", "-D", s.data(), "-U", Role, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return err
	}
	const hba = "local all locked scram-sha-256\nlocal all all trust\nlocal replication all trust\n"
	if err := os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return fmt.Errorf("pgproc: %w", err)
	}
	return s.single(ctx, "CREATE DATABASE "+Role)
}

// adopt copies a server that the unprivileged user cannot reach, as one below
// /root, and asks for its version.
func (s *Server) adopt(ctx context.Context) error {
	out, err := s.run(ctx, "postgres", "--version")
	if errors.Is(err, os.ErrPermission) {
		root := filepath.Join(s.bin, "../../../../..") // of usr/lib/postgresql/15/bin
		copied := filepath.Join(s.home, "server")
		if text, err := exec.CommandContext(ctx, "cp", "-R", root, copied).CombinedOutput(); err != nil { //nolint:gosec // paths of our own
			return fmt.Errorf("pgproc: copy: %w\n%s", err, text)
		}
		rel, err := filepath.Rel(root, s.bin)
		if err != nil {
			return fmt.Errorf("pgproc: %w", err)
		}
		s.bin = filepath.Join(copied, rel)
		out, err = s.run(ctx, "postgres", "--version")
		if err != nil {
			return err
		}
		s.version = strings.TrimSpace(out)
		return nil
	}
	s.version = strings.TrimSpace(out)
	return err
}

// run runs one of the server's programs to its end.
func (s *Server) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...) //nolint:gosec // the server's own programs
	s.arrange(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("pgproc: %s: %w\n%s", name, err, out)
	}
	return string(out), nil
}

// single runs a statement on a server that does not run.
func (s *Server) single(ctx context.Context, statement string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "postgres"), "--single", "-F", "-D", s.data(), "postgres") //nolint:gosec // the server's own program
	s.arrange(cmd)
	cmd.Stdin = strings.NewReader(statement + "\n")
	if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("ERROR:")) {
		return fmt.Errorf("pgproc: %s: %w\n%s", statement, err, out)
	}
	return nil
}

// arrange sets user, folder, environment and libraries of a program.
func (s *Server) arrange(cmd *exec.Cmd) {
	cmd.Dir = s.home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.home, "LC_ALL=C", "TZ=UTC"}
	if libraries := s.libraries(); libraries != "" {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+libraries)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
}

// libraries are those that were unpacked beside the server.
func (s *Server) libraries() string {
	usr := filepath.Join(s.bin, "../../../..")
	if usr == "/usr" {
		return ""
	}
	found, _ := filepath.Glob(filepath.Join(usr, "lib", "*-linux-*")) // the pattern is well-formed
	return strings.Join(found, ":")
}

func (s *Server) data() string { return filepath.Join(s.home, "data") }

// Version says which server it is.
func (s *Server) Version() string { return s.version }

// Socket is the path of the socket that the server listens on.
func (s *Server) Socket() string { return filepath.Join(s.home, ".s.PGSQL.5432") }

// URL returns the URL of the database Role, with further parameters.
func (s *Server) URL(parameters ...string) string { return s.URLAs(Role, "", Role, parameters...) }

// URLAs returns the URL of a database for a role.
func (s *Server) URLAs(role, password, database string, parameters ...string) string {
	u := url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database}
	if password != "" {
		u.User = url.UserPassword(role, password)
	}
	u.RawQuery = strings.Join(append([]string{"host=" + url.QueryEscape(s.home)}, parameters...), "&")
	return u.String()
}

// Start starts the server again after Kill or Stop, and returns when it accepts
// connections.
func (s *Server) Start(ctx context.Context) error {
	if s.process != nil {
		return errors.New("pgproc: the server runs already")
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pgproc: %w", err)
	}
	defer func() { _ = log.Close() }() // the server has its own handle
	args := []string{
		"-D", s.data(), "-k", s.home,
		"-c", "listen_addresses=", "-c", "shared_buffers=32MB", "-c", "dynamic_shared_memory_type=mmap",
		"-c", "restore_command=false", // for StartAs
	}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...) //nolint:gosec,noctx // ends by a signal, not with a context
	s.arrange(cmd)
	cmd.Stdout, cmd.Stderr = log, log
	// It goes with this process, also when that is killed: an immediate end.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The signal of the parent's death is that of the thread's death.
		runtime.LockOSThread()
		defer close(p.exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the log says why it ended
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("pgproc: %w", err)
	}
	s.process = p
	return s.ready(ctx)
}

// ready waits until the server says so in its lock file.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
		lines := strings.Split(string(text), "\n")
		if err == nil && len(lines) > 7 && accepts(lines[7]) && lines[0] == fmt.Sprint(s.process.cmd.Process.Pid) {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.process.exited:
			s.process = nil
			return fmt.Errorf("pgproc: the server ended at its start:\n%s", s.Log())
		case <-ctx.Done():
			return fmt.Errorf("pgproc: the server does not come up: %w\n%s", ctx.Err(), s.Log())
		}
	}
}

// accepts says whether a server in this state accepts connections.
func accepts(state string) bool {
	state = strings.TrimSpace(state)
	return state == "ready" || state == "standby"
}

func (s *Server) logFile() string { return filepath.Join(s.home, "log") }

// Log returns what the server has logged.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// StartAs starts a stopped server with a file named signal in its data folder:
// standby.signal makes it a standby without a primary, recovery.signal gives it
// a new timeline, as a promotion does.
func (s *Server) StartAs(ctx context.Context, signal string) error {
	path := filepath.Join(s.data(), signal)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return fmt.Errorf("pgproc: %w", err)
	}
	if s.user != nil {
		if err := os.Chown(path, int(s.user.Uid), int(s.user.Gid)); err != nil {
			return fmt.Errorf("pgproc: %w", err)
		}
	}
	return s.Start(ctx)
}
