package grains_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	storev1 "github.com/quern-io/quern/messages/quern/store/v1"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func acquireBy(owner string, ttl, wait time.Duration) *quernv1.LockServiceAcquireRequest {
	return &quernv1.LockServiceAcquireRequest{Key: "k", Owner: owner, Ttl: seconds(ttl), Wait: seconds(wait)}
}

func TestLockRefusesFieldsByName(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 129)
	broken := "a\xff"
	for _, tt := range []struct {
		name    string
		command proto.Message
		reply   proto.Message
		says    string
		reason  failure.Reason
	}{
		{"no owner", acquireBy("", time.Second, 0), &quernv1.LockServiceAcquireResponse{}, "owner", failure.InvalidField},
		{"long owner", acquireBy(long, time.Second, 0), &quernv1.LockServiceAcquireResponse{}, "owner", failure.InvalidField},
		{"broken owner", acquireBy(broken, time.Second, 0), &quernv1.LockServiceAcquireResponse{}, "owner", failure.InvalidField},
		{"no ttl", &quernv1.LockServiceAcquireRequest{Owner: "a"}, &quernv1.LockServiceAcquireResponse{}, "ttl", failure.InvalidField},
		{"no release", &quernv1.LockServiceReleaseRequest{}, &quernv1.LockServiceReleaseResponse{}, "token and owner", failure.InvalidField},
		{"long reason", &quernv1.LockServiceForceReleaseRequest{Reason: strings.Repeat("x", 513)}, &quernv1.LockServiceForceReleaseResponse{}, "reason", failure.InvalidField},
		{"token 0", &quernv1.LockServiceRenewRequest{Ttl: seconds(time.Second)}, &quernv1.LockServiceRenewResponse{}, "token 0", failure.NotHolder},
		{"another owner's token", &quernv1.LockServiceReleaseRequest{Token: 1, Owner: "b"}, &quernv1.LockServiceReleaseResponse{}, "token 1", failure.NotHolder},
		{"no method", &quernv1.CounterServiceGetRequest{}, &quernv1.CounterServiceGetResponse{}, "no method", failure.UnknownMethod},
		{"another's reply", &quernv1.LockServiceGetRequest{}, &quernv1.LockServiceRenewResponse{}, "no reply", failure.UnknownMethod},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newLockSim(t)
			if err := s.call(acquireBy("a", time.Second, 0), &quernv1.LockServiceAcquireResponse{}); err != nil {
				t.Fatal(err)
			}
			if err := s.call(tt.command, tt.reply); !errors.Is(err, tt.reason) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %v of %s", err, tt.reason, tt.says)
			}
		})
	}
}

// fill lets n owners wait behind one that holds the lock for a day, past the
// checks of the simulation, which look at the whole record.
func fill(tb testing.TB, n int) *lockSim {
	tb.Helper()
	s := newLockSim(tb)
	for i := range n + 1 {
		wait := time.Duration(i) * time.Second
		_, err := s.lock.Apply(s.turn(false), acquireBy(fmt.Sprintf("owner-%06d", i), 24*time.Hour, min(wait, 24*time.Hour)), &quernv1.LockServiceAcquireResponse{})
		if (i > 0) != errors.As(err, new(*actors.Parked)) {
			tb.Fatalf("owner %d: %v", i, err)
		}
	}
	return s
}

func TestLockBoundsItsQueue(t *testing.T) {
	t.Parallel()
	s := fill(t, grains.MaxLockWaiters)
	a := &quernv1.LockServiceAcquireResponse{}
	var e *failure.Error
	_, err := s.lock.Apply(s.turn(false), acquireBy("late", time.Minute, time.Minute), a)
	if !errors.As(err, &e) || e.Reason != failure.Overloaded || e.RetryAfter == 0 {
		t.Errorf("one waiter too many: %v", err)
	}
	// Who waits already is not one too many.
	if _, err := s.lock.Apply(s.turn(false), acquireBy("owner-000007", 24*time.Hour, time.Minute), a); !errors.As(err, new(*actors.Parked)) {
		t.Errorf("a waiter that asks again: %v", err)
	}
	info := &quernv1.LockServiceGetResponse{}
	if _, err := s.lock.Apply(s.turn(false), &quernv1.LockServiceGetRequest{}, info); err != nil ||
		info.GetWaiters() != grains.MaxLockWaiters || len(info.GetQueue()) != 1000 {
		t.Errorf("get: %d wait, %d listed, %v", info.GetWaiters(), len(info.GetQueue()), err)
	}
	s.reload()
	if s.lock.Due() == 0 {
		t.Error("a long queue comes back without a due time")
	}
}

