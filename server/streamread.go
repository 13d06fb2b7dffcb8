package server

import (
	"errors"
	"runtime"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
)

// What a stream's reader does with the parts of a frame.

// Method implements frame.Requests.
func (s *stream) Method(ref uint32, procedure string) error {
	if ref == 0 || ref > streamMethods {
		return failure.New(failure.InvalidField, "a method has the number %d, which is not 1 to %d", ref, streamMethods)
	}
	for len(s.methods) <= int(ref) {
		s.methods = append(s.methods, nil)
	}
	// A method that this node does not have is an error of its operations.
	s.methods[ref] = s.grains.methods[procedure]
	return nil
}

// Session implements frame.Requests.
func (s *stream) Session(shard, ref uint32, id []byte, closing bool) error {
	if shard >= s.grains.backend.Shards() {
		return failure.New(failure.InvalidField, "there is no shard %d", shard)
	}
	if len(id) != 0 && len(id) != sessionIDBytes {
		return failure.New(failure.InvalidField, "a session's id has %d bytes, not %d", len(id), sessionIDBytes)
	}
	if ref != 0 && !closing {
		return s.refSession(shard, ref, id)
	}
	name, present := string(id), &s.side(shard).session
	if !closing {
		s.grains.names.release(*present)
		*present = nil
		if name != "" {
			*present = s.grains.names.take(shard, name)
		}
		return nil
	}
	if name == "" && *present != nil {
		name = (*present).id
	}
	if ref == 0 {
		s.grains.names.release(*present)
		*present = nil
	}
	if refused := s.begin(0); refused != nil {
		return refused
	}
	s.closer()(shard, name, func(_ uint64, err error) { s.sessionDone(shard, name, true, err) })
	return nil
}

// Open implements frame.Requests.
func (s *stream) Open(shard uint32) error {
	if shard >= s.grains.backend.Shards() {
		return failure.New(failure.InvalidField, "there is no shard %d", shard)
	}
	if refused := s.begin(0); refused != nil {
		return refused
	}
	if since := s.now.Sub(s.opensFrom); since > time.Minute {
		s.opens, s.opensFrom = 0, s.now
	}
	if s.opens++; s.opens > s.mayOpen() {
		s.sessionDone(shard, "", false, errManySessions)
		return nil
	}
	s.opener()(shard, func(id string, _ uint64, err error) { s.sessionDone(shard, id, false, err) })
	return nil
}

// gathered is a list of operations, oldest first.
type gathered struct {
	first, last *handles.Submission
	n           int
}

// gather keeps an operation until there are some, or its frame ends. So many of
// one shard are begun at once that others have their turn in time.
func (s *stream) gather(shard uint32, o *handles.Submission) {
	l := s.gathered.at(shard)
	if l.first == nil {
		l.first = o
		s.shards = append(s.shards, shard)
	} else {
		l.last.Next = o
	}
	l.last = o
	l.n++
	s.held++
	if o.Op.Method.Many {
		s.held += streamMany - 1
	}
	if s.held >= streamGather || l.n >= streamBurst {
		s.submit()
	}
}

// submit begins the gathered operations, shard by shard: what a shard needs for
// one of them is at hand for the next. Where replies can be large it looks at
// the buffers in between.
func (s *stream) submit() {
	for _, shard := range s.shards {
		if s.large {
			s.awaitReplies()
		}
		l := s.gathered.at(shard)
		if s.grains.lists != nil {
			first, n := l.first, l.n
			*l = gathered{}
			s.grains.lists.SubmitList(first)
			s.yield(n)
			continue
		}
		for o := l.first; o != nil; o = l.first {
			l.first, o.Next = o.Next, nil
			s.grains.backend.Submit(&o.Op, o.Deadline, o.Done)
			s.yield(1)
		}
		*l = gathered{}
	}
	s.shards, s.held, s.large = s.shards[:0], 0, false
}

// awaitReplies waits until there is room for replies. Those that fill the
// buffers leave, or the stream ends: it waits for no operation.
func (s *stream) awaitReplies() {
	s.mu.Lock()
	for !s.ended && s.out.len()+s.sealedBytes() > streamBytes {
		s.stall()
	}
	s.stalled = false
	s.mu.Unlock()
}

// drop answers what was gathered and not submitted.
func (s *stream) drop(e *failure.Error) {
	for _, shard := range s.shards {
		l := s.gathered.at(shard)
		for o := l.first; o != nil; {
			next := o.Next
			o.Next = nil
			o.Done.Completed(0, e)
			o = next
		}
		*l = gathered{}
	}
	s.shards = nil
}

// yield lets others have a turn every now and then, after so many steps.
func (s *stream) yield(steps int) {
	if s.steps += steps; s.steps < streamBurst {
		return
	}
	s.steps = 0
	if s.grains.streams.Load() > 1 {
		runtime.Gosched()
		return
	}
	if now := time.Now(); now.Sub(s.turn) > streamTurn {
		runtime.Gosched()
		s.turn = time.Now()
	}
}

// errManySessions refuses to open yet another session.
var errManySessions = failure.New(failure.Overloaded, "the stream asks for too many sessions; a client needs one for each shard").After(10 * time.Second)

// errEnded ends the reading of a frame whose stream is over.
var errEnded = errors.New("server: the stream has ended")

func (s *stream) sessionDone(shard uint32, id string, closed bool, err error) {
	var e *failure.Error
	if err != nil {
		e = s.grains.failure(s.frames.Context(), err)
	}
	s.mu.Lock()
	s.out.sessions = frame.AppendSessionAnswer(s.out.sessions, shard, id, closed, e)
	s.answered(0)
}

// Ping implements frame.Requests.
func (s *stream) Ping(n uint64) error {
	s.mu.Lock()
	s.out.last = frame.AppendPong(s.out.last[:0], n)
	s.mu.Unlock()
	return nil
}

// answered counts an answer that was put into the buffers. It needs mu, and
// unlocks it.
func (s *stream) answered(bytes int) {
	s.pending--
	s.unsent++
	s.bytes -= bytes
	if s.ended {
		s.out, s.sealed = outgoing{}, nil
	}
	wake := !s.corked && !s.sending
	s.mu.Unlock()
	if wake {
		s.rouse()
	}
}

// origin tells the client who answers for a shard, where it does not know. It
// needs mu.
func (s *stream) origin(o *handles.Origin) {
	if o.Node == "" || o.Epoch == 0 {
		return
	}
	told := &s.sides.at(o.Shard).told
	if *told == o.Epoch {
		return
	}
	if *told != 0 && len(s.out.replies) > 0 {
		// What was answered under the former epoch must not follow this.
		s.sealed = append(s.sealed, s.out.take(nil))
	}
	*told = o.Epoch
	s.out.origins = frame.AppendOrigin(s.out.origins, o.Shard, o.Epoch, o.Node)
}
