package clusterfault

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/internal/clusterproc"
	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/pgproc"
	"github.com/quern-io/quern/internal/testservice"
)

// badDays is a good node, n1 of the cluster c, and what starts beside it.
type badDays struct {
	t       *testing.T
	network clusterproc.Network
	folder  string
	consul  *clusterproc.Consul
	pg      *pgproc.Server
	good    string // where n1 listens
}

// waits, as an exit code, means that the program goes on waiting, and ends with 0
// at a SIGTERM.
const waits = -1

// there is how many counters the good node has: of many shards.
const there = uint32(64)

// TestBadDays starts nodes that cannot work. Each says why, and harms nobody.
func TestBadDays(t *testing.T) {
	t.Parallel()
	b := newBadDays(t)
	t.Run("beside", func(t *testing.T) { b.beside(t) })
	b.unharmed()
}

func (b *badDays) beside(t *testing.T) {
	t.Helper()
	// A port that nobody listens on.
	nobody := free(t)
	for _, d := range []struct {
		name string
		args []string // later ones stand above those of a good node
		code int
		says string // a regular expression
	}{
		{"another number of shards", []string{"--shards", "512"}, 1, `512.*256|256.*512`},
		{"another cluster's store", []string{"--cluster", "d"}, 1, `cluster`},
		{"another store", []string{"--store", b.pg.URL("schema=other")}, 1, `cluster`},
		{"a store of one's own", []string{"--store", "memory"}, 1, `cluster`},
		{"a name that is taken", []string{"--node", "n1"}, 1, `n1.*` + regexp.QuoteMeta(b.good)},
		{"an address that is taken", []string{"--listen", b.good}, 1, regexp.QuoteMeta(b.good)},
		{"an advertised address that is taken", []string{"--advertise", b.good}, 1, regexp.QuoteMeta(b.good) + `.*n1|n1.*` + regexp.QuoteMeta(b.good)},
		{"no Consul", []string{"--consul", nobody}, waits, regexp.QuoteMeta(nobody)},
		{"no permission", []string{"--consul", denying(t)}, waits, `denies permission.*key_prefix`},
		{"no store named", []string{"--store", ""}, 2, `--store`},
		{"the embedded store", []string{"--store", "embedded"}, 2, `embedded.*take over`},
		{"no cluster named", []string{"--cluster", ""}, 2, `--cluster`},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			b.expect(t, d.code, d.says, d.args...)
		})
	}
	t.Run("a newer protocol", func(t *testing.T) {
		t.Parallel()
		b.newer(t)
	})
}

func newBadDays(t *testing.T) *badDays {
	t.Helper()
	b := &badDays{t: t, folder: scratch(t), good: free(t)}
	var err error
	if b.network, err = clusterproc.Loopback(0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.network.Close)
	data := filepath.Join(b.folder, "consul")
	b.consul = clusterproc.NewConsul(testservice.Consul(t, consulproc.Options{Dir: data}), data)
	b.pg = testservice.Postgres(t)
	p := b.start(t, "n1", "--node", "n1", "--listen", b.good)
	t.Cleanup(p.Kill)
	c, err := client.Dial(soon(t), b.good)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Log())
	}
	t.Cleanup(func() { _ = c.Close() })
	for key := range there {
		if _, err := c.Counter(counterKey(key)).Add(soon(t), 1); err != nil {
			t.Fatalf("%v\n%s", err, p.Log())
		}
	}
	return b
}

// free returns an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	lis, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

// denying is a Consul that allows nothing.
func denying(t *testing.T) string {
	t.Helper()
	return testservice.Consul(t, consulproc.Options{Config: `acl { enabled = true default_policy = "deny" }`}).Addr()
}

// start starts a node of the cluster c with a data folder of its own.
func (b *badDays) start(t *testing.T, folder string, args ...string) *clusterproc.Process {
	t.Helper()
	all := append([]string{
		"serve", "--data", filepath.Join(b.folder, folder), "--node", strings.ToLower(filepath.Base(t.Name())), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--store", b.pg.URL(), "--consul", b.consul.Addr(), "--cluster", "c",
	}, args...)
	cmd := exec.CommandContext(b.t.Context(), binary, all...)
	cmd.Env = clusterproc.Environ()
	p, err := clusterproc.Start(b.network, 0, cmd, filepath.Join(b.folder, folder+".log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// expect starts a node, waits for its end and looks at what it says.
func (b *badDays) expect(t *testing.T, code int, says string, args ...string) {
	t.Helper()
	p := b.start(t, strings.ReplaceAll(t.Name(), "/", "-"), args...)
	pattern := regexp.MustCompile(says)
	if code == waits {
		until(t, p, func() bool { return pattern.MatchString(p.Log()) })
		got, err := p.Stop(soon(t))
		if err != nil || got != 0 {
			t.Errorf("after SIGTERM it exited with %d, %v:\n%s", got, err, p.Log())
		}
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()
	got, err := p.Wait(ctx)
	if err != nil || got != code {
		t.Errorf("it exited with %d, %v, want %d", got, err, code)
	}
	said := regexp.MustCompile(`(?m)^quern: .*`).FindAllString(p.Log(), -1)
	if len(said) != 1 || !pattern.MatchString(said[0]) {
		t.Errorf("it says %q, want one line with %q:\n%s", said, says, p.Log())
		return
	}
	t.Log(said[0])
}

// until waits until done, which the process's end makes impossible.
func until(t *testing.T, p *clusterproc.Process, done func() bool) {
	t.Helper()
	for ctx := soon(t); !done(); hold(t, 10*time.Millisecond) {
		select {
		case <-p.Exited():
			t.Fatalf("it has ended:\n%s", p.Log())
		case <-ctx.Done():
			t.Fatalf("it does not say so:\n%s", p.Log())
		default:
		}
	}
}

// newer gives a cluster a record that a later version could have written.
func (b *badDays) newer(t *testing.T) {
	t.Helper()
	const record = `{"format":1,"protocol":%d,"cluster_id":"6f2e0a3c-1a54-4f0e-9e0b-0d0c7c5a7b11","shards":256,"lock_delay_ms":2000,"base_epoch":"1"}`
	const later = 99
	if err := b.consul.Put(soon(t), "quern/newer/record", fmt.Sprintf(record, later)); err != nil {
		t.Fatal(err)
	}
	b.expect(t, 1, `protocol.*99|99.*protocol`, "--cluster", "newer", "--store", b.pg.URL("schema=newer"))
}

// unharmed looks whether the good node still serves, with what it had.
func (b *badDays) unharmed() {
	b.t.Helper()
	c, err := client.Dial(soon(b.t), b.good)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	for key := range there {
		if n, err := c.Counter(counterKey(key)).Add(soon(b.t), 1); err != nil || n != 2 {
			b.t.Errorf("n1 answers %d, %v, want 2", n, err)
		}
	}
}
