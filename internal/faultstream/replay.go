package faultstream

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// record is what is known of a stream's frames.
type record struct {
	mu      sync.Mutex // guards what follows
	base    quernv1.GrainServiceStreamRequest
	frames  []*quernv1.GrainServiceStreamRequest
	current map[uint64]*quernv1.StreamOperation // unanswered, by id
	fate    map[*quernv1.StreamOperation]fate
	columns columns
	broken  bool
}

// fate is what became of an operation. Its zero value is not answered.
type fate uint8

const (
	done    fate = iota + 1 // or perhaps so
	notDone                 // must not be attempted again by anybody but the client
)

// kept bounds the frames that can be replayed.
const kept = 64

func newRecord() *record {
	return &record{
		current: make(map[uint64]*quernv1.StreamOperation), fate: make(map[*quernv1.StreamOperation]fate),
		columns: columns{make(map[uint64]*quernv1.StreamColumn), make(map[*quernv1.StreamColumn][]fate)},
	}
}

// sent notes a frame of the client.
func (r *record) sent(b []byte) {
	m := new(quernv1.GrainServiceStreamRequest)
	if proto.Unmarshal(b, m) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range m.GetOperations() {
		r.current[o.GetId()] = o
	}
	for _, c := range m.GetColumns() {
		r.columns.current[c.GetId()] = c
	}
	r.frames = append(r.frames, m)
	if len(r.frames) > kept {
		fold(&r.base, r.frames[0])
		r.frames = r.frames[1:]
	}
}

// fold adds to base what later frames rely on.
func fold(base, m *quernv1.GrainServiceStreamRequest) {
	base.Methods = append(base.Methods, m.GetMethods()...)
	for _, s := range m.GetSessions() {
		if !s.GetClose() {
			base.Sessions = append(base.Sessions, s)
		}
	}
}

// answered notes a frame of the server, and returns the sessions that it opens.
func (r *record) answered(b []byte) []Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := &answers{record: r}
	_ = frame.ReadResponse(b, v)
	return v.opened
}

// answers reads a frame of the server under the record's lock.
type answers struct {
	record *record
	opened []Session
}

func (*answers) Hello(*quernv1.StreamHello) error    { return nil }
func (*answers) Origin(uint32, uint64, []byte) error { return nil }
func (*answers) Pong(uint64) error                   { return nil }

func (v *answers) Session(shard uint32, id []byte, closed bool, e *failure.Error) error {
	if !closed && e == nil {
		v.opened = append(v.opened, Session{shard, string(id)})
	}
	return nil
}

func (v *answers) Reply(id uint64, _ []byte, e *failure.Error) error {
	r := v.record
	o := r.current[id]
	delete(r.current, id)
	r.fate[o] = done
	if e != nil && e.Outcome() == failure.NotDone {
		r.fate[o] = notDone
	}
	return nil
}

// broke says that the client learns of no more answers.
func (r *record) broke() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = true
}

// again returns frames that the network might have kept, behind what they rely
// on.
func (r *record) again(chance *rand.Rand) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.frames) == 0 {
		return nil
	}
	base := proto.CloneOf(&r.base)
	first := chance.IntN(len(r.frames))
	for _, m := range r.frames[:first] {
		fold(base, m)
	}
	all := []*quernv1.GrainServiceStreamRequest{base}
	for _, m := range r.frames[first:] {
		copied := &quernv1.GrainServiceStreamRequest{Methods: m.GetMethods(), Sessions: m.GetSessions()}
		for _, o := range m.GetOperations() {
			if f := r.fate[o]; f == done || f == 0 && r.broken {
				copied.Operations = append(copied.Operations, o)
			}
		}
		for _, c := range m.GetColumns() {
			if c = r.columns.again(c, r.broken); c != nil {
				copied.Columns = append(copied.Columns, c)
			}
		}
		all = append(all, copied)
	}
	var frames [][]byte
	for _, m := range all {
		if b, err := proto.Marshal(m); err == nil {
			frames = append(frames, b)
		}
	}
	return frames
}

// replayLater sends frames of a stream again, on one of their own.
func (n *Network) replayLater(c *conn, after time.Duration) {
	r := rand.New(rand.NewPCG(n.seed^1, uint64(after)))   //nolint:gosec // no secret
	own := rand.New(rand.NewPCG(n.seed^2, uint64(after))) //nolint:gosec // no secret
	n.spawn(func() {
		if n.pause(context.Background(), after) != nil {
			return
		}
		ghost := newConn(n, context.Background(), fmt.Sprintf("%s, replayed after %v", c.name, after), calmPlan(), own)
		defer ghost.cut()
		if !n.begin(ghost) {
			return
		}
		frames := c.log.again(r)
		n.note("%s: %d frames", ghost.name, len(frames))
		ghost.down.leave() // nobody reads the answers
		for _, b := range frames {
			if ghost.up.send(b, upTo(r, n.faults.Delay)) != nil {
				return
			}
		}
		ghost.up.end(io.EOF)
		<-ghost.far.Done() // the server has answered all
	})
}
