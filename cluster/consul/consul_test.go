package consul_test

import (
	"bytes"
	"fmt"
	"io"
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