// TestLockBoundsItsRecord: a commit takes only so much, whatever owners are
// called.
func TestLockBoundsItsRecord(t *testing.T) {
	t.Parallel()
	s := newLockSim(t)
	s.token = 1 << 50
	var err error
	n := 0
	for ; err == nil && n < grains.MaxLockHolders; n++ {
		q := acquireBy(fmt.Sprintf("%0128d", n), 24*time.Hour, time.Hour)
		q.Shared = true
		_, err = s.lock.Apply(s.turn(false), q, &quernv1.LockServiceAcquireResponse{})
	}
	if size := len(s.record()); !errors.Is(err, failure.Overloaded) || size < 4<<20 || size > 5<<20 {
		t.Errorf("%d holders in %d bytes, then %v", n, size, err)
	}
}

// TestLockDueTurnKeepsTheTimer holds what the timer table relies on: a renewal
// and a read of a lock that was just read leave the timer where it is, and the
// turn at that time sets it anew.
func TestLockDueTurnKeepsTheTimer(t *testing.T) {
	t.Parallel()
	s := newLockSim(t)
	if err := s.call(acquireBy("a", 10*time.Second, 0), &quernv1.LockServiceAcquireResponse{}); err != nil {
		t.Fatal(err)
	}
	due := s.lock.Due()
	s.now += 9000
	renew := &quernv1.LockServiceRenewRequest{Token: 1, Ttl: seconds(10 * time.Second)}
	if changed, err := s.lock.Apply(s.turn(false), renew, &quernv1.LockServiceRenewResponse{}); changed || err != nil || s.lock.Due() != due {
		t.Errorf("a renewal: %v, %v, due %d", changed, err, s.lock.Due()-now)
	}
	s.reload()
	if s.get(); s.lock.Due() != due {
		t.Errorf("a read after a reload: due %d", s.lock.Due()-now)
	}
	s.now = due
	if changed, err := s.lock.Apply(s.turn(false), nil, nil); !changed || err != nil || s.lock.Due() != now+19_000 {
		t.Errorf("the due turn: %v, %v, due %d", changed, err, s.lock.Due()-now)
	}
}

// TestRefusalsDoNotProlongLeases: refused calls are undone, but not the start of
// the leases after a reload.
func TestRefusalsDoNotProlongLeases(t *testing.T) {
	t.Parallel()
	s := newLockSim(t)
	if err := s.call(acquireBy("a", 10*time.Second, 0), &quernv1.LockServiceAcquireResponse{}); err != nil {
		t.Fatal(err)
	}
	s.reload()
	for range 10 {
		_ = s.call(&quernv1.LockServiceReleaseRequest{Token: 99}, &quernv1.LockServiceReleaseResponse{})
		s.advance(time.Second)
	}
	if a := s.get(); a.GetHeld() {
		t.Errorf("still held: %v", a)
	}
}

// TestLockUndo takes back turns of every sort, as after a panic.
func TestLockUndo(t *testing.T) {
	t.Parallel()
	for _, owners := range []int{2, 5, 12} {
		for name, command := range map[string]proto.Message{
			"acquire": acquireBy("new", time.Minute, time.Minute),
			"again":   acquireBy("o0", time.Minute, time.Minute),
			"stay":    acquireBy("o1", time.Minute, time.Minute),
			"renew":   &quernv1.LockServiceRenewRequest{Token: 1, Ttl: seconds(time.Hour)},
			"release": &quernv1.LockServiceReleaseRequest{Token: 1},
			"leave":   &quernv1.LockServiceReleaseRequest{Owner: "o1"},
			"leave 3": &quernv1.LockServiceReleaseRequest{Owner: "o3"},
			"force":   &quernv1.LockServiceForceReleaseRequest{Reason: "r"},
			"due":     nil,
		} {
			t.Run(fmt.Sprintf("%s of %d", name, owners), func(t *testing.T) {
				t.Parallel()
				s := newLockSim(t)
				for i := range owners {
					_ = s.call(acquireBy(fmt.Sprintf("o%d", i), 10*time.Second, time.Duration(i)*time.Second), &quernv1.LockServiceAcquireResponse{})
				}
				record, due, shown := s.record(), s.lock.Due(), s.String()
				undoer, _ := s.lock.(actors.Undoer)
				undoer.Begin(s.undo)
				if command == nil {
					s.now += 3000
				}
				if _, err := s.lock.Apply(s.turn(false), command, replyTo(command)); err != nil && !errors.As(err, new(*actors.Parked)) && owners > 3 {
					t.Fatal(err)
				}
				undoer.Undo()
				s.now = now
				s.woken = nil
				if !bytes.Equal(record, s.record()) || s.lock.Due() != due || s.String() != shown {
					t.Errorf("due %d, %v; was %d, %v", s.lock.Due(), s, due, shown)
				}
				// The lists hold together, in both directions.
				_ = s.call(acquireBy("late", time.Minute, time.Minute), &quernv1.LockServiceAcquireResponse{})
				_ = s.call(&quernv1.LockServiceReleaseRequest{Owner: "o4"}, &quernv1.LockServiceReleaseResponse{})
				if want := strings.Replace(strings.TrimSuffix(shown, "]")+", late]", ", o4", "", 1); s.String() != want {
					t.Errorf("afterwards %v, want %v", s, want)
				}
				s.advance(48 * time.Hour)
				if s.check(); len(s.record()) != 0 || len(s.parked) != 0 {
					t.Errorf("two days later: %v, %d calls wait", s, len(s.parked))
				}
			})
		}
	}
}

