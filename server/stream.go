package server

import (
	"errors"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

const (
	// streamWindow is the most operations of a stream that are unanswered or
	// whose replies were not handed to the transport.
	streamWindow = 4096
	// streamLeast is what a stream may have under way on a crowded node.
	streamLeast = 64
	// streamBytes bounds the requests under way and the replies waiting of
	// one stream; one operation is always taken.
	streamBytes = 4 << 20
	// streamMethods is how many methods a stream may give numbers to.
	streamMethods = 1024
	// streamOpens is how many sessions a stream may ask for in a minute for
	// each shard that there is.
	streamOpens = 4
	// streamBurst is how many operations a stream decodes or begins before
	// others have a turn. A stream that is alone goes on for streamTurn, since
	// each turn costs a wake-up.
	streamBurst = 64
	streamTurn  = 100 * time.Microsecond
	// streamGather is how many operations are decoded before they are begun:
	// enough that some are of one shard, few enough to stay in the processor's
	// caches. One on many keys counts as streamMany.
	streamGather = 512
	streamMany   = 8
	// sessionIDBytes is the length of a session's id.
	sessionIDBytes = 16
	// keptBuffer is the largest buffer that a stream keeps when it is idle.
	keptBuffer = 64 << 10
)

// stream serves one client's stream. One goroutine reads frames and begins
// their operations; whoever ends an operation leaves its reply in the buffers.
// The reader sends what lies there when it has worked off a frame: mostly all
// of its operations have ended by then. Another goroutine sends what comes
// later.
type stream struct {
	grains *grainService
	frames frame.Stream
	// The rest, up to mu, belongs to the reader.
	methods []*streamMethod     // by number
	sides   perShard[shardSide] // its pages are made under mu
	speaks  speaker
	now     time.Time // when the frame under way was read
	steps   int       // since others had a turn
	turn    time.Time // when the others had theirs
	// opens counts the sessions asked for since opensFrom.
	opens     uint32
	opensFrom time.Time
	// gathered are operations of the frame under way that were not submitted
	// yet, by shard; shards are those that have some.
	gathered perShard[gathered]
	shards   []uint32
	held     int  // of them, as streamGather counts
	large    bool // the reply to one of them can be large
	credit   credit
	directs  *directs // while a frame is worked off; may be nil
	// admitted is the method of an operation that has passed the gate and that
	// nobody has yet who answers it; nil where there is none.
	admitted *streamMethod

	buffer []byte // of who is sending

	wake chan struct{} // room for one: there is something to send
	room chan struct{} // room for one: the reader may go on
	read chan error    // what the reader has ended with
	cheaply

	mu sync.Mutex // guards what follows
	// pending are unanswered operations, unsent the answers in the buffers.
	pending, unsent int
	bytes           int // of the requests of pending operations
	// waits are the operations that may wait for others, by id, with what gives
	// them up. They are not pending.
	waits   map[uint64]func(final bool)
	out     outgoing
	sealed  [][]byte // frames to be sent before out
	corked  bool     // the reader is about to add more
	stalled bool     // the reader waits for room
	sending bool     // somebody sends what was in the buffers
	leaving bool     // the writer waits for what is under way
	tally   tally
	ended   bool
}

// shardSide is what the stream knows of a shard; each operation needs all of it.
type shardSide struct {
	session *named // its own; of the reader
	told    uint64 // the epoch that the client knows; guarded by mu
}

// side finds what the stream knows of a shard. The reader alone makes room for
// it, before it begins an operation there.
func (s *stream) side(shard uint32) *shardSide {
	if !s.sides.has(shard) {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	return s.sides.at(shard)
}

// perShard holds something small for each shard, in pages that are made when
// they are needed.
type perShard[T any] struct{ pages [][]T }

const pageShards = 256

// has reports whether there is the page of a shard.
func (p *perShard[T]) has(shard uint32) bool {
	page := int(shard / pageShards)
	return page < len(p.pages) && p.pages[page] != nil
}

func (p *perShard[T]) at(shard uint32) *T {
	page := int(shard / pageShards)
	for len(p.pages) <= page {
		p.pages = append(p.pages, nil)
	}
	if p.pages[page] == nil {
		p.pages[page] = make([]T, pageShards)
	}
	return &p.pages[page][shard%pageShards]
}

// outgoing are the parts of the next frame.
type outgoing struct{ origins, sessions, replies, last []byte }

func (o *outgoing) len() int {
	return len(o.origins) + len(o.sessions) + len(o.replies) + len(o.last)
}

// take moves the parts behind what is in a buffer.
func (o *outgoing) take(b []byte) []byte {
	b = slices.Grow(b, o.len())
	for _, part := range []*[]byte{&o.origins, &o.sessions, &o.replies, &o.last} {
		b = append(b, *part...)
		if *part = (*part)[:0]; cap(*part) > keptBuffer {
			*part = nil
		}
	}
	return b
}

// serve runs a stream until the client ends it, the node stops or something is
// wrong.
func (g *grainService) serve(f frame.Stream) error {
	if refused := g.enter(); refused != nil {
		return g.face.fail(f.Context(), refused)
	}
	defer g.streams.Add(-1)
	s := &stream{
		grains: g, frames: f,
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1), read: make(chan error, 1),
	}
	if c, ok := f.(cheap); ok {
		return s.serveCheaply(c)
	}
	if err := s.hello(); err != nil {
		return err
	}
	g.readers.Go(func() {
		defer s.forgetSessions()
		s.read <- s.readAll()
	})
	err := s.write()
	s.end()
	return err
}

// end lets the reader go, wherever it waits for the writer, and gives up what
// waits for others.
func (s *stream) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.signal(s.room)
	s.cancelWaits()
}

