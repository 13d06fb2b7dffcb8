package routing

import (
	"errors"
	"fmt"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// What comes from the other node.

// read hands out the node's answers.
func (l *link) read() error {
	for {
		b, err := l.frames.Recv()
		if err != nil {
			return err //nolint:wrapcheck // of the transport
		}
		l.heard.Store(time.Now().UnixNano())
		l.mu.Lock()
		err = frame.ReadResponse(b, l)
		l.pump()
		more := len(l.operations) > 0
		l.mu.Unlock()
		if more {
			l.rouse()
		}
		for t := l.answers.pop(); t != nil; t = l.answers.pop() {
			t.answered()
		}
		if err != nil {
			return fmt.Errorf("routing: a frame of the node: %w", err)
		}
	}
}

// pump sends what has waited for room. It needs mu.
func (l *link) pump() {
	now := time.Now()
	for l.queue.first != nil && l.owed < int(l.hello.GetWindow()) {
		t := l.queue.pop()
		var refused *failure.Error
		switch {
		case t.givenUp():
			refused = errGivenUp
		case t.late(now):
			refused = failure.New(failure.DeadlineExceeded, "the deadline passed before the operation was begun")
		default:
			refused = l.encode(t)
		}
		if refused != nil {
			t.err, t.origin = t.verdict(refused), l.origins[t.shard]
			l.answers.push(t)
		}
	}
}

// Hello implements frame.Responses; the first one was read before.
func (*link) Hello(*quernv1.StreamHello) error { return nil }

// Origin implements frame.Responses.
func (l *link) Origin(shard uint32, epoch uint64, node []byte) error {
	if int(shard) >= len(l.origins) {
		return fmt.Errorf("there is no shard %d", shard)
	}
	o := &l.origins[shard]
	o.Shard, o.Epoch = shard, epoch
	if o.Node != string(node) {
		o.Node = string(node)
	}
	return nil
}

// Session implements frame.Responses.
func (l *link) Session(shard uint32, id []byte, closed bool, err *failure.Error) error {
	if int(shard) >= len(l.origins) {
		return fmt.Errorf("there is no shard %d", shard)
	}
	var t *task
	if closed {
		t = first(l.closes, sessionKey{shard, string(id)})
	} else {
		t = first(l.opens, shard)
	}
	if t == nil {
		return nil // nobody waits for it
	}
	l.owed--
	t.err, t.origin = err, l.origins[shard]
	if err == nil && !closed {
		t.session = string(id)
	}
	l.answers.push(t)
	return nil
}

// first takes the first task of a list, which goes with its last one.
func first[K comparable](lists map[K]*taskList, key K) *task {
	list := lists[key]
	if list == nil {
		return nil
	}
	t := list.pop()
	if list.first == nil {
		delete(lists, key)
	}
	return t
}

// noReply is the reply of an empty message.
var noReply = []byte{}

// Reply implements frame.Responses.
func (l *link) Reply(id uint64, reply []byte, err *failure.Error) error {
	if id == 0 || id > uint64(len(l.tasks)) || l.tasks[id-1] == nil {
		return fmt.Errorf("an answer to an operation that is not under way: %d", id)
	}
	t := l.tasks[id-1]
	l.release(t)
	if reply == nil {
		reply = noReply
	}
	t.reply, t.err, t.origin = reply, err, l.origins[t.shard]
	t.origin.Shard = t.shard
	l.answers.push(t)
	return nil
}

var errColumn = errors.New("an answer to a column, of which there is none")

// Column implements frame.Responses. Nodes send each other no columns.
func (*link) Column([]byte) error { return errColumn }

// Pong implements frame.Responses: that a frame came is all that matters.
func (*link) Pong(uint64) error { return nil }

// broke takes back what the link had. It comes after its goroutines have ended.
func (l *link) broke() {
	l.mu.Lock()
	l.ended = true
	var all []*task
	written := func(t *task) {
		if t.frame < l.handed {
			t.perhaps = true
		}
		all = append(all, t)
	}
	for _, t := range l.tasks {
		if t != nil {
			written(t)
			t.id = 0
		}
	}
	for _, list := range l.opens {
		for t := list.pop(); t != nil; t = list.pop() {
			written(t)
		}
	}
	for _, list := range l.closes {
		for t := list.pop(); t != nil; t = list.pop() {
			written(t)
		}
	}
	for t := l.queue.pop(); t != nil; t = l.queue.pop() {
		all = append(all, t)
	}
	l.tasks, l.free, l.waits = nil, nil, nil
	l.mu.Unlock()
	for _, t := range all {
		l.router.lost(t)
	}
}

// lost decides what becomes of a task whose link has broken.
func (r *Router) lost(t *task) {
	switch {
	case t.dead:
	case t.perhaps && !t.repeatable():
		t.end(0, failure.New(failure.OutcomeUnknown, "the connection to the owner of shard %d broke; the operation perhaps happened", t.shard))
	case t.hops > 0:
		r.unsent(t)
	default:
		if t.perhaps {
			r.counts.repeated.Inc()
		}
		if t.windowless() { // else what loses its owner each time would go on for ever
			t.returned(time.Now())
		}
		r.keep(t)
	}
}
