package crashtest

import (
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// bulk is a bulk add as the runtime takes it. The client has split it by shard.
type bulk struct {
	in     *quernv1.CounterServiceAddManyRequest
	out    *quernv1.CounterServiceAddManyResponse
	values []int64
	errs   []error
	add    quernv1.CounterServiceAddRequest
	reply  quernv1.CounterServiceAddResponse
	done   handles.Completer
}

// submitMany hands a bulk add to the runtime.
func (b *faultBackend) submitMany(op *handles.Operation, deadline time.Time, done handles.Completer) {
	var list actors.Bundle
	b.runtime.SubmitBundle(b.addMany(&list, op, deadline, done), &list)
}

// addMany adds a bulk add to a list, and returns its shard.
func (b *faultBackend) addMany(list *actors.Bundle, op *handles.Operation, deadline time.Time, done handles.Completer) uint32 {
	in, ok := op.Request.(*quernv1.CounterServiceAddManyRequest)
	out, okay := op.Reply.(*quernv1.CounterServiceAddManyResponse)
	if !ok || !okay || len(in.GetKeys()) == 0 {
		done.Completed(0, failure.New(failure.UnknownMethod, "no bulk add"))
		return 0
	}
	shard := keyspace.Shard(in.GetKeys()[0], faultShards)
	op.Origin = handles.Origin{Node: b.Name(), Shard: shard}
	n := len(in.GetKeys())
	c := &bulk{in: in, out: out, values: make([]int64, n), errs: make([]error, n)}
	c.done = &recording{b.answers, op, op.Session, done}
	b.runtime.AddColumn(list, b.operation(op), c, deadline, c)
	return shard
}

func (c *bulk) Len() int             { return len(c.in.GetKeys()) }
func (c *bulk) Key(i int) string     { return c.in.GetKeys()[i] }
func (c *bulk) Reply() proto.Message { return &c.reply }

func (c *bulk) Command(i int) proto.Message {
	c.reply.Reset()
	c.add.Key, c.add.Delta = c.Key(i), nil
	if len(c.in.GetDeltas()) > 0 {
		c.add.Delta = &c.in.GetDeltas()[i]
	}
	return &c.add
}

func (c *bulk) Answered(i int, err error) { c.values[i], c.errs[i] = c.reply.GetValue(), err }

// fill writes the answers into a reply.
func (c *bulk) fill(out *quernv1.CounterServiceAddManyResponse) {
	out.Values = slices.Clone(c.values)
	for i, err := range c.errs {
		if e, ok := errors.AsType[*failure.Error](err); ok {
			out.Values[i] = 0
			out.Failures = append(out.Failures, &quernv1.AddManyFailure{
				Index: uint32(i), Reason: e.Reason.String(), Message: e.Message, Unknown: e.Outcome() == failure.Unknown,
			})
		}
	}
}

func (c *bulk) AppendResult(b []byte) ([]byte, error) {
	var out quernv1.CounterServiceAddManyResponse
	c.fill(&out)
	return proto.MarshalOptions{}.MarshalAppend(b, &out)
}

func (c *bulk) Replay(result []byte) error {
	var out quernv1.CounterServiceAddManyResponse
	if err := proto.Unmarshal(result, &out); err != nil {
		return err
	}
	copy(c.values, out.GetValues())
	for _, f := range out.GetFailures() {
		reason, _ := failure.ParseReason(f.GetReason())
		c.errs[f.GetIndex()] = failure.New(reason, "%s", f.GetMessage())
	}
	return nil
}

// Completed implements handles.Completer.
func (c *bulk) Completed(epoch uint64, err error) {
	if err == nil {
		c.fill(c.out)
	}
	c.done.Completed(epoch, err)
}

// SubmitAdds submits what a column does at one shard.
func (b *faultBackend) SubmitAdds(a *handles.Adds) {
	a.Origin.Node = b.Name()
	a.Done = &recordingAdds{b.answers, a, a.Session, a.Done}
	b.runtime.SubmitAdds(handles.CounterAddMany.Kind, handles.CounterAddMany.Procedure, a)
}

// recordingAdds is recording for adds.
type recordingAdds struct {
	to    *firstAnswers
	adds  *handles.Adds
	place handles.Session
	done  handles.Completer
}

// Completed implements handles.Completer.
func (r *recordingAdds) Completed(epoch uint64, err error) {
	if r.place.ID != "" && err == nil {
		var reply quernv1.CounterServiceAddManyResponse
		if err := proto.Unmarshal(r.adds.Result, &reply); err != nil {
			panic(err) //nolint:forbidigo // a defect of the node
		}
		r.to.note(r.place, &reply)
	}
	r.done.Completed(epoch, err)
}
