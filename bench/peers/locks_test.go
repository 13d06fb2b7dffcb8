package peers

import (
	"bufio"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/testservice"
)

// TestLocks holds each system to what a lock is: what grants to two is no peer.
func TestLocks(t *testing.T) {
	t.Parallel()
	const callers = 2
	for name, open := range map[string]func(t *testing.T) Locks{
		"quern": func(t *testing.T) Locks {
			t.Helper()
			return NewQuernLocks(openNode(t), callers)
		},
		"redis": func(t *testing.T) Locks {
			t.Helper()
			return redisLocks(t, callers)
		},
		"etcd": func(t *testing.T) Locks {
			t.Helper()
			return etcdLocks(t, callers)
		},
		"consul": func(t *testing.T) Locks {
			t.Helper()
			l, err := NewConsulLocks(t.Context(), testservice.Consul(t, consulproc.Options{}).Addr(), callers)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(l.Close)
			return l
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkLocks(t, open(t))
		})
	}
}

// checkLocks takes and gives one lock in turns, then several at the same time.
func checkLocks(t *testing.T, locks Locks) {
	t.Helper()
	for i, step := range []struct {
		do     func(context.Context, int, string) (bool, error)
		caller int
		want   bool
	}{
		{locks.Take, 0, true},
		{locks.Take, 1, false},
		{locks.Give, 0, true},
		{locks.Give, 0, false},
		{locks.Take, 1, true},
		{locks.Give, 0, false}, // what it took before
		{locks.Take, 0, false},
		{locks.Give, 1, true},
		{locks.Take, 0, true},
	} {
		got, err := step.do(t.Context(), step.caller, "turns")
		if err != nil || got != step.want {
			t.Errorf("step %d: got %v and %v, want %v", i, got, err, step.want)
		}
	}
	rate, err := LoadLocks(locks, 2, Keys("own", 5), 20*time.Millisecond)
	if err != nil || rate <= 0 {
		t.Errorf("%v cycles a second, %v", rate, err)
	}
	if held, err := locks.Take(t.Context(), 1, "own0"); err != nil || !held {
		t.Fatal(held, err)
	}
	if _, err := LoadLocks(locks, 1, Keys("own", 1), time.Second); !errors.Is(err, ErrLock) {
		t.Errorf("a load on a lock that is taken: %v", err)
	}
}

func TestHandOver(t *testing.T) {
	t.Parallel()
	rate, err := LoadHandOver(openNode(t), 8, "one", 50*time.Millisecond)
	if err != nil || rate <= 0 {
		t.Errorf("%v hand-overs a second, %v", rate, err)
	}
}

// TestWitness counts grants to another than before, and finds a token that does
// not rise.
func TestWitness(t *testing.T) {
	t.Parallel()
	var w witness
	for i, grant := range []struct {
		holder int64
		token  uint64
		handed int
		bad    bool
	}{
		{1, 5, 1, false},
		{1, 6, 0, false},
		{2, 7, 1, false},
		{1, 7, 0, true},
	} {
		handed, err := w.enter(grant.holder, grant.token)
		if handed != grant.handed || (err != nil) != grant.bad {
			t.Errorf("grant %d: got %d and %v", i, handed, err)
		}
	}
}

func TestReadRedis(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"+OK\r\n": "OK", ":1\r\n": "1", "$-1\r\n": "", "$0\r\n\r\n": "", "$4\r\na\r\nb\r\n": "a\r\nb",
		"-ERR no\r\n": "ERR no", "*1\r\n": "unexpected", "\r\n": "an empty", "$4\r\nab": "EOF", "$x\r\n": "invalid", "": "EOF",
	} {
		got, err := readRedis(bufio.NewReader(strings.NewReader(in)))
		if err != nil {
			if got = err.Error(); !strings.Contains(got, want) {
				t.Errorf("%q: %v, want %q", in, err, want)
			}
			continue
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// openNode opens a node in this process that ends with the test.
func openNode(t *testing.T) *quern.Node {
	t.Helper()
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return node
}

func redisLocks(t *testing.T, callers int) Locks {
	t.Helper()
	redis, err := StartRedis(t.Context(), NoFile)
	if errors.Is(err, ErrNoRedis) {
		testservice.Impossible(t, "redis", "not installed; a peer to measure only, `make redis` fetches it")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.Close)
	testservice.Used(t, "redis", redis.Version)
	l, err := redis.Locks(t.Context(), callers)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func etcdLocks(t *testing.T, callers int) Locks {
	t.Helper()
	etcd, err := StartEtcd(t.Context())
	if errors.Is(err, ErrNoEtcd) {
		testservice.Impossible(t, "etcd", "not installed; a peer to measure only, `make etcd` fetches it")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	testservice.Used(t, "etcd", etcd.Version)
	l, err := etcd.Locks(t.Context(), callers)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
