package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestRepeatUnderALostSession: of two adds that are repeated one finds out that
// the session is gone, and the stream breaks before the other does. That one
// must not go under another session, where it would count again.
func TestRepeatUnderALostSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{})
		one := add(c, t.Context())
		s.operation(sessionOne)
		two := add(c, t.Context())
		s.operation(sessionOne)
		s.Close()
		s = <-g.streams
		again := s.next().GetOperations()
		if len(again) != 2 {
			t.Fatalf("%d operations came again", len(again))
		}
		s.refuse(again[0], expired)
		synctest.Wait()
		s.Close()
		s = <-g.streams
		synctest.Wait()
		for _, got := range []<-chan result{one, two} {
			select {
			case r := <-got:
				if !errors.Is(r.err, failure.OutcomeUnknown) {
					t.Errorf("got %v", r)
				}
			default:
				t.Error("it waits for another session")
			}
		}
		end(c, s)
	})
}

// TestOpeningOfUnknownOutcome: whether the session was opened does not matter.
func TestOpeningOfUnknownOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		got := add(c, t.Context())
		if m := s.next(); len(m.GetOpenSessions()) != 1 {
			t.Fatalf("got %v", m)
		}
		s.say(&quernv1.GrainServiceStreamResponse{Sessions: []*quernv1.StreamSession{
			{Error: &quernv1.StreamError{Reason: "OUTCOME_UNKNOWN", Code: failure.OutcomeUnknown.Code(), Unknown: true}},
		}})
		s.value(s.operation(sessionTwo), 1)
		if r := <-got; r != (result{1, nil}) {
			t.Errorf("got %v", r)
		}
		end(c, s)
	})
}

// TestFramesDoNotMixSessions: what waits on one connection under a session
// must not go out under the next one, which was opened on another.
func TestFramesDoNotMixSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, one := g.dial(client.Options{Connections: 2})
		two := <-g.streams
		synctest.Wait()
		adds := func(key string, n int) {
			for range n {
				go func() { _, _ = c.Counter(key).Add(t.Context(), 1) }()
				synctest.Wait()
			}
		}
		adds("former", 1) // has a session opened
		one.grant(one.next(), sessionOne)
		synctest.Wait()
		two.hold = make(chan struct{})
		adds("former", 8)
		resent := uint64(0) // those that go again get the first numbers
		for resent == 0 {
			m := one.next()
			for _, o := range m.GetOperations() {
				one.refuse(o, expired)
				resent++
			}
			synctest.Wait()
		}
		for open := false; !open; {
			m := one.next()
			open = len(m.GetOpenSessions()) > 0
			one.grant(m, sessionTwo)
		}
		synctest.Wait()
		adds("latter", 8)
		close(two.hold)
		session, seen := "", 0
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
			select {
			case m := <-two.in:
				for _, s := range m.GetSessions() {
					session = string(s.GetId())
				}
				for _, o := range m.GetOperations() {
					var r quernv1.CounterServiceAddRequest
					if err := proto.Unmarshal(o.GetRequest(), &r); err != nil {
						t.Fatal(err)
					}
					seen++
					if former := strings.HasPrefix(r.GetKey(), "former"); former && session == sessionTwo && o.GetNumber() > resent {
						t.Errorf("%s, number %d, went out under the later session", r.GetKey(), o.GetNumber())
					}
				}
			case <-time.After(100 * time.Millisecond): //nolint:forbidigo // in a bubble
			}
		}
		if session != sessionTwo || seen < 4 {
			t.Fatalf("the test shows nothing: session %q, %d operations", session, seen)
		}
		one.Close()
		two.Close()
		_ = c.Close()
	})
}

// TestIdlePingsAreNoSilence: a client that was idle, and had its pings answered,
// gives an operation the time that it gives to any.
func TestIdlePingsAreNoSilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		got := add(c, t.Context())
		s.value(s.operation(sessionOne), 1)
		<-got
		next := make(chan *quernv1.GrainServiceStreamRequest)
		go func() { next <- s.next() }()           // answers pings
		time.Sleep(19*time.Second + time.Second/4) //nolint:forbidigo // in a bubble
		got = add(c, t.Context())
		o := (<-next).GetOperations()[0]
		time.Sleep(900 * time.Millisecond) //nolint:forbidigo // in a bubble
		s.value(o, 2)
		if r := <-got; r != (result{2, nil}) {
			t.Errorf("got %v", r)
		}
		if st := c.Stats(); st.Connects != 1 || st.Retries != 0 {
			t.Errorf("the stream was given up: %+v", st)
		}
		end(c, s)
	})
}

// TestSilenceAfterAnOpening: who waits for a session alone does not wait longer
// for a silent node than who waits for an answer.
func TestSilenceAfterAnOpening(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, _ := g.dial(client.Options{})
		begun := time.Now()
		got := add(c, t.Context())
		s := <-g.streams
		if waited := time.Since(begun); waited > 4*time.Second {
			t.Errorf("the stream was left after %v", waited)
		}
		s.value(s.operation(sessionOne), 1)
		if r := <-got; r != (result{1, nil}) {
			t.Errorf("got %v", r)
		}
		end(c, s)
	})
}

// TestFirstStreamIsTriedAgain until there is one, or the caller's patience ends;
// who wants to fail fast does.
func TestFirstStreamIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		g.fail(errRefused)
		time.AfterFunc(time.Second, func() { g.fail(nil) })
		c, s := g.dial(client.Options{})
		end(c, s)
		g.fail(errRefused)
		if _, err := client.Over(t.Context(), g.open, client.Options{FailFast: true}); !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, errRefused) {
			t.Errorf("got %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := client.Over(ctx, g.open, client.Options{}); !errors.Is(err, client.ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}
