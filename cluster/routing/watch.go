package routing

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/wire"
	"github.com/quern-io/quern/keyspace"
)

// silentWatch is how long a watch waits for an event or a heartbeat of the owner.
const silentWatch = 5 * handles.WatchHeartbeat / 2

var watchDesc = grpc.StreamDesc{StreamName: "Watch", ServerStreams: true}

// passedWatch is a watch at another node.
type passedWatch struct {
	shard uint32
	epoch uint64 // of the table, when it began
	end   context.CancelCauseFunc
}

// Watch watches a key until its owner ends the watch, or is another: who watches
// begins anew.
func (r *Router) Watch(ctx context.Context, w *handles.Watch) error {
	if err := keyspace.Check(w.Key); err != nil {
		return err //nolint:wrapcheck // a *failure.Error
	}
	shard := keyspace.Shard(w.Key, r.shards)
	if r.here(shard) {
		return r.explain(shard, r.local.Watch(ctx, w))
	}
	to := r.table.at(shard)
	switch {
	case to.peer == nil:
		return failure.New(failure.Moving, "shard %d is served by no node at present; try again", shard).After(movingRetry)
	case w.Hops >= MaxHops:
		return r.notOwner(shard)
	}
	return r.passWatch(ctx, w, shard, to)
}

// passWatch watches at the shard's owner.
func (r *Router) passWatch(ctx context.Context, w *handles.Watch, shard uint32, to *route) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &passedWatch{shard: shard, epoch: to.owner.Epoch, end: cancel}
	if !r.enterWatch(p) {
		return errStopping
	}
	defer r.leaveWatch(p)
	conn, done, err := r.conn(to.owner.Addr, true)
	if err != nil {
		return errStopping
	}
	defer done()
	w.Origin = handles.Origin{Shard: shard}
	err = r.readWatch(metadata.AppendToOutgoingContext(ctx, wire.HeaderHops, strconv.FormatUint(uint64(w.Hops)+1, 10)),
		peerKey{to.owner.Node, to.owner.Addr}, conn, w, cancel)
	if said, ok := errors.AsType[sayError](err); ok {
		return said.error
	}
	if ctx.Err() != nil {
		return handles.WatchEnded(ctx) //nolint:wrapcheck // a *failure.Error
	}
	err = callFailure(to.owner.Addr, err)
	if e, ok := errors.AsType[*failure.Error](err); ok {
		r.learn(e.Owner) //nolint:contextcheck // streams outlive the watch
	}
	return err
}

// sayError is what Each has ended the watch with.
type sayError struct{ error }

// readWatch reads the owner's events.
func (r *Router) readWatch(ctx context.Context, owner peerKey, conn *grpc.ClientConn, w *handles.Watch, end context.CancelCauseFunc) error {
	silence := time.AfterFunc(silentWatch, func() {
		end(failure.New(failure.Unreachable, "the shard's owner has said nothing for %v", silentWatch))
	})
	defer silence.Stop()
	stream, err := conn.NewStream(r.meaning(ctx, owner), &watchDesc, w.Method.Procedure)
	if err != nil {
		return err //nolint:wrapcheck // read by passWatch
	}
	if err := stream.SendMsg(w.Method.Request(w.Key)); err != nil && !errors.Is(err, io.EOF) {
		return err //nolint:wrapcheck // as above; after EOF RecvMsg knows more
	}
	if err := stream.CloseSend(); err != nil {
		return err //nolint:wrapcheck // as above
	}
	for first := true; ; first = false {
		m := w.Method.Message()
		err := stream.RecvMsg(m)
		if first {
			header, _ := stream.Header() // came before the message, or the end
			if err = r.answeredBy(header, owner, err); err == nil {
				if name := header.Get(wire.HeaderNode); len(name) > 0 {
					w.Origin.Node = name[0]
				}
			}
		}
		if err != nil {
			return err //nolint:wrapcheck // as above
		}
		silence.Reset(silentWatch)
		w.Origin.Epoch = m.GetEpoch()
		if err := w.Each(handles.NewEvent(m)); err != nil {
			return sayError{err}
		}
	}
}

func (r *Router) enterWatch(p *passedWatch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	r.watches[p] = struct{}{}
	return true
}

func (r *Router) leaveWatch(p *passedWatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watches, p)
}

// endWatches ends the watches at nodes that are not the owners any more.
func (r *Router) endWatches() {
	r.mu.Lock()
	var over []*passedWatch
	for p := range r.watches {
		if r.table.at(p.shard).owner.Epoch != p.epoch || r.here(p.shard) {
			over = append(over, p)
		}
	}
	r.mu.Unlock()
	for _, p := range over {
		p.end(r.notOwner(p.shard))
	}
}
