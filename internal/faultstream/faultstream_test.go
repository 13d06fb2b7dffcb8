package faultstream

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// echo answers each operation of a stream, and keeps what it has seen.
type echo struct {
	mu   sync.Mutex
	seen [][]uint64 // guarded by mu: the ids of the operations, by stream
}

func (e *echo) serve(f frame.Stream) error {
	e.mu.Lock()
	me := len(e.seen)
	e.seen = append(e.seen, nil)
	e.mu.Unlock()
	for {
		b, err := f.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var m quernv1.GrainServiceStreamRequest
		if err := proto.Unmarshal(b, &m); err != nil {
			return err
		}
		for _, o := range m.GetOperations() {
			e.mu.Lock()
			e.seen[me] = append(e.seen[me], o.GetId())
			e.mu.Unlock()
			if err := f.Send(answer(o.GetId())); err != nil {
				return err
			}
		}
	}
}

func (e *echo) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return fmt.Sprint(e.seen)
}

func answer(id uint64) []byte {
	b, _ := proto.Marshal(&quernv1.GrainServiceStreamResponse{Replies: []*quernv1.StreamReply{{Id: id}}})
	return b
}

func request(id uint64) []byte {
	b, _ := proto.Marshal(&quernv1.GrainServiceStreamRequest{Operations: []*quernv1.StreamOperation{{Id: id}}})
	return b
}

// TestFaults does one thing to a stream that sends five operations.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		steps []step
		tail  time.Duration
		// got is what the client receives, and what comes then; seen is what
		// the server has seen in the end.
		got, end, seen string
	}{
		"nothing":               {got: "1 2 3 4 5", end: "silence", seen: "[[1 2 3 4 5]]"},
		"cut up":                {[]step{{actCut, true, 3, 0}}, 0, "1 2", "cut", "[[1 2]]"},
		"cut down":              {[]step{{actCut, false, 3, 0}}, 0, "1 2", "cut", "[[1 2 3]]"},
		"late cut":              {[]step{{actLate, true, 3, time.Minute}}, 0, "1 2", "cut", "[[1 2]]"},
		"late cut, and a stall": {[]step{{actStall, true, 2, time.Hour}, {actLate, true, 3, time.Minute}}, 0, "1", "cut", "[[1 2]]"},
		"mute up":               {[]step{{actMute, true, 3, 0}}, 0, "1 2", "silence", "[[1 2]]"},
		"mute down":             {[]step{{actMute, false, 3, 0}}, 0, "1 2", "silence", "[[1 2 3 4 5]]"},
		"mute, late cut":        {[]step{{actMute, true, 3, 0}}, time.Minute, "1 2", "silence", "[[1 2 3 4 5]]"},
		"half-close":            {[]step{{actHalfClose, true, 4, 0}}, 0, "1 2 3", "EOF", "[[1 2 3]]"},
		"stall":                 {[]step{{actStall, true, 2, time.Minute}}, 0, "1 2 3 4 5", "silence", "[[1 2 3 4 5]]"},
		"replay":                {[]step{{actReplay, false, 5, time.Hour}}, 0, "1 2 3 4 5", "silence", "[[1 2 3 4 5] again]"},
		"replay of what is cut": {[]step{{actReplay, false, 1, time.Hour}, {actCut, false, 3, 0}}, 0, "1 2", "cut", "[[1 2 3] again]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n, e := New(1, Faults{Within: 1}), new(echo)
				n.Serve(e.serve)
				got, end := drive(t, n, &plan{steps: test.steps, room: 16, tail: test.tail})
				if got != test.got || end != test.end {
					t.Errorf("the client got %q, then %s; want %q, then %s\n%s", got, end, test.got, test.end, n.Schedule())
				}
				time.Sleep(3 * time.Hour) //nolint:forbidigo // in a bubble
				if seen := e.String(); !matches(seen, test.seen) {
					t.Errorf("the server saw %s, want %s\n%s", seen, test.seen, n.Schedule())
				}
				n.Close()
			})
		})
	}
}

// matches takes any second stream that repeats a part of the first for "again".
func matches(seen, want string) bool {
	first, again := strings.CutSuffix(want, " again]")
	if !again {
		return seen == want
	}
	rest, ok := strings.CutPrefix(seen, first+" [")
	return ok && rest != "]]" && strings.Contains(first, strings.TrimSuffix(rest, "]]"))
}

// drive sends five operations, one after the other, and leaves. It returns what
// was answered, and how that ended.
func drive(t *testing.T, n *Network, p *plan) (got, end string) {
	t.Helper()
	c, err := n.newStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.plan, c.up, c.down = p, newPipe(p.room), newPipe(p.room)
	if !n.begin(c) {
		t.Fatal("refused")
	}
	f := clientEnd{c}
	answers := make(chan string)
	go func() {
		defer close(answers)
		for {
			b, err := f.Recv()
			if err != nil {
				end = strings.TrimPrefix(err.Error(), "faultstream: the stream was ")
				return
			}
			var m quernv1.GrainServiceStreamResponse
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Error(err)
			}
			answers <- fmt.Sprint(m.GetReplies()[0].GetId())
		}
	}()
	var all []string
	for id := range uint64(5) {
		_ = f.Send(request(id + 1))
		select {
		case a, ok := <-answers:
			if !ok {
				return strings.Join(all, " "), end
			}
			all = append(all, a)
		case <-time.After(2 * time.Minute): //nolint:forbidigo // in a bubble
		}
	}
	f.Close()
	for range answers { // until the reader has ended
	}
	return strings.Join(all, " "), "silence"
}

// TestFlowControl: a sender waits while nothing arrives.
func TestFlowControl(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipe(3)
		p.silence()
		sent := 0
		go func() {
			for p.send(nil, 0) == nil {
				sent++
			}
		}()
		synctest.Wait()
		if sent != 3 {
			t.Errorf("%d frames were taken, want 3", sent)
		}
		p.cut()
	})
}

// TestSenderLosesItsBuffer: one that is used on is found out.
func TestSenderLosesItsBuffer(t *testing.T) {
	t.Parallel()
	b := request(1)
	mine := seize(b)
	if string(mine) != string(request(1)) || string(b) == string(mine) {
		t.Errorf("kept %x, left %x", mine, b)
	}
}

// TestPlansComeFromTheSeed, and every kind of fault is among them.
func TestPlansComeFromTheSeed(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for seed := range uint64(200) {
		var two [2]string
		for i := range two {
			n := New(seed, Rough())
			n.Serve(func(frame.Stream) error { return nil })
			c, err := n.newStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			two[i] = c.plan.String()
			n.Close()
		}
		if two[0] != two[1] {
			t.Errorf("seed %d: %s and %s", seed, two[0], two[1])
		}
		all.WriteString(two[0])
	}
	for _, kind := range []action{actCut, actLate, actMute, actHalfClose, actStall, actReplay, "refused", "ungreeted"} {
		if !strings.Contains(all.String(), string(kind)) {
			t.Errorf("no plan has %s", kind)
		}
	}
}