func replyTo(command proto.Message) proto.Message {
	switch command.(type) {
	case *quernv1.LockServiceAcquireRequest:
		return &quernv1.LockServiceAcquireResponse{}
	case *quernv1.LockServiceRenewRequest:
		return &quernv1.LockServiceRenewResponse{}
	case *quernv1.LockServiceReleaseRequest:
		return &quernv1.LockServiceReleaseResponse{}
	default:
		return &quernv1.LockServiceForceReleaseResponse{}
	}
}

// TestLockCodecIsTheSchemas holds the hand-written codec to the generated one.
func TestLockCodecIsTheSchemas(t *testing.T) {
	t.Parallel()
	for _, state := range []*storev1.LockState{
		{},
		{Permits: 1, DueAtMs: 5, Holders: []*storev1.LockHolderState{{Owner: "a", TtlMs: 1, Token: 1}}},
		{
			Permits: 3, DueAtMs: math.MaxInt64,
			Holders: []*storev1.LockHolderState{{Owner: "a", TtlMs: 300, Token: 1 << 40, Shared: true}, {Owner: "b", TtlMs: 86_400_000, Token: math.MaxUint64, Shared: true, Unconfirmed: true}},
			Queue:   []*storev1.LockWaiterState{{Owner: strings.Repeat("x", 128), TtlMs: 1}, {Owner: "d", TtlMs: 1000, Shared: true}},
		},
	} {
		record, err := proto.MarshalOptions{Deterministic: true}.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		l := grains.Lock{}.New()
		if err := l.Decode(record); err != nil {
			t.Fatalf("%v: %v", state, err)
		}
		if got, err := l.Append(nil); err != nil || !bytes.Equal(got, record) {
			t.Errorf("%v: got %x, %v; want %x", state, got, err, record)
		}
		copied := grains.Lock{}.New()
		copied.Assign(l)
		if got, err := copied.Append(nil); err != nil || !bytes.Equal(got, record) || copied.Due() != l.Due() {
			t.Errorf("assigned: got %x, %v; want %x", got, err, record)
		}
	}
}

