package consul_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/consul"
)

// trip answers requests without a network.
type trip func(*http.Request) (*http.Response, error)

func (t trip) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// scripted is an authority whose requests are answered by f.
func scripted(t *testing.T, f trip) *consul.Authority {
	t.Helper()
	conf := api.DefaultConfig()
	conf.HttpClient = &http.Client{Transport: f}
	return connect(t, consul.Config{Cluster: "c", API: conf})
}

func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

// opsIn reads the operations of a transaction.
func opsIn(t *testing.T, r *http.Request) api.TxnOps {
	t.Helper()
	var ops api.TxnOps
	if err := json.NewDecoder(r.Body).Decode(&ops); err != nil {
		t.Error(err)
	}
	return ops
}

// granted answers a transaction as if all of it were done.
func granted(t *testing.T, r *http.Request) *http.Response {
	t.Helper()
	var response api.TxnResponse
	for _, op := range opsIn(t, r) {
		response.Results = append(response.Results, &api.TxnResult{KV: &api.KVPair{Key: op.KV.Key, ModifyIndex: 7}})
	}
	body, err := json.Marshal(response)
	if err != nil {
		t.Error(err)
	}
	return answer(http.StatusOK, string(body))
}

func upTo(n uint32) []uint32 {
	shards := make([]uint32, n)
	for i := range shards {
		shards[i] = uint32(i)
	}
	return shards
}

// TestProofOfNothing gives answers from which nothing follows for the locks
// that they do not name.
func TestProofOfNothing(t *testing.T) {
	t.Parallel()
	const session = `failed session check for key \"quern/c/shards/00001\", current session \"\" != \"s\"`
	tests := []struct {
		name   string
		status int
		body   string
		want   error
		others cluster.Verdict // of the shards that are not named
	}{
		{"a lock is another's", 409, `{"Errors":[{"OpIndex":1,"What":"` + session + `"}]}`, nil, cluster.Done},
		{"a right is missing", 409, `{"Errors":[{"OpIndex":1,"What":"Permission denied"}]}`, cluster.ErrDenied, cluster.Refused},
		{
			"a lock is another's and a right is missing", 409,
			`{"Errors":[{"OpIndex":1,"What":"` + session + `"},{"OpIndex":2,"What":"Permission denied"}]}`,
			cluster.ErrDenied, cluster.Refused,
		},
		{"words that nobody knows", 409, `{"Errors":[{"OpIndex":1,"What":"surprise"}]}`, cluster.ErrUnreachable, cluster.Unknown},
		{"an operation that was not asked for", 409, `{"Errors":[{"OpIndex":9,"What":"` + session + `"}]}`, cluster.ErrUnreachable, cluster.Unknown},
		{"no reason", 409, `{}`, cluster.ErrUnreachable, cluster.Unknown},
		{"no results", 200, `{}`, cluster.ErrUnreachable, cluster.Unknown},
		{"results of others", 200, `{"Results":[{"KV":{"Key":"a"}},{"KV":{"Key":"b"}},{"KV":{"Key":"c"}}]}`, cluster.ErrUnreachable, cluster.Unknown},
		{"no leader", 500, `No cluster leader`, cluster.ErrUnreachable, cluster.Unknown},
		{"another service", 200, `<html>`, cluster.ErrUnreachable, cluster.Unknown},
		{"a token that is gone", 403, `ACL not found`, cluster.ErrDenied, cluster.Refused},
		{"too many requests", 429, `Your IP is issuing too many concurrent connections`, cluster.ErrUnreachable, cluster.Unknown},
	}
	for _, test := range tests {
		authority := scripted(t, func(*http.Request) (*http.Response, error) { return answer(test.status, test.body), nil })
		results, err := authority.Prove(t.Context(), "s", upTo(3))
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		for i, r := range results {
			if i != 1 && r.Verdict != test.others {
				t.Errorf("%s: shard %d is %v, want %v", test.name, i, r.Verdict, test.others)
			}
			if i == 1 && r.Verdict == cluster.Done {
				t.Errorf("%s: the shard that is named is proven", test.name)
			}
		}
	}
}

