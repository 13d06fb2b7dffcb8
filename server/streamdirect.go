package server

import (
	"time"

	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/fastproto"
	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/keyspace"
)

// directs is what a reader runs operations with while it works off a frame, and
// which the next reader takes over: what is used again and again stays in the
// processor's caches.
type directs struct {
	handles.Direct

	ops [streamMethodsMax]*streamOp // by place of the method; nil before the first one
}

// streamMethodsMax bounds the places of methods.
const streamMethodsMax = 32

// direct runs an operation at once, to its answer, where it has nothing to wait
// for. It returns false, and nothing has happened, where it is to be gathered.
func (s *stream) direct(in *frame.Operation, home *streamMethod) bool {
	if !home.plain || s.grains.directs == nil || in.Session != 0 || in.Hops != 0 {
		return false
	}
	if in.TimeoutMS != 0 && !time.Now().Before(s.deadline(in)) {
		return false
	}
	if s.directs == nil {
		s.directs, _ = s.grains.directs.Get().(*directs)
		s.directs.Begin()
	}
	d := s.directs
	o := d.ops[home.place]
	if o == nil {
		o, _ = home.calls.New().(*streamOp)
		o.stays = true
		d.ops[home.place] = o
	}
	key, fine := fastproto.Split(in.Request, o.sub.Op.Request, &o.scratch)
	if !fine || !s.place(o, in, key) {
		return false
	}
	if home.large {
		s.awaitReplies()
	}
	done, err := d.Try(&o.sub.Op, key)
	if done {
		o.stream, o.id, o.bytes = s, in.ID, len(in.Request)
		o.answer(err)
	}
	o.reset.Reset()
	o.sub.Op.Memo, o.stream, o.passage.Reply = nil, nil, nil
	return done
}

// place fills in where an operation belongs. It returns false where that is not
// clear, or others for its shard came before it and were not begun.
func (s *stream) place(o *streamOp, in *frame.Operation, key []byte) bool {
	op := &o.sub.Op
	shard := keyspace.ShardOfBytes(key, s.grains.backend.Shards())
	if len(s.shards) > 0 && s.gathered.at(shard).first != nil {
		return false
	}
	op.Origin.Shard, op.Placed = shard, true
	op.Session = handles.Session{}
	if in.Number != 0 {
		session := s.side(shard).session
		if session == nil {
			return false
		}
		op.Session.ID, op.Session.Number = session.id, in.Number
		op.Session.Settled, op.Session.SettledOther = in.Settled, in.SettledOther
		op.Memo = &session.memo
	}
	return true
}

// leaveDirects lets other readers have what the frame was worked off with.
func (s *stream) leaveDirects() {
	if d := s.directs; d != nil {
		s.directs = nil
		s.grains.directs.Put(d)
	}
}
