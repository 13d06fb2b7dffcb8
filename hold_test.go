package quern_test

import (
	"bufio"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// holder is LockService of a node, over gRPC as any language speaks it.
func holder(t *testing.T, node *quern.Node) quernv1.LockServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(node.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return quernv1.NewLockServiceClient(conn)
}

// TestHold holds a lock for as long as the call lasts, renewed by the node.
func TestHold(t *testing.T) {
	t.Parallel()
	node, _ := lockNode(t, quern.Config{DataDir: t.TempDir()})
	locks := holder(t, node)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := locks.Hold(ctx, &quernv1.LockServiceHoldRequest{Key: "k", Owner: "me", Ttl: durationpb.New(300 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetToken() == 0 || first.GetOwner() != "me" || first.GetSequence() != 1 || first.GetEpoch() == 0 {
		t.Fatalf("%v, %v", first, err)
	}
	if header, err := stream.Header(); err != nil || len(header.Get("quern-node")) != 1 {
		t.Errorf("headers %v, %v", header, err)
	}
	// It outlasts its lease, and another one waits for the call's end.
	next, err := locks.Hold(t.Context(), &quernv1.LockServiceHoldRequest{Key: "k", Owner: "next", Ttl: durationpb.New(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	queued(t, node.Lock("k"), 1)
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if info, err := node.Lock("k").Get(t.Context()); err != nil || info.Holds != 1 || info.Holders[0].Owner != "me" {
			t.Fatalf("%+v, %v", info, err)
		}
	}
	busy, err := locks.Hold(t.Context(), &quernv1.LockServiceHoldRequest{Key: "k", Wait: durationpb.New(0)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := busy.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a hold that does not wait: %v", err)
	}
	cancel()
	second, err := next.Recv()
	if err != nil || second.GetToken() <= first.GetToken() {
		t.Fatalf("%v, %v", second, err)
	}
	if n, err := node.Lock("k").ForceRelease(t.Context(), "the test's wish"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := next.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("forced away: %v", err)
	}
}

// TestHoldWhenTheNodeStops: the call ends, and the lock is free afterwards.
func TestHoldWhenTheNodeStops(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	node, _ := lockNode(t, quern.Config{DataDir: dir})
	stream, err := holder(t, node).Hold(t.Context(), &quernv1.LockServiceHoldRequest{Key: "k", Ttl: durationpb.New(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := node.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	node, _ = lockNode(t, quern.Config{DataDir: dir})
	g, err := node.Lock("k").Grant(t.Context(), handles.LockOptions{Owner: "o", Wait: -1})
	if err != nil || !g.Held {
		t.Errorf("%+v, %v", g, err)
	}
}

// TestHoldOverHTTP is what curl does: a line when the lock is had; it is given
// back when curl ends.
func TestHoldOverHTTP(t *testing.T) {
	t.Parallel()
	node, _ := lockNode(t, quern.Config{Store: quern.StoreMemory})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+node.HTTPAddr()+"/quern.v1.LockService/Hold",
		strings.NewReader(`{"key":"k","owner":"me"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	line, err := bufio.NewReader(response.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, `"owner":"me"`) || !strings.Contains(line, `"ttl":"30s"`) {
		t.Errorf("%s, %v", line, err)
	}
	cancel()
	lease, err := node.Lock("k").Acquire(t.Context(), quern.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Error(err)
	}
}
