package quern

import (
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// WithClock returns c with a clock in place of CLOCK_BOOTTIME.
func (c Config) WithClock(clock func() time.Duration) Config {
	c.clock = clock
	return c
}

// EndOfBulk ends a bulk add, of a member of a cluster or a lone node, all of whose
// columns end with err.
func EndOfBulk(shards uint32, joined bool, op *handles.Operation, err error, done handles.Completer) {
	n := &Node{info: actors.StoreInfo{Shards: shards}}
	if joined {
		n.member = new(member)
	}
	in, _ := op.Request.(*quernv1.CounterServiceAddManyRequest)
	b := n.newBulk(in)
	b.node, b.op, b.done = n, op, done
	b.left.Store(int32(len(b.columns)))
	for i := range b.columns {
		b.columns[i].Completed(1, err)
	}
}
