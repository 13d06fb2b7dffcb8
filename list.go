package quern

import (
	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// SubmitList implements handles.ListSubmitter. Like Submit it fills in who
// answers but for the epoch.
func (n *Node) SubmitList(first *handles.Submission) {
	var list actors.Bundle
	shard := first.Op.Origin.Shard
	var at *handles.Submission // nobody has it yet
	next := first
	defer func() {
		if at != nil || next != nil {
			cutOff(&list, at, next)
		}
	}()
	for next != nil {
		s := next
		at, next, s.Next = s, s.Next, nil
		switch {
		case !s.Op.Method.Many:
			s.Op.Origin = handles.Origin{Node: n.cfg.Node, Shard: shard}
			of := operation(&s.Op)
			n.runtime.Add(&list, &of, s.Deadline, s.Done)
		case !n.listColumn(&list, shard, s):
			n.runtime.SubmitBundle(shard, &list) // in their order
			at = nil
			n.submitMany(&s.Op, s.Deadline, s.Done)
		}
		at = nil
	}
	n.runtime.SubmitBundle(shard, &list)
}

// errCutOff is the end of what was not begun since the goroutine that was about
// to begin it has panicked, or was ended by a handler.
var errCutOff = failure.New(failure.Internal, "internal error; the operation was cut off before it was begun")

// cutOff answers what is left of a list.
func cutOff(list *actors.Bundle, at, next *handles.Submission) {
	list.Fail(errCutOff)
	if at != nil {
		at.Done.Completed(0, errCutOff)
	}
	for s := next; s != nil; {
		next, s.Next = s.Next, nil
		s.Done.Completed(0, errCutOff)
		s = next
	}
}

// listColumn adds a bulk add to a list, if all its keys are of the list's shard.
func (n *Node) listColumn(list *actors.Bundle, shard uint32, s *handles.Submission) bool {
	in, ok := s.Op.Request.(*quernv1.CounterServiceAddManyRequest)
	if !ok || in.GetIdempotencyKey() != "" || len(in.GetKeys()) == 0 {
		return false
	}
	if _, _, err := checkMany(&s.Op); err != nil {
		return false
	}
	b := n.newBulk(in)
	if len(b.columns) != 1 || b.columns[0].shard != shard || len(b.refused) > 0 {
		n.free(b)
		return false
	}
	s.Op.Origin = handles.Origin{Node: n.cfg.Node, Shard: shard}
	b.node, b.op, b.done = n, &s.Op, s.Done
	b.left.Store(1)
	c := &b.columns[0]
	of := operation(&s.Op)
	n.runtime.AddColumn(list, &of, c, s.Deadline, c)
	return true
}

// SubmitAdds implements handles.AddsSubmitter.
func (n *Node) SubmitAdds(a *handles.Adds) {
	a.Origin.Node = n.cfg.Node
	n.runtime.SubmitAdds(handles.CounterAddMany.Kind, handles.CounterAddMany.Procedure, a)
}
