package crashtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/testservice"
)

const (
	// mountedEnv marks the test process that has a mount namespace of its own.
	mountedEnv = "QUERN_CRASHTEST_MOUNTED"
	diskMiB    = 384
	service    = "small disk (tmpfs)"
)

// TestFullDisk fills the disk under a node at work. The test runs itself again
// in a mount namespace of its own, so that its disk goes with the process,
// however that ends, and needs no root where user namespaces are allowed.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getenv(mountedEnv) != "" {
		fullDisk(t)
		return
	}
	if out, err := inNamespace(t, "-test.run=^TestMountProbe$").CombinedOutput(); err != nil {
		testservice.Impossible(t, service, fmt.Sprintf("cannot mount a tmpfs: %v: %s", err, lastLine(out)))
	}
	cmd := inNamespace(t, "-test.run=^TestFullDisk$", "-test.v")
	cmd.Env = append(cmd.Env, binaryEnv+"="+binary(t))
	out, err := cmd.CombinedOutput()
	t.Logf("in a mount namespace:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	testservice.Used(t, service, strconv.Itoa(diskMiB)+" MiB")
}

// TestMountProbe tells TestFullDisk whether it can have its disk.
func TestMountProbe(t *testing.T) {
	if os.Getenv(mountedEnv) == "" {
		t.Skip("a part of TestFullDisk")
	}
	mountDisk(t)
}

// inNamespace prepares this test binary to run in its own mount namespace: as
// root directly, else as root of a user namespace.
func inNamespace(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), mountedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// mountDisk mounts a small disk for this process and its children alone.
func mountDisk(t *testing.T) string {
	t.Helper()
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatalf("cannot make the mounts private: %v", err)
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%dm", diskMiB)); err != nil {
		t.Fatalf("cannot mount: %v", err)
	}
	t.Cleanup(func() {
		// A node that is being killed may hold it a moment longer.
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Errorf("cannot unmount: %v", err)
		}
	})
	return disk
}

func fullDisk(t *testing.T) {
	t.Helper()
	disk := mountDisk(t)
	data, filler := filepath.Join(disk, "data"), filepath.Join(disk, "filler")
	node := serve(t, data)
	first := ready(t, node)
	// A client that tries again by itself would hide the refusals.
	c := dialWith(t, first.GRPC, client.Options{Unary: true})
	adds := startLoad(t, c)
	adds.await(t, "adds before the disk is full", func(l *load) bool { return l.acks > 500 })

	fill(t, filler)
	adds.await(t, "refusals on a full disk", func(l *load) bool { return l.refusals > 100 })
	refusal := adds.lastRefusal()
	if !errors.Is(refusal, failure.Overloaded) || failure.OutcomeOf(refusal) != failure.NotDone {
		t.Errorf("a write on a full disk fails with %v", refusal)
	}
	if !strings.Contains(refusal.Error(), "disk") {
		t.Errorf("the refusal does not say that the disk is full: %v", refusal)
	}
	t.Logf("refusal: %v", refusal)
	checkReadsGoOn(t, adds)

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	adds.reset()
	adds.await(t, "adds after room was made", func(l *load) bool { return l.acks > 500 })
	if again := ready(t, node); again != first {
		t.Errorf("the node changed: %v, was %v", again, first)
	}

	// Once more, and this time the node dies on the full disk.
	fill(t, filler)
	adds.await(t, "refusals on a full disk", func(l *load) bool { return l.refusals > 100 })
	node.Kill()
	known := adds.finish()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	node = serve(t, data)
	acked, unknown := checkTallys(t, dial(t, ready(t, node).GRPC), known)
	t.Logf("adds acknowledged: sum %d; unknown: sum %d", acked, unknown)
	stop(t, node)
}

// checkReadsGoOn reads keys that were written and one that never was.
func checkReadsGoOn(t *testing.T, l *load) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for i := range adderKeys {
		key := adderKey(i)
		low := l.tally(key).Acked
		if value := l.read(ctx, t, key); value < low {
			t.Errorf("%s reads %d on a full disk, %d were acknowledged", key, value, low)
		}
	}
	if value := l.read(ctx, t, "never written"); value != 0 {
		t.Errorf("a new key reads %d", value)
	}
}

// fill writes to a file until the disk has no byte left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		n, err := f.Write(make([]byte, size))
		switch {
		case err == nil:
		case errors.Is(err, syscall.ENOSPC):
			if n == 0 {
				size /= 2
			}
		default:
			t.Fatal(err)
		}
	}
}

// load adds to the adders' keys from within this process, and keeps on when it
// is refused.
type load struct {
	client  *client.Client
	stop    chan struct{}
	done    sync.WaitGroup
	changed chan struct{} // holds a token after a count changed

	mu       sync.Mutex
	known    map[string]tally // guarded by mu, as all below
	acks     int
	refusals int
	refusal  error
}

func startLoad(t *testing.T, c *client.Client) *load {
	t.Helper()
	l := &load{client: c, stop: make(chan struct{}), changed: make(chan struct{}, 1), known: make(map[string]tally)}
	for worker := range adderWorkers {
		l.done.Go(func() { l.work(worker) })
	}
	return l
}

func (l *load) work(worker int) {
	for i := worker; ; i += adderWorkers {
		select {
		case <-l.stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		value, err := l.client.Counter(adderKey(i%adderKeys)).Add(ctx, 1)
		cancel()
		l.record(adderKey(i%adderKeys), value, err)
	}
}

func (l *load) record(key string, value int64, err error) {
	l.mu.Lock()
	k := l.known[key]
	switch {
	case err == nil:
		l.acks++
		k.Acked++
		k.Seen = max(k.Seen, value)
	case failure.OutcomeOf(err) == failure.Unknown:
		k.Unknown++
	default:
		l.refusals++
		l.refusal = err
	}
	l.known[key] = k
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// await returns when the counts satisfy enough.
func (l *load) await(t *testing.T, what string, enough func(*load) bool) {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		l.mu.Lock()
		ok, acks, refusals, refusal := enough(l), l.acks, l.refusals, l.refusal
		l.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-l.changed:
		case <-timeout.C:
			t.Fatalf("no %s: %d acknowledged, %d refused, the last with: %v", what, acks, refusals, refusal)
		}
	}
}

// reset starts the counts anew, not what is known of the keys.
func (l *load) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks, l.refusals, l.refusal = 0, 0, nil
}

func (l *load) lastRefusal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusal
}

func (l *load) tally(key string) tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known[key]
}

// finish ends the load and returns what is known of each key.
func (l *load) finish() map[string]tally {
	close(l.stop)
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// read reads a counter while writes are refused.
func (l *load) read(ctx context.Context, t *testing.T, key string) int64 {
	t.Helper()
	value, err := l.client.Counter(key).Get(ctx)
	if err != nil {
		t.Fatalf("%s: a read on a full disk: %v", key, err)
	}
	return value
}
