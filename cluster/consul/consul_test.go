package consul_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"go.uber.org/goleak"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/clustertest"
	"github.com/quern-io/quern/cluster/consul"
	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/testservice"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agent is a private Consul, and its operator.
type agent struct {
	addr string
	api  *api.Client
}

func startAgent(tb testing.TB) agent {
	tb.Helper()
	p := testservice.Consul(tb, consulproc.Options{})
	conf := api.DefaultConfig()
	conf.Address = p.Addr()
	client, err := api.NewClient(conf)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(conf.Transport.CloseIdleConnections)
	return agent{p.Addr(), client}
}

func (a agent) Connect(tb testing.TB, name string, checkTTL time.Duration) cluster.Authority {
	tb.Helper()
	return connect(tb, consul.Config{Cluster: name, Address: a.addr, CheckTTL: checkTTL})
}

func connect(tb testing.TB, cfg consul.Config) *consul.Authority {
	tb.Helper()
	authority, err := consul.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(authority.Close)
	return authority
}

func (a agent) DeleteLock(tb testing.TB, name string, shard uint32) {
	tb.Helper()
	if _, err := a.api.KV().Delete(fmt.Sprintf("quern/%s/shards/%05d", name, shard), nil); err != nil {
		tb.Fatal(err)
	}
}

func (a agent) EndSession(tb testing.TB, s cluster.Session) {
	tb.Helper()
	if _, err := a.api.Session().Destroy(string(s), nil); err != nil {
		tb.Fatal(err)
	}
}

func (a agent) Save(tb testing.TB) func(testing.TB) {
	tb.Helper()
	in, _, err := a.api.Snapshot().Save(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	saved, err := io.ReadAll(in)
	if err != nil {
		tb.Fatal(err)
	}
	return func(tb testing.TB) {
		tb.Helper()
		if err := a.api.Snapshot().Restore(nil, bytes.NewReader(saved)); err != nil {
			tb.Fatal(err)
		}
	}
}

func TestConsul(t *testing.T) {
	t.Parallel()
	clustertest.Run(t, clustertest.Target{
		Start: func(tb testing.TB) clustertest.Server {
			tb.Helper()
			return startAgent(tb)
		},
	})
}

// hands are an operator's on a twin.
type hands struct{ *clustertest.Twin }

func (h hands) Connect(_ testing.TB, name string, checkTTL time.Duration) cluster.Authority {
	return h.Twin.Connect(name, checkTTL)
}

func (h hands) DeleteLock(_ testing.TB, name string, shard uint32) { h.Twin.DeleteLock(name, shard) }
func (h hands) EndSession(_ testing.TB, s cluster.Session)         { h.Twin.EndSession(s) }

func (h hands) Save(testing.TB) func(testing.TB) {
	saved := h.Snapshot()
	return func(testing.TB) { h.Restore(saved) }
}

// TestTwinIsAlike makes the same calls on Consul and on its twin, and finds no
// difference. QUERN_SEED repeats a run.
func TestTwinIsAlike(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	if text := os.Getenv("QUERN_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	const steps = 400
	t.Logf("QUERN_SEED=%d", seed)
	fromTwin := clustertest.History(t, hands{clustertest.New()}, seed, steps)
	fromConsul := clustertest.History(t, startAgent(t), seed, steps)
	for i := range fromTwin {
		if fromTwin[i] != fromConsul[i] {
			t.Fatalf("step %d, after\n  %s\nis on Consul\n  %s\nand on the twin\n  %s", i, fromConsul[max(i, 1)-1], fromConsul[i], fromTwin[i])
		}
	}
}