func (s *stream) hello() error {
	var cluster []byte
	if s.grains.peers != nil {
		cluster = s.grains.peers.ClusterID()
	}
	var err error
	s.out.origins, err = frame.AppendHello(s.out.origins, &quernv1.StreamHello{
		Node: s.grains.backend.Name(), Shards: s.grains.backend.Shards(),
		Window: streamWindow, MaxFrameBytes: uint32(s.grains.maxFrame), //nolint:gosec // a message limit
		Columns: s.grains.adds != nil, ClusterId: cluster,
	})
	s.rouse()
	return err //nolint:wrapcheck // of package proto
}

// signal never blocks: one signal is enough.
func (*stream) signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// readAll reads frames until the stream ends. A panic beneath it is a defect that
// must not end the process; the operations under way are lost to the client.
func (s *stream) readAll() (err error) {
	finished := false
	defer func() {
		if !finished {
			err = s.cutOff(recover())
		}
	}()
	err = s.readFrames()
	finished = true
	return err
}

// cutOff ends a stream whose reader panics, or ends its goroutine, where reason
// is nil: a handler did that, whose turn it ran.
func (s *stream) cutOff(reason any) error {
	p := &panicked{value: reason, stack: debug.Stack()}
	if reason == nil {
		p.value = "the goroutine was ended"
	}
	e := s.grains.failure(s.frames.Context(), p)
	if m := s.admitted; m != nil {
		s.grains.gate.leaveAs(m.method.Waits)
	}
	s.drop(e)
	s.cork(false) // the writer sends what there is when it hears of the end
	err := s.refuse(e)
	if reason == nil {
		s.read <- err // nobody comes back to tell
		s.rouse()
		if s.over != nil {
			err = <-s.result
		}
	}
	return err
}

// readFrames begins the operations of one frame after the other.
func (s *stream) readFrames() error {
	for {
		if !s.admit() {
			return nil
		}
		b, err := s.frames.Recv()
		if err != nil {
			return err //nolint:wrapcheck // of the transport
		}
		if len(b) > s.grains.maxFrame {
			return s.refuse(errTooLarge(s.grains.maxFrame))
		}
		s.now = time.Now()
		s.cork(true)
		err = frame.ReadRequest(b, s)
		s.submit()
		s.leaveDirects()
		s.cork(false)
		if err != nil {
			return s.refuse(refusal(err))
		}
		if err := s.flush(); err != nil {
			return err
		}
		// A client that sends without a pause lets others have a turn.
		s.yield(streamBurst)
	}
}

// refusal is what ends a stream because of its frame.
func refusal(err error) *failure.Error {
	if e, ok := errors.AsType[*failure.Error](err); ok {
		return e
	}
	return failure.New(failure.InvalidField, "the frame was refused: %v", err)
}

