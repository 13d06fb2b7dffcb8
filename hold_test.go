package quern_test

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
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

// TestHold holds a lock for as long as the call lasts, renewed by the node. That
// is promised while the machine runs: where it stands still for most of a lease
// the call ends and says so, and the test begins anew.
func TestHold(t *testing.T) {
	t.Parallel()
	node, _ := lockNode(t, quern.Config{DataDir: t.TempDir()})
	for i := range 20 {
		h := &holding{T: t, locks: holder(t, node), lock: node.Lock("k" + strconv.Itoa(i))}
		if h.run() {
			return
		}
		t.Log("a lease was not renewed in time")
	}
	t.Error("no lease was renewed in time, again and again")
}

// holding is one run of TestHold.
type holding struct {
	*testing.T

	locks quernv1.LockServiceClient
	lock  quern.Lock
}

type holdStream = grpc.ServerStreamingClient[quernv1.LockServiceHoldResponse]

func (h *holding) hold(ctx context.Context, owner string, wait *durationpb.Duration) holdStream {
	h.Helper()
	stream, err := h.locks.Hold(ctx, &quernv1.LockServiceHoldRequest{
		Key: h.lock.Key(), Owner: owner, Ttl: durationpb.New(300 * time.Millisecond), Wait: wait,
	})
	if err != nil {
		h.Fatal(err)
	}
	return stream
}

// run returns false where a lease was not renewed in time.
func (h *holding) run() bool {
	ctx, end := context.WithCancel(h.Context())
	defer end()
	mine, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := h.hold(mine, "me", nil)
	first, err := stream.Recv()
	if err != nil || first.GetToken() == 0 || first.GetOwner() != "me" || first.GetSequence() != 1 || first.GetEpoch() == 0 {
		h.Fatalf("%v, %v", first, err)
	}
	if header, err := stream.Header(); err != nil || len(header.Get("quern-node")) != 1 {
		h.Errorf("headers %v, %v", header, err)
	}
	// It outlasts its lease, and another one waits for the call's end.
	next := h.hold(ctx, "next", nil)
	if !h.outlasts() {
		return h.late(stream)
	}
	if _, err := h.hold(ctx, "", durationpb.New(0)).Recv(); status.Code(err) != codes.FailedPrecondition {
		h.Logf("a hold that does not wait: %v", err)
		return h.late(stream)
	}
	cancel()
	second, err := next.Recv()
	if status.Code(err) == codes.Unknown {
		return false // it was late, too
	}
	if err != nil || second.GetToken() <= first.GetToken() {
		h.Fatalf("%v, %v", second, err)
	}
	n, err := h.lock.ForceRelease(h.Context(), "the test's wish")
	if err != nil {
		h.Fatal(err)
	}
	if _, err := next.Recv(); n != 1 || status.Code(err) != codes.FailedPrecondition {
		h.Logf("%d holds were forced away: %v", n, err)
		return h.late(next)
	}
	return true
}

// outlasts waits until the holder has been renewed for longer than its lease, and
// somebody waits for it. It returns false where the lock is another's before.
func (h *holding) outlasts() bool {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	renewed, left := 0, time.Duration(0)
	for {
		info, err := h.lock.Get(h.Context())
		if err != nil {
			h.Fatal(err)
		}
		if info.Holds != 1 || info.Holders[0].Owner != "me" {
			return false
		}
		if info.Holders[0].TTL > left {
			renewed++ // the first time it was granted
		}
		left = info.Holders[0].TTL
		if renewed > 4 && info.Waiters == 1 { // each a third of the lease after the one before, less a tenth of that
			return true
		}
		<-look.C
	}
}

// late returns false: a hold has ended since it was not renewed in time, which
// must be what its call has ended with.
func (h *holding) late(stream holdStream) bool {
	h.Helper()
	for {
		if _, err := stream.Recv(); err != nil {
			if status.Code(err) != codes.Unknown {
				h.Fatalf("ended with %v", err)
			}
			return false
		}
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
