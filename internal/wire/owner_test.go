package wire_test

import (
	"testing"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/wire"
)

// TestOwnerTravels in the metadata of a refusal, and text that is none does not.
func TestOwnerTravels(t *testing.T) {
	t.Parallel()
	o := failure.Owner{Shard: 1 << 20, Node: "n1", Addr: "10.0.0.1:7411", Epoch: 1<<64 - 1}
	e, ok := wire.FromStatus(wire.Status(failure.New(failure.NotOwner, "no").Owned(o)))
	if !ok || e.Owner == nil || *e.Owner != o {
		t.Errorf("got %v", e)
	}
	if e, ok := wire.FromStatus(wire.Status(failure.New(failure.NotOwner, "no"))); !ok || e.Owner != nil {
		t.Errorf("got %v", e)
	}
	o.Node = "\xff"
	if e, ok := wire.FromStatus(wire.Status(failure.New(failure.NotOwner, "no").Owned(o))); !ok || e.Reason != failure.NotOwner || e.Owner != nil {
		t.Errorf("got %v", e)
	}
}
