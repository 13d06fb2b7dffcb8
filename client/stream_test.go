package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

var (
	expired    = &quernv1.StreamError{Reason: "SESSION_EXPIRED", Code: failure.SessionExpired.Code()}
	overloaded = &quernv1.StreamError{Reason: "OVERLOADED", Code: failure.Overloaded.Code(), RetryAfterMs: 200}
	limited    = &quernv1.StreamError{Reason: "LIMIT", Code: failure.Limit.Code()}
)

func TestOneCallIsOneFrame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		for want := int64(1); want <= 3; want++ {
			got := add(c, t.Context())
			o := s.operation(sessionOne)
			if o.GetNumber() != uint64(want) || o.GetSettled() != uint64(want-1) {
				t.Errorf("number %d, settled %d", o.GetNumber(), o.GetSettled())
			}
			s.value(o, want)
			if g := <-got; g != (result{want, nil}) {
				t.Errorf("got %v", g)
			}
		}
		if st := c.Stats(); st.Frames != 4 || st.Operations != 3 { // one asked for the session
			t.Errorf("%+v", st)
		}
		end(c, s)
	})
}

// end closes a client whose node closes the sessions at once.
func end(c *client.Client, s *scene) {
	go func() {
		for m := range s.in {
			for _, session := range m.GetSessions() {
				if session.GetClose() {
					s.say(&quernv1.GrainServiceStreamResponse{Sessions: []*quernv1.StreamSession{{Close: true}}})
				}
			}
			if s.ctx.Err() != nil {
				return
			}
		}
	}()
	_ = c.Close()
	// The reader above ends with the next frame it sees.
	s.in <- &quernv1.GrainServiceStreamRequest{}
}

// TestCallsShareFrames: what comes while a frame is on its way goes with the
// next one.
func TestCallsShareFrames(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		first := add(c, t.Context())
		o := s.operation(sessionOne)
		s.value(o, 1)
		<-first
		s.hold = make(chan struct{})
		var rest []<-chan result
		for range 65 {
			rest = append(rest, add(c, t.Context()))
			synctest.Wait()
		}
		for range 2 {
			s.hold <- struct{}{}
		}
		one, many := s.next(), s.next()
		if len(one.GetOperations()) != 1 || len(many.GetOperations()) != 64 {
			t.Errorf("frames of %d and %d operations", len(one.GetOperations()), len(many.GetOperations()))
		}
		s.hold = nil
		for i, o := range append(one.GetOperations(), many.GetOperations()...) {
			s.value(o, int64(i+2))
		}
		for _, r := range rest {
			if g := <-r; g.err != nil {
				t.Error(g.err)
			}
		}
		end(c, s)
	})
}

// TestRepeatKeepsItsNumber over a stream that broke.
func TestRepeatKeepsItsNumber(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{})
		got := add(c, t.Context())
		first := s.operation(sessionOne)
		s.Close()
		s = <-g.streams
		m := s.next()
		again := m.GetOperations()[0]
		if again.GetNumber() != first.GetNumber() || string(again.GetRequest()) != string(first.GetRequest()) {
			t.Errorf("sent %v, then %v", first, again)
		}
		if len(m.GetSessions()) != 1 || string(m.GetSessions()[0].GetId()) != sessionOne {
			t.Errorf("sessions %v", m.GetSessions())
		}
		s.value(again, 1)
		if r := <-got; r != (result{1, nil}) {
			t.Errorf("got %v", r)
		}
		if st := c.Stats(); st.Retries != 1 || st.Connects != 2 {
			t.Errorf("%+v", st)
		}
		end(c, s)
	})
}

func TestExpiredSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{})
		// A first attempt was not applied: it goes under a new session.
		got := add(c, t.Context())
		s.refuse(s.operation(sessionOne), expired)
		o := s.operation(sessionTwo)
		if o.GetNumber() != 1 || o.GetSettled() != 0 {
			t.Errorf("got %v", o)
		}
		s.value(o, 5)
		if r := <-got; r != (result{5, nil}) {
			t.Errorf("got %v", r)
		}
		// Of a repeat nobody knows.
		got = add(c, t.Context())
		s.operation(sessionTwo)
		s.Close()
		s = <-g.streams
		s.refuse(s.operation(sessionTwo), expired)
		if r := <-got; !errors.Is(r.err, failure.OutcomeUnknown) {
			t.Errorf("got %v", r)
		}
		end(c, s)
	})
}

func TestRefusalsAreTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		got := add(c, ctx)
		o := s.operation(sessionOne)
		if o.GetTimeoutMs() == 0 || o.GetTimeoutMs() > 1000 {
			t.Errorf("a timeout of %d ms", o.GetTimeoutMs())
		}
		s.refuse(o, overloaded)
		again := s.operation(sessionOne)
		if again.GetNumber() != o.GetNumber() || time.Since(began) < 200*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), again)
		}
		s.value(again, 1)
		if r := <-got; r.err != nil {
			t.Error(r.err)
		}
		// Where the next attempt would come too late, the refusal is the answer.
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		got = add(c, short)
		s.refuse(s.operation(sessionOne), overloaded)
		if r := <-got; !errors.Is(r.err, failure.Overloaded) || failure.OutcomeOf(r.err) != failure.NotDone {
			t.Errorf("got %v", r)
		}
		// A refusal of the kind is final.
		got = add(c, t.Context())
		s.refuse(s.operation(sessionOne), limited)
		if r := <-got; !errors.Is(r.err, failure.Limit) {
			t.Errorf("got %v", r)
		}
		end(c, s)
	})
}

// TestRefusalOfARepeatPromisesNothing: the first attempt perhaps happened.
func TestRefusalOfARepeatPromisesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{})
		for _, tt := range []struct {
			refusal *quernv1.StreamError
			want    failure.Reason
		}{{overloaded, failure.OutcomeUnknown}, {limited, failure.Limit}} {
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			got := add(c, ctx)
			s.operation(sessionOne)
			s.Close()
			s = <-g.streams
			s.refuse(s.operation(sessionOne), tt.refusal)
			if r := <-got; !errors.Is(r.err, tt.want) {
				t.Errorf("got %v, want %v", r, tt.want)
			}
			cancel()
		}
		end(c, s)
	})
}

// TestGivenUpIsSettled once its answer has come, and not before.
func TestGivenUpIsSettled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		got := add(c, ctx)
		left := s.operation(sessionOne)
		cancel()
		if r := <-got; !errors.Is(r.err, failure.Canceled) || !errors.Is(r.err, context.Canceled) || failure.OutcomeOf(r.err) != failure.Unknown {
			t.Errorf("got %v", r)
		}
		second := add(c, t.Context())
		o := s.operation(sessionOne)
		if o.GetNumber() != 2 || o.GetSettled() != 0 {
			t.Errorf("got %v", o)
		}
		s.value(left, 1)
		s.value(o, 2)
		<-second
		third := add(c, t.Context())
		if o = s.operation(sessionOne); o.GetNumber() != 3 || o.GetSettled() != 2 {
			t.Errorf("got %v", o)
		}
		s.value(o, 3)
		<-third
		end(c, s)
	})
}

func TestWindowOfTheNode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		g.window = 2
		c, s := g.dial(client.Options{})
		var got []<-chan result
		for range 5 {
			got = append(got, add(c, t.Context()))
		}
		s.grant(s.next(), sessionOne)
		under := s.next().GetOperations()
		for n := 0; len(under) > 0; n++ {
			synctest.Wait()
			if len(under) > 2 || len(s.in) > 0 {
				t.Fatalf("%d operations at once", len(under))
			}
			s.value(under[0], int64(n))
			if under = under[1:]; n < 3 {
				under = append(under, s.next().GetOperations()...)
			}
		}
		for _, r := range got {
			if g := <-r; g.err != nil {
				t.Error(g.err)
			}
		}
		end(c, s)
	})
}

func TestSilentNodeIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{})
		began := time.Now()
		got := add(c, t.Context())
		s.grant(s.next(), sessionOne)
		s = <-g.streams // the first one said nothing more
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		s.value(s.operation(sessionOne), 1)
		if r := <-got; r.err != nil {
			t.Error(r.err)
		}
		end(c, s)
	})
}

