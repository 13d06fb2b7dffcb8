package quern

import (
	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/handles"
)

// direct implements handles.Direct.
type direct struct {
	node string
	to   *actors.Direct
	of   actors.Operation // used again
}

// Direct implements handles.Director.
func (n *Node) Direct() handles.Direct {
	to := n.runtime.Direct()
	if to == nil {
		return nil
	}
	return &direct{node: n.cfg.Node, to: to}
}

// Begin implements handles.Direct.
func (d *direct) Begin() { d.to.Begin() }

// Try implements handles.Direct.
func (d *direct) Try(op *handles.Operation, key []byte) (done bool, err error) {
	of := &d.of
	of.Kind, of.Method = op.Method.Kind, op.Method.Procedure
	of.Session, of.Memo = actors.Session(op.Session), op.Memo
	of.Command, of.Reply = op.Request, op.Reply
	shard := op.Origin.Shard
	epoch, done, err := d.to.Try(shard, of, key)
	if done {
		if op.Passage != nil {
			op.Passage.Reply = d.to.Reply()
		}
		op.Origin = handles.Origin{Node: d.node, Shard: shard, Epoch: epoch}
	}
	return done, err //nolint:wrapcheck // a *failure.Error
}
