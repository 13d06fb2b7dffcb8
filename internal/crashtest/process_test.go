package crashtest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/quern-io/quern/internal/nodeproc"
)

// refused starts a node that must not come up, and checks that it exits with
// the code, names on stderr all that the user needs, prints nothing else and
// claims no folder.
func refused(t *testing.T, p *nodeproc.Process, data string, code int, says ...string) {
	t.Helper()
	if got := exit(t, p); got != code {
		t.Errorf("exit code %d, want %d:\n%s", got, code, p.Stderr())
	}
	for _, s := range says {
		if !strings.Contains(p.Stderr(), s) {
			t.Errorf("stderr does not name %q:\n%s", s, p.Stderr())
		}
	}
	if p.Stdout() != "" {
		t.Errorf("stdout is not empty: %q", p.Stdout())
	}
	if strings.Contains(p.Stderr(), "goroutine ") {
		t.Errorf("stderr shows a stack:\n%s", p.Stderr())
	}
	if _, err := os.Stat(filepath.Join(data, "node.json")); err == nil {
		t.Error("a node that was refused left a node.json")
	}
}

func TestBusyPort(t *testing.T) {
	t.Parallel()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	busy := l.Addr().String()

	data := dataFolder(t)
	refused(t, serve(t, data, "--listen", busy), data, 1, busy)
	data = dataFolder(t)
	refused(t, serve(t, data, "--http", busy), data, 1, busy)
}

func TestUnwritableFolder(t *testing.T) {
	t.Parallel()
	// Below a file nobody can make a folder, root neither.
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	data := filepath.Join(file, "data")
	refused(t, serve(t, data), data, 1, data)
}

func TestReadOnlyFolder(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root may write anywhere; TestUnwritableFolder shows the like")
	}
	data := dataFolder(t)
	if err := os.Mkdir(data, 0o500); err != nil {
		t.Fatal(err)
	}
	refused(t, serve(t, data), data, 1, data)
}

// TestForeignFolder: a folder with somebody's files is refused and not touched.
func TestForeignFolder(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(data, "thesis.txt"), "years of work")
	for _, store := range []string{"embedded", "memory"} {
		refused(t, serve(t, data, "--store", store), data, 1, data)
		entries, err := os.ReadDir(data)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 1 || entries[0].Name() != "thesis.txt" {
			t.Errorf("with the store %s the folder holds %v", store, entries)
		}
	}
}

// TestNewerFormat: a folder that a later version wrote is refused by name.
func TestNewerFormat(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	node := serve(t, data)
	ready(t, node)
	stop(t, node)
	raiseFormat(t, data)
	refused(t, serve(t, data), data, 1, data, "newer")
}

// TestOtherShards: a folder keeps the number of shards it was created with.
func TestOtherShards(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	node := serve(t, data, "--shards", "16")
	ready(t, node)
	stop(t, node)
	refused(t, serve(t, data, "--shards", "32"), data, 1, "16", "32")
	node = serve(t, data, "--shards", "16")
	ready(t, node)
	stop(t, node)
}

// TestFolderInUse: a second node on the folder is refused and does the first
// one no harm.
func TestFolderInUse(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	node := serve(t, data)
	first := ready(t, node)
	c := dial(t, first.GRPC)
	if _, err := c.Counter("k").Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	second := serve(t, data)
	if code := exit(t, second); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if !strings.Contains(second.Stderr(), data) {
		t.Errorf("stderr does not name the folder:\n%s", second.Stderr())
	}
	if again := ready(t, node); again != first {
		t.Errorf("node.json changed: %v, was %v", again, first)
	}
	if value, err := c.Counter("k").Add(t.Context(), 1); err != nil || value != 2 {
		t.Errorf("the first node answers %d, %v", value, err)
	}
	stop(t, node)
}

// TestTermTwice: a second SIGTERM ends the process at once, whatever the first
// one still waits for, and nothing that was acknowledged is lost.
func TestTermTwice(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	node := serve(t, data)
	c := dial(t, ready(t, node).GRPC)
	if _, err := c.Counter("k").Add(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := node.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	if code := exit(t, node); code < 0 || code > 1 && code != 128+int(syscall.SIGTERM) {
		t.Errorf("exit code %d", code)
	}
	node = serve(t, data)
	c = dial(t, ready(t, node).GRPC)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if value := read(ctx, t, c, "k"); value != 7 {
		t.Errorf("value %d, want 7", value)
	}
	stop(t, node)
}

// TestWrongUsage holds the exit codes that a script sees of a real process.
func TestWrongUsage(t *testing.T) {
	t.Parallel()
	data := dataFolder(t)
	for _, args := range [][]string{
		{"--no-such-flag"},
		{"--store", "papyrus"},
		{"--shards", "3"},
		{"--listen", "nowhere"},
		{"--consul", "127.0.0.1:1", "--cluster", "c"},
		{"--consul", "127.0.0.1:1", "--cluster", "c", "--store", "embedded"},
		{"unexpected"},
	} {
		p, err := nodeproc.Serve(binary(t), data, args...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		t.Run(strings.Join(args, " "), func(t *testing.T) { refused(t, p, data, 2) })
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("wrong usage made a data folder")
	}
}

// TestUnreachable: exit code 4 where no node is.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	p, err := nodeproc.Start(binary(t), "counter", "get", "k", "--timeout", "500ms", "--addr", addr(t, chance(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if code := exit(t, p); code != 4 || p.Stdout() != "" || p.Stderr() == "" {
		t.Errorf("exit code %d, want 4; stdout %q, stderr %q", code, p.Stdout(), p.Stderr())
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