func TestNodeThatTalksNonsense(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{})
		got := add(c, t.Context())
		s.operation(sessionOne)
		for _, b := range [][]byte{
			{0xff},
			{0x22, 0x02, 0x08, 0x63},       // an answer to operation 99
			{0x12, 0x03, 0x08, 0xff, 0x7f}, // an origin of shard 16383
		} {
			s.out <- b
			s = <-g.streams
		}
		s.value(s.operation(sessionOne), 1)
		if r := <-got; r.err != nil {
			t.Error(r.err)
		}
		end(c, s)
	})
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		var mu sync.Mutex
		var nodes []string
		c, s := g.dial(client.Options{Hooks: client.Hooks{Connected: func(node string) {
			mu.Lock()
			defer mu.Unlock()
			nodes = append(nodes, node)
		}}})
		g.fail(errRefused)
		s.Close()
		synctest.Wait()
		// Without a deadline, as long as the patience lasts.
		began := time.Now()
		r := <-add(c, t.Context())
		if !errors.Is(r.err, failure.Unreachable) || !errors.Is(r.err, client.ErrUnreachable) || !errors.Is(r.err, errRefused) {
			t.Errorf("got %v", r)
		}
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("it took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r := <-add(c, ctx); failure.OutcomeOf(r.err) == failure.NotDone && !errors.Is(r.err, failure.Unreachable) {
			t.Errorf("got %v", r)
		}
		g.fail(nil)
		got := add(c, t.Context())
		s = <-g.streams
		s.value(s.operation(sessionOne), 1)
		if r := <-got; r.err != nil {
			t.Error(r.err)
		}
		mu.Lock()
		if len(nodes) != 2 || nodes[1] != "n" {
			t.Errorf("connected to %v", nodes)
		}
		mu.Unlock()
		end(c, s)
	})
}

func TestNoPatience(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{Patience: -1})
		g.fail(errRefused)
		s.Close()
		synctest.Wait()
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // in a bubble
		began := time.Now()
		if r := <-add(c, t.Context()); !errors.Is(r.err, failure.Unreachable) || time.Since(began) > 0 {
			t.Errorf("after %v: %v", time.Since(began), r)
		}
		_ = c.Close()
	})
}

func TestOversizedOperation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		keys := make([]string, 1000)
		for i := range keys {
			keys[i] = "key-of-some-length"
		}
		got := make(chan error, 1)
		go func() {
			_, err := handles.AddMany(t.Context(), c, keys, nil)
			got <- err
		}()
		s.grant(s.next(), sessionOne)
		if err := <-got; !errors.Is(err, failure.Limit) {
			t.Errorf("got %v", err)
		}
		// The stream goes on.
		next := add(c, t.Context())
		s.value(s.operation(sessionOne), 1)
		if r := <-next; r.err != nil {
			t.Error(r.err)
		}
		end(c, s)
	})
}

func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{})
		flying := add(c, t.Context())
		s.operation(sessionOne)
		delayed := add(c, t.Context())
		s.refuse(s.operation(sessionOne), overloaded)
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- c.Close() }()
		m := s.next()
		if len(m.GetSessions()) != 1 || !m.GetSessions()[0].GetClose() || string(m.GetSessions()[0].GetId()) != sessionOne {
			t.Errorf("got %v", m)
		}
		if r := <-flying; failure.OutcomeOf(r.err) != failure.Unknown {
			t.Errorf("flying: %v", r)
		}
		if r := <-delayed; r.err == nil {
			t.Error("delayed: answered")
		}
		// The node never answers: Close ends all the same.
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if r := <-add(c, t.Context()); r.err == nil {
			t.Error("answered after Close")
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestBatchIsOneFrame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		got := add(c, t.Context())
		s.value(s.operation(sessionOne), 1)
		<-got
		ops := make([]*handles.Operation, 20)
		for i := range ops {
			ops[i] = &handles.Operation{
				Method: handles.CounterAdd, Key: "k",
				Request: &quernv1.CounterServiceAddRequest{Key: "k"}, Reply: &quernv1.CounterServiceAddResponse{},
			}
		}
		done := make(chan struct{})
		go func() {
			c.InvokeAll(t.Context(), ops)
			done <- struct{}{}
		}()
		m := s.next()
		if len(m.GetOperations()) != 20 {
			t.Fatalf("%d operations", len(m.GetOperations()))
		}
		for i, o := range m.GetOperations() {
			if i == 7 {
				s.refuse(o, limited)
			} else {
				s.value(o, int64(i))
			}
		}
		<-done
		for i, op := range ops {
			if (op.Err != nil) != (i == 7) || i != 7 && (op.Origin.Epoch != 7 || op.Reply.(*quernv1.CounterServiceAddResponse).GetValue() != int64(i)) { //nolint:errcheck,forcetypeassert // made above
				t.Errorf("operation %d: %+v", i, op)
			}
		}
		end(c, s)
	})
}

func TestAnotherCluster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{})
		g.shards = 4
		s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if r := <-add(c, ctx); r.err == nil {
			t.Error("answered")
		}
		_ = c.Close()
	})
}

