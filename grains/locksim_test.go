package grains_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// lockSim stands in for the shard: it keeps parked calls, runs the woken ones
// again, and gives the lock its due turns.
type lockSim struct {
	tb    testing.TB
	lock  actors.State
	undo  actors.State
	now   int64
	token uint64
	// parked are the calls that wait, in the order of their parking; woken the
	// names whose calls run next. Calls of deaf owners are woken in vain.
	parked []*quernv1.LockServiceAcquireRequest
	woken  []string
	deaf   map[string]bool
	// said takes the answers of calls that were parked.
	said func(owner string, a *quernv1.LockServiceAcquireResponse, err error)
}

func newLockSim(tb testing.TB) *lockSim {
	tb.Helper()
	return &lockSim{
		tb: tb, lock: grains.Lock{}.New(), undo: grains.Lock{}.New(), now: now, deaf: map[string]bool{},
		said: func(string, *quernv1.LockServiceAcquireResponse, error) {},
	}
}

func (s *lockSim) turn(resumed bool) *actors.Turn {
	return actors.TestTurn{
		Key: "k", Now: s.now, Resumed: resumed,
		Next: func() uint64 { s.token++; return s.token },
		Wake: func(owner string) { s.woken = append(s.woken, owner) },
	}.Turn()
}

func (s *lockSim) record() []byte {
	s.tb.Helper()
	b, err := s.lock.Append(nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	return b
}

// apply runs one turn, and holds it to its word on whether it changed anything.
func (s *lockSim) apply(resumed bool, command, reply proto.Message) error {
	s.tb.Helper()
	before, due := s.record(), s.lock.Due()
	undoer, _ := s.lock.(actors.Undoer)
	undoer.Begin(s.undo)
	changed, err := s.lock.Apply(s.turn(resumed), command, reply)
	var parked *actors.Parked
	if err != nil && !errors.As(err, &parked) {
		undoer.Undo()
		changed = false
	}
	if !changed && (!bytes.Equal(before, s.record()) || s.lock.Due() != due) {
		s.tb.Fatalf("%T changed the record and says it did not", command)
	}
	s.check()
	return err
}

// check holds what the state says of itself to its record.
func (s *lockSim) check() {
	s.tb.Helper()
	b := s.record()
	sizer, _ := s.lock.(actors.Sizer)
	if size := sizer.Size(); len(b) > 2*size || size > 2*len(b)+64 {
		s.tb.Fatalf("size %d of a record of %d bytes", size, len(b))
	}
	pinner, _ := s.lock.(actors.Pinner)
	if empty := len(b) == 0; pinner.Pinned() == empty || (s.lock.Due() == 0) != empty {
		s.tb.Fatalf("a record of %d bytes, due %d, pinned %v", len(b), s.lock.Due(), pinner.Pinned())
	}
}

// call is a caller's: it runs what is due first, and whoever is woken after.
func (s *lockSim) call(command, reply proto.Message) error {
	s.tb.Helper()
	s.due()
	err := s.apply(false, command, reply)
	if parked, waits := errors.AsType[*actors.Parked](err); waits {
		q, ok := command.(*quernv1.LockServiceAcquireRequest)
		if !ok || parked.Waiter != q.GetOwner() {
			s.tb.Fatalf("%v parks under %q", command, parked.Waiter)
		}
		s.parked = append(s.parked, q)
	}
	s.resume()
	return err
}

func (s *lockSim) due() {
	s.tb.Helper()
	if at := s.lock.Due(); at == 0 || at > s.now {
		return
	}
	if err := s.apply(false, nil, nil); err != nil {
		s.tb.Fatal(err)
	}
	if at := s.lock.Due(); at != 0 && at <= s.now {
		s.tb.Fatalf("due at %d after the due turn of %d", at, s.now)
	}
	s.resume()
}

// resume runs the calls that were woken, until nobody is.
func (s *lockSim) resume() {
	s.tb.Helper()
	for len(s.woken) > 0 {
		owner := s.woken[0]
		s.woken = s.woken[1:]
		if s.deaf[owner] {
			continue
		}
		for _, q := range s.take(owner) {
			a := &quernv1.LockServiceAcquireResponse{}
			err := s.apply(true, q, a)
			if errors.As(err, new(*actors.Parked)) {
				s.parked = append(s.parked, q)
				continue
			}
			s.said(owner, a, err)
		}
	}
}

// take removes and returns the parked calls of an owner.
func (s *lockSim) take(owner string) (taken []*quernv1.LockServiceAcquireRequest) {
	s.parked = slices.DeleteFunc(s.parked, func(q *quernv1.LockServiceAcquireRequest) bool {
		if q.GetOwner() != owner {
			return false
		}
		taken = append(taken, q)
		return true
	})
	return taken
}

// advance lets time pass, with a due turn whenever one is wanted.
func (s *lockSim) advance(d time.Duration) {
	s.tb.Helper()
	until := s.now + d.Milliseconds()
	for at := s.lock.Due(); at != 0 && at <= until; at = s.lock.Due() {
		s.now = max(s.now, at)
		s.due()
	}
	s.now = until
}

// cancel is a caller that goes away.
func (s *lockSim) cancel(owner string) (changed bool) {
	s.tb.Helper()
	calls := s.take(owner)
	if len(calls) == 0 {
		return false
	}
	undoer, _ := s.lock.(actors.Undoer)
	undoer.Begin(s.undo)
	canceler, _ := s.lock.(actors.Canceler)
	changed = canceler.Cancel(s.turn(false), calls[0])
	s.check()
	s.resume()
	return changed
}

// reload is a crash, or a move: the record is all that is left.
func (s *lockSim) reload() {
	s.tb.Helper()
	due := s.lock.Due()
	next := grains.Lock{}.New()
	if err := next.Decode(s.record()); err != nil {
		s.tb.Fatal(err)
	}
	s.lock, s.undo, s.parked, s.woken = next, grains.Lock{}.New(), nil, nil
	if s.lock.Due() != due {
		s.tb.Fatalf("due %d, the timer table says %d", s.lock.Due(), due)
	}
}

func (s *lockSim) get() *quernv1.LockServiceGetResponse {
	s.tb.Helper()
	a := &quernv1.LockServiceGetResponse{}
	if err := s.call(&quernv1.LockServiceGetRequest{Key: "k"}, a); err != nil {
		s.tb.Fatal(err)
	}
	return a
}

// String shows who holds the lock and who waits.
func (s *lockSim) String() string {
	a := s.get()
	var b strings.Builder
	b.WriteString("  [")
	for i, h := range a.GetHolders() {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s#%d %v", h.GetOwner(), h.GetToken(), h.GetTtl().AsDuration())
		if h.GetShared() {
			b.WriteString(" shared")
		}
		if h.GetUnconfirmed() {
			b.WriteString(" unconfirmed")
		}
	}
	for i, w := range a.GetQueue() {
		b.WriteString(map[bool]string{true: " | ", false: ", "}[i == 0] + w.GetOwner())
		if w.GetShared() {
			b.WriteString(" shared")
		}
		if w.GetAway() {
			b.WriteString(" away")
		}
	}
	return b.String() + "]"
}

// told is an answer for people.
func told(err error, format string, args ...any) string {
	var e *failure.Error
	switch {
	case errors.As(err, new(*actors.Parked)):
		return "waits"
	case errors.As(err, &e):
		return e.Reason.String() + ": " + e.Message
	case err != nil:
		return err.Error()
	default:
		return fmt.Sprintf(format, args...)
	}
}

func toldAcquire(a *quernv1.LockServiceAcquireResponse, err error) string {
	if !a.GetHeld() {
		return told(err, "not held, %d wait", a.GetWaiters())
	}
	return told(err, "held, token %d, ttl %v, %d wait", a.GetToken(), a.GetTtl().AsDuration(), a.GetWaiters())
}

func seconds(d time.Duration) *durationpb.Duration { return durationpb.New(d) }