// TestLostReplies: what was answered counts, what was not is unknown, and what
// was not sent never happens.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	requests := 0
	authority := scripted(t, func(r *http.Request) (*http.Response, error) {
		if requests++; requests == 2 {
			return nil, errors.New("connection reset by peer")
		}
		return granted(t, r), nil
	})
	var locks []cluster.LockWrite
	for _, shard := range upTo(80) {
		locks = append(locks, cluster.LockWrite{Shard: shard, Index: 5})
	}
	results, err := authority.Acquire(t.Context(), "s", locks)
	if !errors.Is(err, cluster.ErrUnreachable) || requests != 2 {
		t.Errorf("%v after %d requests", err, requests)
	}
	for i, r := range results {
		want := cluster.Result{Shard: uint32(i), Verdict: cluster.Done, Index: 7}
		switch {
		case i >= 64:
			want = cluster.Result{Shard: uint32(i), Verdict: cluster.Refused}
		case i >= 32:
			want = cluster.Result{Shard: uint32(i), Verdict: cluster.Unknown}
		}
		if r != want {
			t.Errorf("%+v, want %+v", r, want)
		}
	}
}

// TestProofInParts: one transaction of a proof does not fail the others.
func TestProofInParts(t *testing.T) {
	t.Parallel()
	authority := scripted(t, func(r *http.Request) (*http.Response, error) {
		if !r.URL.Query().Has("consistent") || r.URL.Query().Has("stale") {
			t.Errorf("a proof asks %s", r.URL)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(string(body), "shards/00064") {
			return nil, errors.New("connection reset by peer")
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		return granted(t, r), nil
	})
	results, err := authority.Prove(t.Context(), "s", upTo(130))
	if !errors.Is(err, cluster.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	for i, r := range results {
		want := cluster.Done
		if i >= 64 && i < 128 {
			want = cluster.Unknown
		}
		if r.Verdict != want {
			t.Errorf("shard %d is %v, want %v", i, r.Verdict, want)
		}
	}
}

// TestSilence: an address that never answers holds nobody up for longer than
// was said, with a deadline of the caller's and without.
func TestSilence(t *testing.T) {
	t.Parallel()
	var listen net.ListenConfig
	listener, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	a := connect(t, consul.Config{Cluster: "c", Address: listener.Addr().String(), Timeout: 100 * time.Millisecond})
	locks := []cluster.LockWrite{{Shard: 1, Index: 1}}
	calls := map[string]func(context.Context) error{
		"establish":  func(ctx context.Context) error { _, err := a.Establish(ctx, cluster.Record{}); return err },
		"table":      func(ctx context.Context) error { _, err := a.Table(ctx, cluster.Watch{}); return err },
		"watch":      func(ctx context.Context) error { _, err := a.Table(ctx, cluster.Watch{Index: 1, Wait: 1}); return err },
		"members":    func(ctx context.Context) error { _, err := a.Members(ctx, cluster.Watch{}); return err },
		"sessions":   func(ctx context.Context) error { _, err := a.Sessions(ctx); return err },
		"lead":       func(ctx context.Context) error { _, err := a.Lead(ctx, "s"); return err },
		"placement":  func(ctx context.Context) error { _, err := a.PutPlacement(ctx, "s", 1, nil); return err },
		"create":     func(ctx context.Context) error { _, err := a.Create(ctx, locks); return err },
		"acquire":    func(ctx context.Context) error { _, err := a.Acquire(ctx, "s", locks); return err },
		"release":    func(ctx context.Context) error { _, err := a.Release(ctx, "s", locks); return err },
		"prove":      func(ctx context.Context) error { _, err := a.Prove(ctx, "s", []uint32{1}); return err },
		"leave":      func(ctx context.Context) error { return a.Leave(ctx, "s") },
		"join":       func(ctx context.Context) error { _, err := a.Join(ctx, member("a"), time.Second); return err },
		"keep alive": func(ctx context.Context) error { return unlessLost(a.KeepAlive(ctx, "s")) },
	}
	for name, call := range calls {
		for _, bound := range []time.Duration{0, 50 * time.Millisecond} {
			ctx, cancel := t.Context(), func() {}
			if bound > 0 {
				ctx, cancel = context.WithTimeout(ctx, bound)
			}
			if err := call(ctx); !errors.Is(err, cluster.ErrUnreachable) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
	}
}

// unlessLost takes a node that never joined for one that reaches nobody.
func unlessLost(err error) error {
	if errors.Is(err, cluster.ErrSessionLost) {
		return cluster.ErrUnreachable
	}
	return err
}

func TestPlacementTooLarge(t *testing.T) {
	t.Parallel()
	authority := scripted(t, func(*http.Request) (*http.Response, error) {
		return answer(http.StatusRequestEntityTooLarge, "Request body(600000 bytes) too large, max size: 524288 bytes"), nil
	})
	if _, err := authority.PutPlacement(t.Context(), "s", 1, nil); !errors.Is(err, cluster.ErrDenied) {
		t.Errorf("%v", err)
	}
}

// TestTLS: certificates are the configuration's to say.
func TestTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"Errors":[{"OpIndex":0,"What":"failed session check for key"}]}`)
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // handshakes fail here
	server.StartTLS()
	defer server.Close()
	known := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for _, test := range []struct {
		ca   []byte
		want error
	}{{known, nil}, {nil, cluster.ErrUnreachable}} {
		a := connect(t, consul.Config{Cluster: "c", Address: server.URL, API: &api.Config{TLSConfig: api.TLSConfig{CAPem: test.ca}}})
		if _, err := a.Prove(t.Context(), "s", []uint32{1}); !errors.Is(err, test.want) {
			t.Errorf("%v, want %v", err, test.want)
		}
		a.Close()
	}
}

// TestFiltered: a list that lacks what may not be read is no list.
func TestFiltered(t *testing.T) {
	t.Parallel()
	authority := scripted(t, func(*http.Request) (*http.Response, error) {
		r := answer(http.StatusOK, "[]")
		r.Header.Set("X-Consul-Results-Filtered-By-ACLs", "true")
		r.Header.Set("X-Consul-Index", "9")
		r.Header.Set("X-Consul-LastContact", "0") // the library reads no further without it
		return r, nil
	})
	_, errTable := authority.Table(t.Context(), cluster.Watch{})
	_, errMembers := authority.Members(t.Context(), cluster.Watch{})
	_, errEstablish := authority.Establish(t.Context(), cluster.Record{})
	for _, err := range []error{errTable, errMembers, errEstablish} {
		if !errors.Is(err, cluster.ErrDenied) {
			t.Errorf("%v", err)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, name := range []string{"", "A", "-a", "a-", "a_b", "a/b", "ä", strings.Repeat("a", 41)} {
		if _, err := consul.New(consul.Config{Cluster: name}); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
	if _, err := consul.New(consul.Config{Cluster: "c", Timeout: -1}); err == nil {
		t.Error("a negative timeout is taken")
	}
	t.Setenv("CONSUL_HTTP_ADDR", "env:1")
	t.Setenv("CONSUL_HTTP_TOKEN", "secret")
	t.Setenv("CONSUL_HTTP_AUTH", "user:word")
	t.Setenv("CONSUL_NAMESPACE", "space")
	t.Setenv("CONSUL_PARTITION", "part")
	asked := 0
	look := trip(func(r *http.Request) (*http.Response, error) {
		asked++
		user, word, _ := r.BasicAuth()
		got := fmt.Sprint(r.URL.Host, " ", r.Header.Get("X-Consul-Token"), " ", user, ":", word, " ", r.URL.Query().Get("ns"), " ", r.URL.Query().Get("partition"))
		if got != "given:2 secret user:word space part" {
			t.Errorf("asked %s", got)
		}
		for _, op := range opsIn(t, r) {
			if op.KV.Namespace != "space" || op.KV.Partition != "part" {
				t.Errorf("operation %+v", op.KV)
			}
		}
		return answer(http.StatusOK, "{}"), nil
	})
	authority := connect(t, consul.Config{
		Cluster: "c", Address: "given:2", API: &api.Config{HttpClient: &http.Client{Transport: look}},
	})
	_, _ = authority.Prove(t.Context(), "s", []uint32{1}) // the question counts, not the answer
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
