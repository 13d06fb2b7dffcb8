package consul_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/consul"
	"github.com/quern-io/quern/internal/consulproc"
	"github.com/quern-io/quern/internal/testservice"
)

func member(name string) cluster.Member {
	return cluster.Member{Name: name, Incarnation: cluster.NewIncarnation(), Addr: "127.0.0.1:7411", Protocol: 1}
}

// join makes a member whose check lasts for the test.
func join(t *testing.T, a *consul.Authority, name string) cluster.Session {
	t.Helper()
	session, err := a.Join(t.Context(), member(name), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return session
}

func lockWrites(n, index uint64) []cluster.LockWrite {
	var locks []cluster.LockWrite
	for shard := range n {
		locks = append(locks, cluster.LockWrite{Shard: uint32(shard), Index: index})
	}
	return locks
}

// TestRequests counts what calls ask of a real Consul. The twin counts in the
// same way, so that it can tell what whole nodes ask.
func TestRequests(t *testing.T) {
	t.Parallel()
	server := startAgent(t)
	var requests atomic.Int64
	pooled := &http.Transport{}
	t.Cleanup(pooled.CloseIdleConnections)
	conf := api.DefaultConfig()
	conf.HttpClient = &http.Client{Transport: trip(func(r *http.Request) (*http.Response, error) {
		requests.Add(1)
		return pooled.RoundTrip(r)
	})}
	a := connect(t, consul.Config{Cluster: "c", Address: server.addr, API: conf, CheckTTL: time.Minute})
	session := join(t, a, "a")
	asks := func(what string, want int64, call func() error) time.Duration {
		t.Helper()
		before, began := requests.Load(), time.Now()
		if err := call(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		took := time.Since(began)
		if got := requests.Load() - before; got != want {
			t.Errorf("%s asks %d times, want %d", what, got, want)
		}
		return took
	}
	create := asks("create 256", 4, func() error { _, err := a.Create(t.Context(), lockWrites(256, 0)); return err })
	table, err := a.Table(t.Context(), cluster.Watch{})
	if err != nil {
		t.Fatal(err)
	}
	locks := lockWrites(256, table.Locks[0].Index)
	for i := range locks {
		locks[i].Index = table.Locks[i].Index
	}
	acquire := asks("acquire 256", 8, func() error { _, err := a.Acquire(t.Context(), session, locks); return err })
	proof := asks("prove 86", 2, func() error { _, err := a.Prove(t.Context(), session, upTo(86)); return err })
	asks("prove 64", 1, func() error { _, err := a.Prove(t.Context(), session, upTo(64)); return err })
	asks("prove 256", 4, func() error { _, err := a.Prove(t.Context(), session, upTo(256)); return err })
	asks("keep alive", 1, func() error { return a.KeepAlive(t.Context(), session) })
	t.Logf("create 256: %v, acquire 256: %v, prove 86: %v", create, acquire, proof)
}

// TestSession looks at what a session was made with: the checks that end it,
// and what happens then.
func TestSession(t *testing.T) {
	t.Parallel()
	server := startAgent(t)
	a := connect(t, consul.Config{Cluster: "c", Address: server.addr})
	self := member("a b")
	session, err := a.Join(t.Context(), self, 1500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := server.api.Session().Info(string(session), nil)
	if err != nil || got == nil {
		t.Fatalf("%+v, %v", got, err)
	}
	id := "quern-c-a_b-" + self.Incarnation.String()
	if got.Name != id || got.TTL != "10s" || got.LockDelay != 1500*time.Millisecond || got.Behavior != api.SessionBehaviorRelease {
		t.Errorf("the session is %+v", got)
	}
	if !slices.Equal(got.NodeChecks, []string{"serfHealth"}) ||
		!slices.Equal(got.ServiceChecks, []api.ServiceCheck{{ID: "check-" + id}}) {
		t.Errorf("its checks are %v and %v", got.NodeChecks, got.ServiceChecks)
	}
	service := services(t, server)[id]
	if service == nil || service.Service != "quern-c" || service.Address != "127.0.0.1" || service.Port != 7411 {
		t.Errorf("the member is %+v", service)
	}
}

// TestOutage kills the only server and starts it again. A member whose check
// outlives that still has its locks; one whose check does not has lost them all
// at once, and they are left alone for a while from then on.
func TestOutage(t *testing.T) {
	t.Parallel()
	p := testservice.Consul(t, consulproc.Options{Dir: t.TempDir()})
	const shortTTL = 3 * time.Second
	connectWith := func(checkTTL time.Duration) *consul.Authority {
		return connect(t, consul.Config{Cluster: "c", Address: p.Addr(), CheckTTL: checkTTL})
	}
	long, short := connectWith(5*time.Minute), connectWith(shortTTL)
	longSession, shortSession := join(t, long, "long"), join(t, short, "short")
	if _, err := long.Create(t.Context(), lockWrites(2, 0)); err != nil {
		t.Fatal(err)
	}
	table, err := long.Table(t.Context(), cluster.Watch{})
	if err != nil {
		t.Fatal(err)
	}
	locks := lockWrites(2, table.Locks[0].Index)
	own, err := long.Acquire(t.Context(), longSession, locks[:1])
	if err != nil || own[0].Verdict != cluster.Done {
		t.Fatalf("%v, %v", own, err)
	}
	other, err := short.Acquire(t.Context(), shortSession, locks[1:])
	if err != nil || other[0].Verdict != cluster.Done {
		t.Fatalf("%v, %v", other, err)
	}

	// The agent keeps what a check was told, but not what it was registered with.
	if err := long.KeepAlive(t.Context(), longSession); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	down := time.Now()
	for time.Since(down) < shortTTL {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if results, err := long.Prove(ctx, longSession, []uint32{0}); !errors.Is(err, cluster.ErrUnreachable) || results[0].Verdict != cluster.Unknown {
			t.Fatalf("while it is down: %v, %v", results, err)
		}
		<-ctx.Done()
		cancel()
	}
	again, err := p.Again(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Kill)

	freed := table
	for index := uint64(0); ; index = freed.Index {
		if freed, err = long.Table(t.Context(), cluster.Watch{Index: index, Wait: time.Minute}); err != nil {
			t.Fatal(err)
		}
		if lock, _ := freed.Lock(1); lock.Holder == "" {
			break
		}
	}
	results, err := long.Prove(t.Context(), longSession, upTo(2))
	if err != nil || results[0].Verdict != cluster.Done || results[1].Verdict != cluster.Gone {
		t.Errorf("after the restart: %v, %v", results, err)
	}
	lock, _ := freed.Lock(1)
	results, err = long.Acquire(t.Context(), longSession, []cluster.LockWrite{{Shard: 1, Index: lock.Index}})
	if err != nil || results[0].Verdict != cluster.Delayed {
		t.Errorf("right after the restart: %v, %v", results, err)
	}
	if err := long.KeepAlive(t.Context(), longSession); err != nil {
		t.Errorf("keep alive: %v", err)
	}
}

// TestHandsInTheData: values that are not Quern's, and services and checks that
// somebody else has registered.
func TestHandsInTheData(t *testing.T) {
	t.Parallel()
	server := startAgent(t)
	a := connect(t, consul.Config{Cluster: "c", Address: server.addr, CheckTTL: time.Minute})
	session := join(t, a, "a")
	if _, err := a.Create(t.Context(), lockWrites(2, 0)); err != nil {
		t.Fatal(err)
	}
	put := func(key, value string) {
		t.Helper()
		if _, err := server.api.KV().Put(&api.KVPair{Key: key, Value: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	put("quern/c/shards/00001", "mine!")
	put("quern/c/shards/x", "{}")
	put("quern/c2/shards/00002", "{}")
	table, err := a.Table(t.Context(), cluster.Watch{})
	if err != nil || len(table.Locks) != 2 || table.Locks[0].Damaged || !table.Locks[1].Damaged || table.Record != nil {
		t.Fatalf("%+v, %v", table, err)
	}
	results, err := a.Acquire(t.Context(), session, []cluster.LockWrite{{Shard: 1, Index: table.Locks[1].Index}})
	if err != nil || results[0].Verdict != cluster.Done {
		t.Errorf("a damaged lock cannot be taken: %v, %v", results, err)
	}
	put("quern/c/record", `{"format":1}`)
	_, errTable := a.Table(t.Context(), cluster.Watch{})
	_, errEstablish := a.Establish(t.Context(), cluster.Record{})
	for _, err := range []error{errTable, errEstablish} {
		if !errors.Is(err, cluster.ErrRecord) || !strings.Contains(err.Error(), "quern/c/record") {
			t.Errorf("%v", err)
		}
	}

	// A check of the whole machine is no reason to give a member up.
	if err := server.api.Agent().CheckRegister(&api.AgentCheckRegistration{
		Name: "disk", AgentServiceCheck: api.AgentServiceCheck{TTL: "1h", Status: api.HealthCritical},
	}); err != nil {
		t.Fatal(err)
	}
	if err := server.api.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: "stranger", Name: "quern-c"}); err != nil {
		t.Fatal(err)
	}
	index := uint64(0)
	for range 100 {
		entries, meta, err := server.api.Health().Service("quern-c", "", false, &api.QueryOptions{WaitIndex: index})
		if err != nil {
			t.Fatal(err)
		}
		index = meta.LastIndex
		checks := 0
		for _, e := range entries {
			checks += len(e.Checks)
		}
		if len(entries) == 2 && checks == 5 { // twice serfHealth and disk, and the member's
			break
		}
	}
	members, err := a.Members(t.Context(), cluster.Watch{})
	if err != nil || len(members.List) != 1 || !members.List[0].Passing {
		t.Errorf("members are %+v, %v", members, err)
	}

	// An agent that has forgotten the member, as one that lost its data does.
	for id := range services(t, server) {
		if err := server.api.Agent().ServiceDeregister(id); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.KeepAlive(t.Context(), session); !errors.Is(err, cluster.ErrSessionLost) {
		t.Errorf("keep alive: %v", err)
	}
	join(t, a, "a")
}

func services(t *testing.T, server agent) map[string]*api.AgentService {
	t.Helper()
	all, err := server.api.Agent().Services()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestRights runs against a Consul that forbids what is not allowed: missing
// rights are named, and those that docs/operations.md lists suffice.
func TestRights(t *testing.T) {
	t.Parallel()
	p := testservice.Consul(t, consulproc.Options{Config: `acl { enabled = true default_policy = "deny" }`})
	conf := api.DefaultConfig()
	conf.Address = p.Addr()
	t.Cleanup(conf.Transport.CloseIdleConnections)
	client, err := api.NewClient(conf)
	if err != nil {
		t.Fatal(err)
	}
	management, _, err := client.ACL().Bootstrap()
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	with := func(rules ...string) *consul.Authority {
		t.Helper()
		names++
		manage := &api.WriteOptions{Token: management.SecretID}
		name := "test-" + string(rune('a'+names))
		policy, _, err := client.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: strings.Join(rules, "\n")}, manage)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{Name: policy.Name}}}, manage)
		if err != nil {
			t.Fatal(err)
		}
		return connect(t, consul.Config{
			Cluster: "c", CheckTTL: time.Minute,
			API: &api.Config{Address: p.Addr(), Token: token.SecretID, Transport: conf.Transport},
		})
	}
	const (
		keys     = `key_prefix "quern/" { policy = "write" }`
		service  = `service_prefix "quern-" { policy = "write" }`
		node     = `node_prefix "" { policy = "read" }`
		sessions = `session_prefix "" { policy = "write" }`
	)
	denied := func(what string, err error, names string) {
		t.Helper()
		if !errors.Is(err, cluster.ErrDenied) || !strings.Contains(err.Error(), names) {
			t.Errorf("%s: %v", what, err)
		}
	}

	stranger := with(`agent_prefix "" { policy = "read" }`)
	_, err = stranger.Table(t.Context(), cluster.Watch{})
	denied("table", err, "key_prefix")
	_, err = stranger.Establish(t.Context(), cluster.Record{})
	denied("establish", err, "key_prefix")
	_, err = stranger.Join(t.Context(), member("a"), time.Second)
	denied("join", err, "service_prefix")
	results, err := stranger.Create(t.Context(), lockWrites(1, 0))
	denied("create", err, "key_prefix")
	if results[0].Verdict != cluster.Refused {
		t.Errorf("create: %v", results)
	}
	_, err = with(keys, service, node).Join(t.Context(), member("a"), time.Second)
	denied("join without sessions", err, "session_prefix")

	full := with(keys, service, node, sessions)
	session := join(t, full, "full")
	if _, err := full.Establish(t.Context(), cluster.Record{}); err != nil {
		t.Fatal(err)
	}
	if _, err := full.Create(t.Context(), lockWrites(3, 0)); err != nil {
		t.Fatal(err)
	}
	table, err := full.Table(t.Context(), cluster.Watch{})
	if err != nil {
		t.Fatal(err)
	}
	results, err = full.Acquire(t.Context(), session, lockWrites(3, table.Locks[0].Index))
	if err != nil || results[0].Verdict != cluster.Done {
		t.Fatalf("acquire: %v, %v", results, err)
	}
	if err := full.KeepAlive(t.Context(), session); err != nil {
		t.Error(err)
	}
	members, err := full.Members(t.Context(), cluster.Watch{})
	if err != nil || !slices.ContainsFunc(members.List, func(m cluster.Member) bool { return m.Name == "full" }) {
		t.Errorf("members: %+v, %v", members, err)
	}
	if alive, err := full.Sessions(t.Context()); len(alive) != 1 || err != nil {
		t.Errorf("sessions: %v, %v", alive, err)
	}
	if leads, err := full.Lead(t.Context(), session); !leads || err != nil {
		t.Errorf("lead: %v, %v", leads, err)
	}
	if _, err := full.PutPlacement(t.Context(), session, 0, []byte("p")); err != nil {
		t.Error(err)
	}

	// One lock that may not be read fails the proof of all: nothing was looked at.
	part := with(keys, `key "quern/c/shards/00001" { policy = "deny" }`)
	results, err = part.Prove(t.Context(), session, upTo(3))
	denied("prove", err, "key_prefix")
	for _, r := range results {
		if r.Verdict != cluster.Refused {
			t.Errorf("prove: shard %d is %v", r.Shard, r.Verdict)
		}
	}
	if err := full.Leave(t.Context(), session); err != nil {
		t.Error(err)
	}
}
