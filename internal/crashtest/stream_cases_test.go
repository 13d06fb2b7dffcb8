package crashtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/faultstream"
	"github.com/quern-io/quern/server"
)

// withholding keeps answers back: what is asked for happens, and nobody hears.
type withholding struct {
	server.Backend

	keeper *keeper
}

type keeper struct {
	mu   sync.Mutex // guards what follows
	hold bool
	kept []func()
}

func (k *keeper) set(hold bool) {
	k.mu.Lock()
	kept := k.kept
	k.hold, k.kept = hold, nil
	k.mu.Unlock()
	for _, answer := range kept {
		answer()
	}
}

func (w withholding) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	w.Backend.Submit(op, deadline, withheld{w.keeper, done})
}

type withheld struct {
	keeper *keeper
	done   handles.Completer
}

func (w withheld) Completed(epoch uint64, err error) {
	w.keeper.mu.Lock()
	hold := w.keeper.hold
	if hold {
		w.keeper.kept = append(w.keeper.kept, func() { w.done.Completed(epoch, err) })
	}
	w.keeper.mu.Unlock()
	if !hold {
		w.done.Completed(epoch, err)
	}
}

// scene is a node, a calm network and one client.
type scene struct {
	*world

	keeper *keeper
	client *client.Client
}

// newScene begins one; disk is nil for the memory store.
func newScene(t *testing.T, disk *vfs.MemFS) *scene {
	t.Helper()
	s := &scene{keeper: new(keeper)}
	s.world = &world{
		t: t, rand: rand.New(rand.NewPCG(0, 0)), net: faultstream.New(0, faultstream.Faults{Within: 1}), disk: disk,
		answers: newFirstAnswers(), ledger: newLedger(),
	}
	s.breaks.backend = func(b server.Backend) server.Backend { return withholding{b, s.keeper} }
	s.net.Calm()
	s.start()
	s.client = s.dial()
	return s
}

func (s *scene) end() {
	_ = s.client.Close()
	s.net.Close()
	s.node.stop(s.t)
}

func (s *scene) add(want int64) {
	s.t.Helper()
	if got, err := s.client.Counter("k").Add(s.t.Context(), 1); err != nil || got != want {
		s.t.Errorf("got %d, %v; want %d", got, err, want)
	}
}

func (s *scene) value(want int64) {
	s.t.Helper()
	if got, err := s.client.Counter("k").Get(s.t.Context()); err != nil || got != want {
		s.t.Errorf("the counter is %d, %v; want %d", got, err, want)
	}
}

// loseReply begins an add, which is carried out, and loses its answer together
// with the stream. Then meanwhile runs, and the client comes back.
func (s *scene) loseReply(meanwhile func()) (int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
	defer cancel()
	s.keeper.set(true)
	var (
		value int64
		err   error
		ended = make(chan struct{})
	)
	go func() {
		defer close(ended)
		value, err = s.client.Counter("k").Add(ctx, 1)
	}()
	pauseFor(time.Second)
	s.net.Serve(nil)
	s.keeper.set(false)
	pauseFor(time.Second)
	meanwhile()
	s.net.Serve(s.node.server.ServeStream)
	<-ended
	return value, err
}

// forgetAll lets the node forget every session.
func (s *scene) forgetAll() {
	for _, known := range s.net.Sessions() {
		s.node.runtime.CloseSession(known.Shard, known.ID, func(uint64, error) {})
	}
	pauseFor(time.Second)
}

// TestLostReply: the repeat gets the first answer, also from a node that was
// restarted, by force or in order.
func TestLostReply(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(*scene){
		"the stream broke":       func(*scene) {},
		"the power was cut":      func(s *scene) { s.crash(); s.start() },
		"the node was restarted": func(s *scene) { s.stop(); s.start() },
		"an hour less a bit":     func(*scene) { pauseFor(59 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, vfs.NewCrashableMem())
				s.add(1)
				if got, err := s.loseReply(func() { meanwhile(s) }); got != 2 || err != nil {
					t.Errorf("the repeat got %d, %v; want the first answer, 2", got, err)
				}
				if s.answers.repeats == 0 {
					t.Error("the test shows nothing: no number came again")
				}
				s.value(2)
				s.add(3)
				s.end()
			})
		})
	}
}

// TestLostSession: of a repeat under a session that is gone nobody knows, and it
// does not count again; a first attempt goes under another session, unnoticed.
func TestLostSession(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*scene){
		"closed":  (*scene).forgetAll,
		"expired": func(*scene) { pauseFor(2 * time.Hour) },
		"expired while the node was down": func(s *scene) {
			s.stop()
			pauseFor(2 * time.Hour)
			s.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, vfs.NewCrashableMem())
				s.add(1)
				if got, err := s.loseReply(func() { lose(s) }); !errors.Is(err, failure.OutcomeUnknown) {
					t.Errorf("the repeat got %d, %v; want OUTCOME_UNKNOWN", got, err)
				}
				s.value(2)
				s.add(3)
				lose(s)
				s.add(4)
				s.value(4)
				s.end()
			})
		})
	}
}

// TestRestartOnMemory: a node that forgets everything forgets the sessions too:
// a repeat is of unknown outcome and not applied.
func TestRestartOnMemory(t *testing.T) {
	t.Parallel()
	for name, restart := range map[string]func(*scene){
		"by force": func(s *scene) { s.net.Serve(nil); s.node.stop(s.t); s.start() },
		"in order": func(s *scene) { s.stop(); s.start() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newScene(t, nil)
				s.add(1)
				if got, err := s.loseReply(func() { restart(s) }); !errors.Is(err, failure.OutcomeUnknown) {
					t.Errorf("the repeat got %d, %v; want OUTCOME_UNKNOWN", got, err)
				}
				s.value(0)
				s.add(1)
				s.end()
			})
		})
	}
}
