package quern_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// lockNode is a node with clients on every way in.
func lockNode(t *testing.T, cfg quern.Config) (*quern.Node, map[string]func(key string) quern.Lock) {
	t.Helper()
	cfg.Listen, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0"
	node, err := quern.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close(context.Background()) })
	ways := map[string]func(string) quern.Lock{"node": node.Lock}
	for name, o := range map[string]client.Options{"stream": {}, "unary": {Unary: true}} {
		ways[name] = lockClient(t, node, o).Lock
	}
	return node, ways
}

func lockClient(t *testing.T, node *quern.Node, o client.Options) *client.Client {
	t.Helper()
	c, err := client.DialWith(t.Context(), node.GRPCAddr(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// queued waits until so many wait for a lock.
func queued(t *testing.T, l quern.Lock, n int) {
	t.Helper()
	for {
		info, err := l.Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if info.Waiters == n {
			return
		}
	}
}

// TestLockOnEveryWay lets each way in wait for each other one.
func TestLockOnEveryWay(t *testing.T) {
	t.Parallel()
	node, ways := lockNode(t, quern.Config{DataDir: t.TempDir()})
	last := uint64(0)
	for holder, hold := range ways {
		for waiter, wait := range ways {
			lease, err := hold("k").Acquire(t.Context(), quern.LockOptions{TTL: time.Minute})
			if err != nil || lease.Token() <= last {
				t.Fatalf("%s: %v after %d", holder, err, last)
			}
			last = lease.Token()
			if _, err := wait("k").Try(t.Context(), quern.LockOptions{}); !errors.Is(err, failure.ConditionFailed) {
				t.Errorf("%s tries while %s holds: %v", waiter, holder, err)
			}
			var next *quern.Lease
			got := make(chan error, 1)
			go func() {
				var err error
				next, err = wait("k").Acquire(t.Context(), quern.LockOptions{TTL: time.Minute})
				got <- err
			}()
			queued(t, node.Lock("k"), 1)
			if err := lease.Release(t.Context()); err != nil {
				t.Errorf("%s releases: %v", holder, err)
			}
			if err := <-got; err != nil || next.Token() <= last {
				t.Fatalf("%s after %s: %v", waiter, holder, err)
			}
			last = next.Token()
			if err := hold("k").Release(t.Context(), lease.Token()); !errors.Is(err, failure.NotHolder) {
				t.Errorf("%s releases twice: %v", holder, err)
			}
			if err := next.Release(t.Context()); err != nil {
				t.Errorf("%s releases: %v", waiter, err)
			}
		}
	}
}

// TestGivenUpWaitLeavesTheQueue on every way in, at once: by the end of its
// context and by the end of its connection.
func TestGivenUpWaitLeavesTheQueue(t *testing.T) {
	t.Parallel()
	node, ways := lockNode(t, quern.Config{Store: quern.StoreMemory})
	token, err := node.Lock("k").Grant(t.Context(), quern.LockOptions{Owner: "holder", TTL: time.Hour})
	if err != nil || !token.Held {
		t.Fatal(err)
	}
	for name, way := range ways {
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error, 1)
		go func() {
			_, err := way("k").Grant(ctx, quern.LockOptions{Owner: name, TTL: time.Hour})
			got <- err
		}()
		queued(t, node.Lock("k"), 1)
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		queued(t, node.Lock("k"), 0)
	}
	for name, o := range map[string]client.Options{"stream": {}, "unary": {Unary: true}} {
		c := lockClient(t, node, o)
		got := make(chan error, 1)
		go func() {
			_, err := c.Lock("k").Grant(context.Background(), quern.LockOptions{Owner: name, TTL: time.Hour})
			got <- err
		}()
		queued(t, node.Lock("k"), 1)
		if err := c.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-got; err == nil {
			t.Errorf("%s: had the lock", name)
		}
		queued(t, node.Lock("k"), 0)
	}
}

// TestWaitersLeaveTheWindowAlone: more of them than a stream's window wait, and
// the holder, on the same stream, can still renew and release.
func TestWaitersLeaveTheWindowAlone(t *testing.T) {
	t.Parallel()
	const n = 6000
	const locks = 12 // a client may have 1,024 waiting at each shard
	node, _ := lockNode(t, quern.Config{Store: quern.StoreMemory})
	c := lockClient(t, node, client.Options{})
	var leases []*quern.Lease
	for i := range locks {
		lease, err := c.Lock(strconv.Itoa(i)).Acquire(t.Context(), quern.LockOptions{TTL: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, lease)
	}
	var all sync.WaitGroup
	var order atomic.Int64
	var had [locks]atomic.Int64
	for i := range n {
		all.Go(func() {
			lease, err := c.Lock(strconv.Itoa(i%locks)).Acquire(t.Context(), quern.LockOptions{TTL: time.Minute})
			if err != nil {
				t.Error(err)
				return
			}
			if had[i%locks].Add(1) != 1 {
				t.Error("two hold the lock")
			}
			order.Add(1)
			had[i%locks].Add(-1)
			if err := lease.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	for i, lease := range leases {
		key := strconv.Itoa(i)
		queued(t, node.Lock(key), n/locks)
		if err := c.Lock(key).Renew(t.Context(), lease.Token(), time.Minute); err != nil {
			t.Error(err)
		}
		if _, err := c.Counter(key).Add(t.Context(), 1); err != nil {
			t.Error(err)
		}
	}
	for _, lease := range leases {
		if err := lease.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	all.Wait()
	if order.Load() != n {
		t.Errorf("%d of %d had the lock", order.Load(), n)
	}
}

// TestWaitersWhenTheNodeStops are told, and a stop does not wait for them.
func TestWaitersWhenTheNodeStops(t *testing.T) {
	t.Parallel()
	node, ways := lockNode(t, quern.Config{DataDir: t.TempDir()})
	if _, err := node.Lock("k").Grant(t.Context(), quern.LockOptions{Owner: "holder", TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	got := make(chan error, len(ways))
	for name, way := range ways {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_, err := way("k").Grant(ctx, quern.LockOptions{Owner: name, TTL: time.Hour})
			got <- err
		}()
	}
	queued(t, node.Lock("k"), len(ways))
	began := time.Now()
	if err := node.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	for range ways {
		if err := <-got; err == nil {
			t.Error("one had the lock")
		}
	}
}

// TestLockOverHTTP waits longer than a request may take to arrive.
func TestLockOverHTTP(t *testing.T) {
	t.Parallel()
	node, _ := lockNode(t, quern.Config{Store: quern.StoreMemory})
	token, err := node.Lock("k").Grant(t.Context(), quern.LockOptions{Owner: "holder", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		got <- post(t, node, "LockService/Acquire", `{"key":"k","owner":"me","ttl":"60s","wait":"60s"}`)
	}()
	queued(t, node.Lock("k"), 1)
	if err := node.Lock("k").Release(t.Context(), token.Token); err != nil {
		t.Fatal(err)
	}
	want := `{"held":true,"token":"` + strconv.FormatUint(token.Token+1, 10) + `","owner":"me","ttl":"60s","waiters":0,"position":0}`
	if text := <-got; text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if text := post(t, node, "LockService/Release", `{"key":"k","token":"7"}`); !strings.Contains(text, "NOT_HOLDER") {
		t.Error(text)
	}
}

func post(t *testing.T, node *quern.Node, method, body string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+node.HTTPAddr()+"/quern.v1."+method, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return ""
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// TestLockSurvivesARestart: owner, token and queue order, and a lease that is
// not shorter.
func TestLockSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node, _ := lockNode(t, quern.Config{DataDir: dir})
	held, err := node.Lock("k").Grant(t.Context(), quern.LockOptions{Owner: "holder", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		go func() {
			_, _ = node.Lock("k").Grant(context.Background(), handles.LockOptions{Owner: strconv.Itoa(i), TTL: time.Hour})
		}()
		queued(t, node.Lock("k"), i+1)
	}
	if err := node.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	node, _ = lockNode(t, quern.Config{DataDir: dir})
	info, err := node.Lock("k").Get(t.Context())
	if err != nil || info.Holds != 1 || len(info.Queue) != 3 {
		t.Fatalf("%+v, %v", info, err)
	}
	h := info.Holders[0]
	if h.Owner != "holder" || h.Token != held.Token || h.TTL < 59*time.Minute {
		t.Errorf("%+v", h)
	}
	for i, owner := range info.Queue {
		if owner != strconv.Itoa(i) {
			t.Errorf("queue %q", info.Queue)
		}
	}
	if err := node.Lock("k").Release(t.Context(), held.Token); err != nil {
		t.Fatal(err)
	}
	again, err := node.Lock("k").Grant(t.Context(), quern.LockOptions{Owner: "0", TTL: time.Hour})
	if err != nil || !again.Held || again.Token <= held.Token {
		t.Errorf("%+v, %v", again, err)
	}
}

// TestLockRefusals names what is wrong, by the table of reasons, and changes
// nothing.
func TestLockRefusals(t *testing.T) {
	t.Parallel()
	node, _ := lockNode(t, quern.Config{Store: quern.StoreMemory})
	held, err := node.Lock("k").Grant(t.Context(), quern.LockOptions{Owner: "me", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := node.Lock("gone").Grant(t.Context(), quern.LockOptions{Owner: "me", TTL: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for {
		if info, err := node.Lock("gone").Get(t.Context()); err != nil || info.Holds == 0 {
			break
		}
	}
	token := func(n uint64) string { return `"token":"` + strconv.FormatUint(n, 10) + `"` }
	for name, row := range map[string]struct{ method, body, reason string }{
		"a lease of zero":          {"Acquire", `{"key":"x","owner":"o","ttl":"0s"}`, "INVALID_FIELD"},
		"no lease":                 {"Acquire", `{"key":"x","owner":"o"}`, "INVALID_FIELD"},
		"a lease of a year":        {"Acquire", `{"key":"x","owner":"o","ttl":"31536000s"}`, "INVALID_FIELD"},
		"a negative wait":          {"Acquire", `{"key":"x","owner":"o","ttl":"1s","wait":"-1s"}`, "INVALID_FIELD"},
		"no owner":                 {"Acquire", `{"key":"x","ttl":"1s"}`, "INVALID_FIELD"},
		"no key":                   {"Acquire", `{"owner":"o","ttl":"1s"}`, "INVALID_KEY"},
		"other permits":            {"Acquire", `{"key":"k","owner":"o","ttl":"1s","permits":2}`, "INVALID_FIELD"},
		"shared by its holder":     {"Acquire", `{"key":"k","owner":"me","ttl":"1s","shared":true}`, "INVALID_FIELD"},
		"a field that is not":      {"Acquire", `{"key":"k","owner":"me","ttl":"1s","idempotency":"x"}`, "unknown field"},
		"a wrong token":            {"Release", `{"key":"k",` + token(held.Token+1) + `}`, "NOT_HOLDER"},
		"a token of another lock":  {"Release", `{"key":"x",` + token(held.Token) + `}`, "NOT_HOLDER"},
		"another's token":          {"Release", `{"key":"k","owner":"o",` + token(held.Token) + `}`, "NOT_HOLDER"},
		"neither token nor owner":  {"Release", `{"key":"k"}`, "INVALID_FIELD"},
		"a lease that was lost":    {"Renew", `{"key":"gone","ttl":"1s",` + token(gone.Token) + `}`, "NOT_HOLDER"},
		"a renewal by zero":        {"Renew", `{"key":"k","ttl":"0s",` + token(held.Token) + `}`, "INVALID_FIELD"},
		"released without a cause": {"ForceRelease", `{"key":"k"}`, "INVALID_FIELD"},
	} {
		if text := post(t, node, "LockService/"+row.method, row.body); !strings.Contains(text, row.reason) {
			t.Errorf("%s: %s", name, text)
		}
	}
	info, err := node.Lock("k").Get(t.Context())
	if err != nil || info.Holds != 1 || info.Waiters != 0 || info.Holders[0].Token != held.Token || info.Holders[0].TTL < 59*time.Minute {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestLongWaitHoldsUpNobody: more acquires than a session's window end while one
// waits, which keeps its place.
func TestLongWaitHoldsUpNobody(t *testing.T) {
	t.Parallel()
	node, _ := lockNode(t, quern.Config{Store: quern.StoreMemory})
	c := lockClient(t, node, client.Options{})
	held, err := node.Lock("{t}k").Grant(t.Context(), quern.LockOptions{Owner: "holder", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan handles.LockGrant, 1)
	go func() {
		g, err := c.Lock("{t}k").Grant(t.Context(), quern.LockOptions{Owner: "patient", TTL: time.Hour})
		if err != nil {
			t.Error(err)
		}
		waits <- g
	}()
	queued(t, node.Lock("{t}k"), 1)
	for i := range 2500 {
		o := quern.LockOptions{Owner: "o", Wait: time.Minute}
		if i%5 == 0 {
			o.Wait = -1
		}
		g, err := c.Lock("{t}free").Grant(t.Context(), o)
		if err != nil || !g.Held {
			t.Fatalf("acquire %d of a free lock: %+v, %v", i, g, err)
		}
		if err := c.Lock("{t}free").Release(t.Context(), g.Token); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := node.Lock("{t}k").Get(t.Context()); err != nil || len(info.Queue) != 1 || info.Queue[0] != "patient" {
		t.Errorf("%+v, %v", info, err)
	}
	if err := node.Lock("{t}k").Release(t.Context(), held.Token); err != nil {
		t.Fatal(err)
	}
	if g := <-waits; !g.Held || g.Owner != "patient" {
		t.Errorf("%+v", g)
	}
}

// TestWaitsUnderOneID end their stream: but for the last, they could not be given
// up with it.
func TestWaitsUnderOneID(t *testing.T) {
	t.Parallel()
	node, _ := lockNode(t, quern.Config{Store: quern.StoreMemory})
	if _, err := node.Lock("k").Grant(t.Context(), quern.LockOptions{Owner: "holder", TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(node.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := quernv1.NewGrainServiceClient(conn).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	frame := &quernv1.GrainServiceStreamRequest{Methods: []*quernv1.StreamMethod{{Ref: 1, Procedure: handles.LockAcquire.Procedure}}}
	for _, owner := range []string{"a", "b", "c"} {
		request, err := proto.Marshal(&quernv1.LockServiceAcquireRequest{
			Key: "k", Owner: owner, Ttl: durationpb.New(time.Minute), Wait: durationpb.New(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		frame.Operations = append(frame.Operations, &quernv1.StreamOperation{Id: 7, Method: 1, Request: request})
	}
	if err := stream.Send(frame); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
	queued(t, node.Lock("k"), 0)
}