func (s *stream) refuse(e *failure.Error) error {
	return s.grains.face.fail(s.frames.Context(), e)
}

// cork holds the replies back while a frame is worked off, so that they leave
// together. Whoever pulls it sends them.
func (s *stream) cork(on bool) {
	s.mu.Lock()
	s.giveBack()
	s.corked = on
	s.mu.Unlock()
}

// admit waits until another operation may be begun; false where the stream has
// ended.
func (s *stream) admit() bool {
	s.mu.Lock()
	for !s.ended && s.full() {
		if len(s.shards) > 0 {
			s.mu.Unlock()
			s.submit() // what is waited for
			s.mu.Lock()
			continue
		}
		s.stall()
	}
	s.stalled = false
	ended := s.ended
	s.mu.Unlock()
	return !ended
}

// stall lets the writer send, and waits until it has sent something or the
// stream has ended. It needs mu, and gives it up meanwhile.
func (s *stream) stall() {
	s.stalled = true
	corked := s.corked
	s.corked = false
	s.mu.Unlock()
	s.rouse()
	<-s.room
	s.mu.Lock()
	s.corked = corked
}

// window is what may be unanswered: the client's window, and sessions to be
// opened and closed.
func (s *stream) window() int { return streamWindow + 2*int(s.grains.backend.Shards()) }

// full needs mu.
func (s *stream) full() bool {
	n := s.pending + s.unsent
	return n >= s.window() && s.unsent > 0 || n > 0 && s.bytes+s.out.len()+s.sealedBytes() > streamBytes || n >= streamLeast && n >= s.grains.share()
}

// errParked is no end of a stream: it has nothing to send.
var errParked = errors.New("server: the writer is not needed")

// write sends what has gathered until the stream ends, or its writer is not
// needed for a while.
func (s *stream) write() error {
	stopping, read := s.grains.stopping, s.read
	draining := false
	for {
		select {
		case <-s.wake:
		case <-s.park:
			if !draining {
				return errParked
			}
		case <-stopping:
			draining, stopping = true, nil
			s.leave()
		case err := <-read:
			if err == nil || isEOF(err) {
				// The client has sent all that it wants to: it gets the rest.
				draining, read = true, nil
				s.leave()
				break
			}
			_ = s.flush() // the client may still hear what was answered
			return err
		case <-s.frames.Context().Done():
			return s.frames.Context().Err() //nolint:wrapcheck // of the transport
		}
		// Whoever is ready to run may have more to say.
		runtime.Gosched()
		if err := s.flush(); err != nil {
			return err
		}
		if draining && s.idle() { // else who ends the last one will wake this one
			if stopping == nil && read != nil {
				return s.refuse(errStopping)
			}
			return nil
		}
	}
}

// leave lets the writer be woken when nothing is under way any more.
func (s *stream) leave() {
	s.mu.Lock()
	s.leaving = true
	s.mu.Unlock()
}

// idle reports whether every operation was answered.
func (s *stream) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending == 0 && len(s.waits) == 0 && s.out.len() == 0 && !s.sending
}

// flush sends what lies in the buffers, in one frame, unless somebody is sending
// already; who does looks again.
func (s *stream) flush() error {
	s.mu.Lock()
	if s.corked || s.sending || s.out.len() == 0 {
		s.mu.Unlock()
		return nil
	}
	s.sending = true
	sealed, sent := s.sealed, s.unsent
	last := s.out.take(s.buffer[:0])
	s.sealed = nil
	s.mu.Unlock()
	if s.buffer = last; cap(last) > keptBuffer {
		s.buffer = nil
	}
	var err error
	for _, b := range sealed {
		err = errors.Join(err, s.send(b))
	}
	err = errors.Join(err, s.send(last))
	s.mu.Lock()
	s.unsent -= sent
	s.sending = false
	stalled, more := s.stalled, s.leaving || !s.corked && s.out.len() > 0
	s.mu.Unlock()
	if stalled {
		s.signal(s.room)
	}
	if more {
		s.rouse()
	}
	return err
}

func (s *stream) send(b []byte) error {
	if d := s.grains.slowReader; d > 0 && !s.bounded {
		cut := time.AfterFunc(d, s.frames.Close)
		defer cut.Stop()
	}
	return s.frames.Send(b) //nolint:wrapcheck // of the transport
}
