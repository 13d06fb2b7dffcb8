package quern_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// allWays is a node and the ways that lead to it.
func allWays(t *testing.T) (*quern.Node, map[string]handles.Batcher) {
	t.Helper()
	node, err := quern.Open(t.Context(), quern.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close(context.Background()) })
	ways := map[string]handles.Batcher{"node": node}
	for name, o := range map[string]client.Options{"stream": {}, "unary": {Unary: true}} {
		c, err := client.DialWith(t.Context(), node.GRPCAddr(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		ways[name] = c
	}
	return node, ways
}

// postJSON returns the status, the reason and the text of a call over HTTP.
func postJSON(t *testing.T, node *quern.Node, procedure, body string) (status int, reason, text string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+node.HTTPAddr()+procedure, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header.Get("quern-reason"), string(b)
}

// TestGuardsOnEveryWay: a token that came one way counts on all of them, for
// each method that writes. The lock is of another shard than the keys.
func TestGuardsOnEveryWay(t *testing.T) {
	t.Parallel()
	node, ways := allWays(t)
	const lock = "lock:of:another"
	if keyspace.Shard(lock, node.Shards()) == keyspace.Shard("k", node.Shards()) {
		t.Fatal("the lock is of the key's shard")
	}
	token := uint64(0)
	for name, to := range ways {
		for _, method := range []struct {
			name  string
			write func(handles.Guard) error
		}{
			{"add", func(g handles.Guard) error {
				_, err := handles.NewCounter(to, "k").Guarded(g).Add(t.Context(), 1)
				return err
			}},
			{"bounded add", func(g handles.Guard) error {
				_, err := handles.NewCounter(to, "k").Guarded(g).AddBounded(t.Context(), 1, handles.AddOptions{})
				return err
			}},
			{"set", func(g handles.Guard) error {
				_, err := handles.NewCounter(to, "k").Guarded(g).Set(t.Context(), 1)
				return err
			}},
			{"get and set", func(g handles.Guard) error {
				_, err := handles.NewCounter(to, "k").Guarded(g).GetAndSet(t.Context(), 1)
				return err
			}},
			{"compare and set", func(g handles.Guard) error {
				_, _, err := handles.NewCounter(to, "k").Guarded(g).CompareAndSet(t.Context(), 7, 1)
				return err
			}},
			{"reset", func(g handles.Guard) error {
				_, err := handles.NewCounter(to, "k").Guarded(g).Reset(t.Context())
				return err
			}},
			{"expire", func(g handles.Guard) error {
				_, err := handles.NewCounter(to, "k").Guarded(g).Expire(t.Context(), 0)
				return err
			}},
			{"put", func(g handles.Guard) error {
				_, err := handles.NewMapEntry(to, "k").Guarded(g).Put(t.Context(), []byte("v"), handles.PutOptions{})
				return err
			}},
			{"delete", func(g handles.Guard) error {
				_, err := handles.NewMapEntry(to, "k").Guarded(g).Delete(t.Context())
				return err
			}},
			{"compare and swap", func(g handles.Guard) error {
				_, _, err := handles.NewMapEntry(to, "k").Guarded(g).CompareAndSwap(t.Context(), 7, nil)
				return err
			}},
			{"once", func(g handles.Guard) error {
				_, err := handles.NewCounter(to, "k").Once(name+strconv.FormatUint(g.Token, 10)).Guarded(g).Add(t.Context(), 1)
				return err
			}},
			{"bulk", func(g handles.Guard) error { return bulkUnder(t, to, g, "") }},
			{"bulk once", func(g handles.Guard) error { return bulkUnder(t, to, g, name+strconv.FormatUint(g.Token, 10)) }},
		} {
			token += 2
			if err := method.write(handles.Guard{Lock: lock, Token: token}); err != nil {
				t.Errorf("%s, %s: %v", name, method.name, err)
			}
			if err := method.write(handles.Guard{Lock: lock, Token: token - 1}); !errors.Is(err, failure.FencedToken) || failure.OutcomeOf(err) != failure.NotDone {
				t.Errorf("%s, %s, lower: %v", name, method.name, err)
			}
			if err := method.write(handles.Guard{}); !errors.Is(err, failure.InvalidField) {
				t.Errorf("%s, %s, empty: %v", name, method.name, err)
			}
		}
	}
	for _, body := range []string{`{"key":"k","guard":{"lock":"lock:of:another","token":"1"}}`, `{"key":"new","guard":{"lock":"l"}}`} {
		status, reason, text := postJSON(t, node, "/quern.v1.CounterService/Add", body)
		if status != http.StatusBadRequest || reason != "FENCED_TOKEN" && reason != "INVALID_FIELD" {
			t.Errorf("%d %s %s", status, reason, text)
		}
	}
	if status, _, text := postJSON(t, node, "/quern.v1.CounterService/Add", `{"key":"k","guard":{"lock":"lock:of:another","token":"1000"}}`); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
}

func bulkUnder(t *testing.T, to handles.Invoker, g handles.Guard, once string) error {
	t.Helper()
	var reply quernv1.CounterServiceAddManyResponse
	err := to.Invoke(t.Context(), &handles.Operation{
		Method: handles.CounterAddMany, IdempotencyKey: once, Reply: &reply,
		Request: &quernv1.CounterServiceAddManyRequest{
			Keys: []string{"k", "j"}, IdempotencyKey: once, Guard: &quernv1.Guard{Lock: g.Lock, Token: g.Token},
		},
	})
	if err != nil || len(reply.GetFailures()) == 0 {
		return err
	}
	if len(reply.GetFailures()) != 2 {
		t.Errorf("%v", &reply)
	}
	reason, _ := failure.ParseReason(reply.GetFailures()[0].GetReason())
	return failure.New(reason, "%s", reply.GetFailures()[0].GetMessage())
}
