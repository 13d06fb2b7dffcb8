package server_test

import (
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// patient is a backend with whom everything waits until it is given up.
type patient struct{ fake }

func (*patient) SubmitWait(_ *handles.Operation, _ time.Time, done handles.Completer) func(bool) {
	return func(bool) { done.Completed(1, failure.New(failure.Canceled, "given up")) }
}

// TestWaitsAreBounded: 65,536 of a stream, 131,072 of a node. The one that is too
// many is refused, and the stream goes on.
func TestWaitsAreBounded(t *testing.T) {
	t.Parallel()
	s := start(t, &patient{})
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const limit, frame = 65_536, 4096
	for n, waits := range []int{limit, limit, 0} {
		stream, err := quernv1.NewGrainServiceClient(conn).Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for first := 1; first <= waits+1; first += frame {
			if err := stream.Send(acquires(t, first, min(first+frame-1, waits+1))); err != nil {
				t.Fatal(err)
			}
		}
		var refused []*quernv1.StreamReply
		for len(refused) == 0 {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			refused = m.GetReplies()
		}
		if r := refused[0]; len(refused) != 1 || r.GetId() != uint64(waits+1) || r.GetError().GetReason() != failure.Overloaded.String() {
			t.Errorf("stream %d: %v", n, refused)
		}
	}
}

// acquires is a frame of waiting operations with these ids.
func acquires(t *testing.T, first, last int) *quernv1.GrainServiceStreamRequest {
	t.Helper()
	m := &quernv1.GrainServiceStreamRequest{Methods: []*quernv1.StreamMethod{{Ref: 1, Procedure: handles.LockAcquire.Procedure}}}
	for id := first; id <= last; id++ {
		request, err := proto.Marshal(&quernv1.LockServiceAcquireRequest{
			Key: "k", Owner: strconv.Itoa(id), Ttl: durationpb.New(time.Minute), Wait: durationpb.New(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		m.Operations = append(m.Operations, &quernv1.StreamOperation{Id: uint64(id), Method: 1, Request: request})
	}
	return m
}