// TestTwoConnections share the sessions; what one had when it broke goes to the
// other.
func TestTwoConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, one := g.dial(client.Options{Connections: 2})
		two := <-g.streams
		first := add(c, t.Context())
		s, other := one, two
		var o *quernv1.StreamOperation
		for o == nil {
			var m *quernv1.GrainServiceStreamRequest
			select {
			case m = <-one.in:
				s, other = one, two
			case m = <-two.in:
				s, other = two, one
			}
			s.grant(m, sessionOne)
			if len(m.GetOperations()) > 0 {
				o = m.GetOperations()[0]
			}
		}
		g.fail(errRefused) // it does not come back
		s.Close()
		m := other.next()
		again := m.GetOperations()[0]
		if again.GetNumber() != o.GetNumber() || len(m.GetSessions()) != 1 || string(m.GetSessions()[0].GetId()) != sessionOne {
			t.Errorf("sent %v, then %v", o, m)
		}
		other.value(again, 1)
		if r := <-first; r != (result{1, nil}) {
			t.Errorf("got %v", r)
		}
		for want := int64(2); want < 5; want++ {
			got := add(c, t.Context())
			other.value(other.operation(sessionOne), want)
			if r := <-got; r != (result{want, nil}) {
				t.Errorf("got %v", r)
			}
		}
		g.fail(nil)
		end(c, other)
	})
}

// TestQueuedCallsGetNumbersOfTheNewSession: what waited for room when its
// session was replaced must not go out under the former numbers.
func TestQueuedCallsGetNumbersOfTheNewSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		g.window = 2
		c, s := g.dial(client.Options{})
		var got []<-chan result
		for range 7 {
			got = append(got, add(c, t.Context()))
			synctest.Wait()
		}
		s.grant(s.next(), sessionOne)
		session, numbers := sessionOne, map[uint64]bool{}
		for answered := 0; answered < 12; {
			if answered >= 7 { // those that come later continue the numbers
				got = append(got, add(c, t.Context()))
			}
			m := s.next()
			for _, named := range m.GetSessions() {
				session = string(named.GetId())
			}
			s.grant(m, sessionTwo)
			for _, o := range m.GetOperations() {
				if session != sessionTwo {
					s.refuse(o, expired)
					continue
				}
				if numbers[o.GetNumber()] {
					t.Errorf("number %d comes twice", o.GetNumber())
				}
				numbers[o.GetNumber()] = true
				answered++
				s.value(o, int64(answered))
			}
		}
		for _, r := range got {
			if g := <-r; g.err != nil {
				t.Error(g.err)
			}
		}
		for n := range uint64(12) {
			if !numbers[n+1] {
				t.Errorf("number %d was left out: %v", n+1, numbers)
			}
		}
		end(c, s)
	})
}

// TestStreamThatIsAlwaysBroken ends with the caller's patience.
func TestStreamThatIsAlwaysBroken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newStage(t)
		c, s := g.dial(client.Options{Patience: 3 * time.Second})
		began := time.Now()
		got := add(c, t.Context())
		streams := 0
		for {
			select {
			case m := <-s.in:
				if len(m.GetOperations()) > 0 {
					s.Close()
				} else {
					s.grant(m, sessionOne)
				}
				continue
			case s = <-g.streams:
				streams++
				continue
			case r := <-got:
				if !errors.Is(r.err, failure.OutcomeUnknown) || time.Since(began) > 5*time.Second {
					t.Errorf("after %v: %v", time.Since(began), r)
				}
			}
			break
		}
		if streams > 20 {
			t.Errorf("%d streams in %v", streams, time.Since(began))
		}
		_ = c.Close()
	})
}

// TestSessionsAreAskedForWithPauses, however many calls want one.
func TestSessionsAreAskedForWithPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, s := newStage(t).dial(client.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		asked := 0
		go func() {
			for m := range s.in {
				for range m.GetOpenSessions() {
					asked++
					s.say(&quernv1.GrainServiceStreamResponse{Sessions: []*quernv1.StreamSession{{Error: overloaded}}})
				}
				if s.ctx.Err() != nil {
					return
				}
			}
		}()
		for ctx.Err() == nil {
			one, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
			<-add(c, one)
			cancel()
		}
		if asked > 12 { // a refusal asks for 200 ms
			t.Errorf("asked %d times in 2 s", asked)
		}
		_ = c.Close()
		s.in <- &quernv1.GrainServiceStreamRequest{}
	})
}