func TestUnsoundLockRecords(t *testing.T) {
	t.Parallel()
	a, b := &storev1.LockHolderState{Owner: "a", TtlMs: 1, Token: 1}, &storev1.LockHolderState{Owner: "b", TtlMs: 1, Token: 2}
	w := &storev1.LockWaiterState{Owner: "w", TtlMs: 1}
	for name, state := range map[string]*storev1.LockState{
		"no permits":          {DueAtMs: 1, Holders: []*storev1.LockHolderState{a}},
		"no due time":         {Permits: 1, Holders: []*storev1.LockHolderState{a}},
		"too many holders":    {Permits: 1, DueAtMs: 1, Holders: []*storev1.LockHolderState{a, b}},
		"tokens out of order": {Permits: 2, DueAtMs: 1, Holders: []*storev1.LockHolderState{b, a}},
		"one owner twice":     {Permits: 1, DueAtMs: 1, Holders: []*storev1.LockHolderState{a}, Queue: []*storev1.LockWaiterState{{Owner: "a", TtlMs: 1}}},
		"waiters twice":       {Permits: 1, DueAtMs: 1, Holders: []*storev1.LockHolderState{a}, Queue: []*storev1.LockWaiterState{w, w}},
		"nobody holds it":     {Permits: 1, DueAtMs: 1, Queue: []*storev1.LockWaiterState{w}},
		"no ttl":              {Permits: 1, DueAtMs: 1, Holders: []*storev1.LockHolderState{{Owner: "a", Token: 1}}},
		"no token":            {Permits: 1, DueAtMs: 1, Holders: []*storev1.LockHolderState{{Owner: "a", TtlMs: 1}}},
		"no owner":            {Permits: 1, DueAtMs: 1, Holders: []*storev1.LockHolderState{{TtlMs: 1, Token: 1}}},
		"only permits":        {Permits: 1},
	} {
		record, err := proto.Marshal(state)
		if err != nil {
			t.Fatal(err)
		}
		if err := (grains.Lock{}).New().Decode(record); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzLockRecord(f *testing.F) {
	for _, s := range []*storev1.LockState{
		{},
		{Permits: 2, DueAtMs: 7, Holders: []*storev1.LockHolderState{{Owner: "a", TtlMs: 300, Token: 9, Unconfirmed: true}}},
		{
			Permits: 1, DueAtMs: 7, Holders: []*storev1.LockHolderState{{Owner: "a", TtlMs: 300, Token: 9, Shared: true}},
			Queue: []*storev1.LockWaiterState{{Owner: "b", TtlMs: 5}, {Owner: "c", TtlMs: 5, Shared: true}},
		},
	} {
		record, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(record)
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		s := newLockSim(t)
		if s.lock.Decode(record) != nil {
			return
		}
		var schema storev1.LockState
		if err := proto.Unmarshal(record, &schema); err != nil {
			t.Fatalf("%x was taken, the schema says %v", record, err)
		}
		var own storev1.LockState
		if err := proto.Unmarshal(s.record(), &own); err != nil {
			t.Fatal(err)
		}
		schema.ProtoReflect().SetUnknown(nil)
		for _, h := range schema.GetHolders() {
			h.ProtoReflect().SetUnknown(nil)
		}
		for _, w := range schema.GetQueue() {
			w.ProtoReflect().SetUnknown(nil)
		}
		if !proto.Equal(&schema, &own) {
			t.Fatalf("%x: %v, the schema says %v", record, &own, &schema)
		}
		s.now = 1
		s.advance(time.Duration(max(0, min(s.lock.Due(), 1<<40))) * time.Millisecond)
	})
}

// BenchmarkLock measures the two ends: a lock that nobody contends for, and the
// hand-over in the longest queue.
func BenchmarkLock(b *testing.B) {
	b.Run("acquire and release", func(b *testing.B) {
		s := newLockSim(b)
		undoer, _ := s.lock.(actors.Undoer)
		turn := s.turn(false)
		q, r := acquireBy("a", time.Second, 0), &quernv1.LockServiceReleaseRequest{}
		var a quernv1.LockServiceAcquireResponse
		var e quernv1.LockServiceReleaseResponse
		b.ReportAllocs()
		for b.Loop() {
			undoer.Begin(s.undo)
			if _, err := s.lock.Apply(turn, q, &a); err != nil {
				b.Fatal(err)
			}
			r.Token = a.GetToken()
			undoer.Begin(s.undo)
			if _, err := s.lock.Apply(turn, r, &e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hand-over among 100000", func(b *testing.B) {
		s := fill(b, 99_999)
		undoer, _ := s.lock.(actors.Undoer)
		turn, again := s.turn(false), s.turn(true)
		var a quernv1.LockServiceAcquireResponse
		var e quernv1.LockServiceReleaseResponse
		holder := "owner-000000"
		b.ReportAllocs()
		for b.Loop() {
			undoer.Begin(s.undo)
			if _, err := s.lock.Apply(turn, &quernv1.LockServiceReleaseRequest{Owner: holder}, &e); err != nil {
				b.Fatal(err)
			}
			undoer.Begin(s.undo)
			_, err := s.lock.Apply(turn, acquireBy(holder, time.Hour, time.Hour), &a)
			if !errors.As(err, new(*actors.Parked)) {
				b.Fatal(err)
			}
			holder, s.woken = s.woken[0], s.woken[:0]
			undoer.Begin(s.undo)
			if _, err := s.lock.Apply(again, acquireBy(holder, 24*time.Hour, 0), &a); err != nil || !a.GetHeld() {
				b.Fatal(err)
			}
		}
	})
	b.Run("record of 1000 waiters", func(b *testing.B) {
		s := fill(b, 1000)
		var record []byte
		b.ReportAllocs()
		for b.Loop() {
			var err error
			if record, err = s.lock.Append(record[:0]); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(record)), "bytes")
	})
}
