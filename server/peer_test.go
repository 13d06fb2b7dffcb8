package server_test

import (
	"context"
	"io"
	"testing"

	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/wire"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestNumbersOfSessions are bounded, and one that was not given, or was given at
// another shard, is no session.
func TestNumbersOfSessions(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	stream, err := quernv1.NewGrainServiceClient(plain(t, start(t, &fake{}).GRPCAddr())).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(q *quernv1.GrainServiceStreamRequest) {
		if err := stream.Send(q); err != nil && err != io.EOF { //nolint:errorlint // it is never wrapped
			t.Fatal(err)
		}
	}
	const id = "0123456789abcdef"
	shard := keyspace.Shard("k", 256)
	operation := func(id uint64, session uint32) *quernv1.StreamOperation {
		return &quernv1.StreamOperation{Id: id, Method: 1, Request: []byte{0x0a, 1, 'k'}, Number: 1, Session: session}
	}
	send(&quernv1.GrainServiceStreamRequest{
		Node:       "other",
		Methods:    []*quernv1.StreamMethod{{Ref: 1, Procedure: "/quern.v1.CounterService/Add"}},
		Sessions:   []*quernv1.StreamSession{{Shard: shard, Ref: 16_384, Id: []byte(id)}, {Shard: shard ^ 1, Ref: 9, Id: []byte(id)}},
		Operations: []*quernv1.StreamOperation{operation(1, 16_384), operation(2, 7), operation(3, 1<<31), operation(4, 9)},
	})
	reasons := make(map[uint64]string)
	for len(reasons) < 4 {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, reply := range r.GetReplies() {
			reasons[reply.GetId()] = reply.GetError().GetReason()
		}
	}
	expired := failure.SessionExpired.String()
	if reasons[1] != "" || reasons[2] != expired || reasons[3] != expired || reasons[4] != expired {
		t.Errorf("answered were %v", reasons)
	}
	send(&quernv1.GrainServiceStreamRequest{Sessions: []*quernv1.StreamSession{{Shard: 1, Ref: 16_385, Id: []byte(id)}}})
	for err == nil {
		_, err = stream.Recv()
	}
	if e, ok := wire.FromStatus(status.Convert(err)); !ok || e.Reason != failure.InvalidField {
		t.Errorf("the stream ended with %v", err)
	}
}
