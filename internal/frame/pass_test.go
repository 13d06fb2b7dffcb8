package frame_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// refusals keeps the failures of a frame.
type refusals struct {
	responses

	all []*failure.Error
}

func (r *refusals) Reply(_ uint64, _ []byte, e *failure.Error) error {
	r.all = append(r.all, e)
	return nil
}

// TestOwnerTravels with a refusal, and a raw reply is one.
func TestOwnerTravels(t *testing.T) {
	t.Parallel()
	o := failure.Owner{Shard: 3, Node: "n1", Addr: "10.0.0.1:7411", Epoch: 1<<64 - 1}
	bad := o
	bad.Node = "\xff"
	b := frame.AppendFailure(nil, 1, failure.New(failure.NotOwner, "no").Owned(o))
	b = frame.AppendFailure(b, 2, failure.New(failure.NotOwner, "no").Owned(bad))
	raw, err := proto.Marshal(&quernv1.CounterServiceAddResponse{Value: 7})
	if err != nil {
		t.Fatal(err)
	}
	b = frame.AppendRawReply(frame.AppendRawReply(b, 3, raw), 4, nil)
	var r refusals
	if err := frame.ReadResponse(b, &r); err != nil || len(r.all) != 4 {
		t.Fatal(err, r.all)
	}
	if got := r.all[0]; got.Owner == nil || *got.Owner != o {
		t.Errorf("got %v", got)
	}
	if got := r.all[1]; got.Reason != failure.NotOwner || got.Owner != nil {
		t.Errorf("got %v", got)
	}
	var m quernv1.GrainServiceStreamResponse
	if err := proto.Unmarshal(b, &m); err != nil || len(m.GetReplies()) != 4 || string(m.GetReplies()[2].GetReply()) != string(raw) {
		t.Errorf("%v, %v", &m, err)
	}
}
