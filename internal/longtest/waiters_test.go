package longtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

const (
	// streamWaits is how many may wait on one stream.
	streamWaits = 65_536
	// frameWaits is how many acquires go into a frame.
	frameWaits = 1_000
)

// crowd is what streams full of acquires are answered.
type crowd struct {
	key string

	asked, refused, granted atomic.Int64

	mu      sync.Mutex
	odd     error // guarded by mu; the first answer that is none of these
	readers sync.WaitGroup
}

// member is one stream of a crowd.
type member struct {
	*crowd
	stream grpc.BidiStreamingClient[quernv1.GrainServiceStreamRequest, quernv1.GrainServiceStreamResponse]
	name   string
	asked  int
}

func (c *crowd) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.odd == nil {
		c.odd = err
	}
}

// join opens a stream, which lasts until ctx ends.
func (c *crowd) join(ctx context.Context, conn *grpc.ClientConn, name string) (*member, error) {
	stream, err := quernv1.NewGrainServiceClient(conn).Stream(ctx)
	if err != nil {
		return nil, err
	}
	c.readers.Go(func() { c.read(ctx, stream) })
	return &member{crowd: c, stream: stream, name: name}, stream.Send(&quernv1.GrainServiceStreamRequest{
		Methods: []*quernv1.StreamMethod{{Ref: 1, Procedure: handles.LockAcquire.Procedure}},
	})
}

// ask sends n acquires with a day's wait, each by an owner of its own.
func (m *member) ask(n int) error {
	for n > 0 {
		frame := &quernv1.GrainServiceStreamRequest{}
		for range min(n, frameWaits) {
			m.asked++
			request, err := proto.Marshal(&quernv1.LockServiceAcquireRequest{
				Key: m.key, Owner: m.name + "." + strconv.Itoa(m.asked), Ttl: durationpb.New(time.Hour), Wait: durationpb.New(24 * time.Hour),
			})
			if err != nil {
				return err
			}
			frame.Operations = append(frame.Operations, &quernv1.StreamOperation{Id: uint64(m.asked), Method: 1, Request: request})
		}
		n -= len(frame.GetOperations())
		m.crowd.asked.Add(int64(len(frame.GetOperations())))
		if err := m.stream.Send(frame); err != nil {
			return err
		}
	}
	return nil
}

func (c *crowd) read(ctx context.Context, stream grpc.ServerStreamingClient[quernv1.GrainServiceStreamResponse]) {
	for {
		frame, err := stream.Recv()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, io.EOF) {
				c.note(err)
			}
			return
		}
		for _, r := range frame.GetReplies() {
			switch e := r.GetError(); {
			case e == nil:
				c.granted.Add(1)
			case e.GetReason() == failure.Overloaded.String() && !e.GetUnknown():
				c.refused.Add(1)
			default:
				c.note(fmt.Errorf("operation %d: %v", r.GetId(), e))
			}
		}
	}
}

// waiting is how many wait for a lock that is held. A try learns it, which is
// cheaper than the lists of Get. A shard to which a crowd comes, or from which
// it goes, refuses others for a while.
func waiting(t *testing.T, lock handles.Lock) int {
	t.Helper()
	for {
		g, err := lock.Grant(t.Context(), handles.LockOptions{Owner: "looks", Wait: -1})
		switch {
		case err == nil && !g.Held:
			return g.Waiters
		case !errors.Is(err, failure.Overloaded):
			t.Fatalf("%+v, %v", g, err)
		}
	}
}

// settled waits until each one that has asked waits or was refused, and returns
// how many wait.
func (c *crowd) settled(t *testing.T, lock handles.Lock) (waiters int) {
	t.Helper()
	for {
		waiters = waiting(t, lock)
		if int64(waiters)+c.refused.Load()+c.granted.Load() == c.asked.Load() {
			return waiters
		}
		c.mu.Lock()
		err := c.odd
		c.mu.Unlock()
		if err != nil {
			t.Fatalf("%d wait and %d were refused, and then: %v", waiters, c.refused.Load(), err)
		}
	}
}

// handOver gives the lock back so often, and each time to who is the next.
func handOver(t *testing.T, lock handles.Lock, times int) {
	t.Helper()
	for range times {
		before, err := lock.Get(t.Context())
		if err != nil || before.Holds != 1 {
			t.Fatalf("%+v, %v", before, err)
		}
		if err := lock.Release(t.Context(), before.Holders[0].Token); err != nil {
			t.Fatal(err)
		}
		after, err := lock.Get(t.Context())
		if err != nil || after.Holds != 1 || after.Holders[0].Owner != before.Queue[0] {
			t.Fatalf("%s was next: %+v, %v", before.Queue[0], after.Holders, err)
		}
	}
}

// emptied waits until nobody is left in the queue, ends the last hold, and takes
// the lock.
func emptied(t *testing.T, lock handles.Lock) {
	t.Helper()
	for waiting(t, lock) > 0 { //nolint:revive // each look is a turn
	}
	if _, err := lock.ForceRelease(t.Context(), "its holder has left"); err != nil {
		t.Fatal(err)
	}
	lease, err := lock.Try(t.Context(), handles.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func dialGRPC(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestMoreWaitersThanAStreamTakes: those beyond the bound are refused, as not
// done; the lock goes on, so does everybody else, and nothing stays when the
// stream ends.
func TestMoreWaitersThanAStreamTakes(t *testing.T) {
	const asked = streamWaits + 4_464
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close(context.Background()) })
	lock := node.Lock("{crowd}lock")
	if _, err := lock.Grant(t.Context(), quern.LockOptions{Owner: "holder", TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	before := inUse()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := &crowd{key: lock.Key()}
	stream, err := c.join(ctx, dialGRPC(t, node.GRPCAddr()), "one")
	if err != nil {
		t.Fatal(err)
	}
	// A shard that is crowded refuses some before the bound, so that it takes
	// more than one try to come to it.
	for n := 0; n < streamWaits; n = c.settled(t, lock) {
		if err := stream.ask(asked - n); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.settled(t, lock); n != streamWaits {
		t.Errorf("%d wait, and %d were refused", n, c.refused.Load())
	}
	if n, err := node.Counter("{crowd}counter").Add(t.Context(), 1); n != 1 || err != nil {
		t.Errorf("an add on the same shard: %d, %v", n, err)
	}
	full := inUse()
	handOver(t, lock, 20)
	cancel()
	c.readers.Wait()
	emptied(t, lock)
	if after := inUse(); after > before+(full-before)/4+(16<<20) {
		t.Errorf("the heap went from %d to %d MiB, and back to %d", before>>20, full>>20, after>>20)
	}
}

// inUse is the size of the heap after collections; what is pooled outlasts one.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
