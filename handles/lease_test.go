package handles_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

const leaseTTL = 10 * time.Second

// lockScript answers a lock's calls as the test says.
type lockScript struct {
	acquire func(ctx context.Context, q *quernv1.LockServiceAcquireRequest, a *quernv1.LockServiceAcquireResponse) error
	renew   func(ctx context.Context) error
	release func(q *quernv1.LockServiceReleaseRequest) error

	mu       sync.Mutex
	tried    []time.Time
	received []*quernv1.LockServiceReleaseRequest
}

// renewals are the times of the tries so far.
func (s *lockScript) renewals() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tried
}

// released are the releases so far.
func (s *lockScript) released() []*quernv1.LockServiceReleaseRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received
}

func (s *lockScript) Invoke(ctx context.Context, op *handles.Operation) error {
	switch q := op.Request.(type) {
	case *quernv1.LockServiceAcquireRequest:
		a, _ := op.Reply.(*quernv1.LockServiceAcquireResponse)
		if s.acquire != nil {
			return s.acquire(ctx, q, a)
		}
		a.Held, a.Token, a.Ttl = true, 7, q.GetTtl()
		return nil
	case *quernv1.LockServiceRenewRequest:
		s.mu.Lock()
		s.tried = append(s.tried, time.Now())
		s.mu.Unlock()
		return s.renew(ctx)
	case *quernv1.LockServiceReleaseRequest:
		s.mu.Lock()
		s.received = append(s.received, &quernv1.LockServiceReleaseRequest{Token: q.GetToken(), Owner: q.GetOwner()})
		s.mu.Unlock()
		if s.release != nil {
			return s.release(q)
		}
		return nil
	default:
		return failure.New(failure.UnknownMethod, "%T", q)
	}
}

// hold acquires the lock of a script.
func (s *lockScript) hold(t *testing.T) *handles.Lease {
	t.Helper()
	l, err := handles.NewLock(s, "k").Acquire(t.Context(), handles.LockOptions{TTL: leaseTTL})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// hang loses the answer, as a network does.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err() //nolint:wrapcheck // as an Invoker may
}

// lostAfter waits for the loss and returns when that was. It fails where the
// lease lasts for an hour.
func lostAfter(t *testing.T, l *handles.Lease, began time.Time) time.Duration {
	t.Helper()
	hour := time.NewTimer(time.Hour)
	defer hour.Stop()
	select {
	case <-l.Lost():
		return time.Since(began)
	case <-hour.C:
		t.Error("not lost in an hour")
		return 0
	}
}

func TestLeaseIsRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &lockScript{renew: func(context.Context) error { return nil }}
		began := time.Now()
		l := s.hold(t)
		time.Sleep(10 * leaseTTL) //nolint:forbidigo // in a bubble
		select {
		case <-l.Lost():
			t.Fatalf("lost after %v: %v", time.Since(began), l.Err())
		default:
		}
		if n := len(s.renewals()); n < 30 || n > 34 {
			t.Errorf("%d renewals in ten ttls", n)
		}
		before := began
		for _, at := range s.renewals() {
			if d := at.Sub(before); d > leaseTTL/3 || d < leaseTTL*3/10-time.Millisecond {
				t.Errorf("a renewal after %v", d)
			}
			before = at
		}
		if err := l.Release(t.Context()); err != nil || l.Err() != nil {
			t.Error(err, l.Err())
		}
		<-l.Lost()
		if err := l.Release(t.Context()); err != nil || len(s.released()) != 1 || s.released()[0].GetToken() != 7 {
			t.Errorf("again: %v; %v", err, s.released())
		}
	}) // the bubble ends when all its goroutines have
}

func TestLeaseIsLostBeforeItsEnd(t *testing.T) {
	t.Parallel()
	const trusted = leaseTTL - 500*time.Millisecond
	notHolder := failure.New(failure.NotHolder, "gone")
	for _, tt := range []struct {
		name string
		// renew is the n-th attempt, from 1 on.
		renew func(ctx context.Context, n int) error
		// lost is how long after the start of which attempt, 0 for Acquire.
		after  int
		lost   time.Duration
		reason failure.Reason
	}{
		{"no answer ever", func(ctx context.Context, _ int) error { return hang(ctx) }, 0, trusted, failure.OutcomeUnknown},
		{"refused for ever", func(context.Context, int) error {
			return failure.New(failure.NotOwner, "moved").After(100 * time.Millisecond)
		}, 0, trusted, failure.NotOwner},
		{"answers end", func(ctx context.Context, n int) error {
			if n <= 3 {
				return nil
			}
			return hang(ctx)
		}, 3, trusted, failure.OutcomeUnknown},
		{"slow answers count from the start of their try", func(ctx context.Context, n int) error {
			if n <= 3 {
				time.Sleep(3 * time.Second) //nolint:forbidigo // in a bubble
				return nil
			}
			return hang(ctx)
		}, 3, trusted, failure.OutcomeUnknown},
		{"not the holder", func(_ context.Context, n int) error {
			if n == 2 {
				return notHolder
			}
			return nil
		}, 2, 0, failure.NotHolder},
		{"an Invoker that ignores its context", func(context.Context, int) error {
			time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
			return nil
		}, 0, trusted, failure.OutcomeUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := 0
				s := &lockScript{}
				s.renew = func(ctx context.Context) error {
					n++
					return tt.renew(ctx, n)
				}
				began := time.Now()
				l := s.hold(t)
				lost := lostAfter(t, l, began)
				if tt.after > 0 {
					lost -= s.renewals()[tt.after-1].Sub(began)
				}
				if lost != tt.lost || !errors.Is(l.Err(), tt.reason) {
					t.Errorf("lost after %v, want %v: %v", lost, tt.lost, l.Err())
				}
				if err := l.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestLeaseOutlivesFailuresThatEnd(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(context.Context) error{
		"lost answers": hang,
		"refusals":     func(context.Context) error { return failure.New(failure.Overloaded, "full").After(time.Second) },
		"unknown":      func(context.Context) error { return failure.New(failure.OutcomeUnknown, "perhaps") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &lockScript{}
				s.renew = func(ctx context.Context) error {
					if len(s.renewals())%2 == 1 {
						return fail(ctx)
					}
					return nil
				}
				l := s.hold(t)
				time.Sleep(20 * leaseTTL) //nolint:forbidigo // in a bubble
				if l.Err() != nil || len(s.renewals()) > 200 {
					t.Errorf("%v after %d renewals", l.Err(), len(s.renewals()))
				}
				if err := l.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestLeaseRelease(t *testing.T) {
	t.Parallel()
	t.Run("during a renewal", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &lockScript{renew: hang}
			l := s.hold(t)
			time.Sleep(leaseTTL/3 + time.Second) //nolint:forbidigo // in a bubble
			began := time.Now()
			if err := l.Release(t.Context()); err != nil || time.Since(began) != 0 || len(s.renewals()) != 1 {
				t.Errorf("%v after %v, %d renewals", err, time.Since(began), len(s.renewals()))
			}
		})
	})
	t.Run("closes Lost before it is sent", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &lockScript{renew: hang}
			var l *handles.Lease
			s.release = func(*quernv1.LockServiceReleaseRequest) error {
				select {
				case <-l.Lost():
				default:
					t.Error("another may have it, and Lost is open")
				}
				return nil
			}
			l = s.hold(t)
			if err := l.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("tried again", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &lockScript{renew: hang}
			s.release = func(*quernv1.LockServiceReleaseRequest) error {
				if len(s.released()) == 1 {
					return failure.New(failure.OutcomeUnknown, "perhaps")
				}
				return failure.New(failure.NotHolder, "gone")
			}
			l := s.hold(t)
			if err := l.Release(t.Context()); !errors.Is(err, failure.OutcomeUnknown) {
				t.Error(err)
			}
			if err := l.Release(t.Context()); err != nil {
				t.Errorf("the first try did it: %v", err)
			}
		})
	})
	t.Run("of what was taken away", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := &lockScript{renew: hang, release: func(*quernv1.LockServiceReleaseRequest) error { return failure.New(failure.NotHolder, "gone") }}
			l := s.hold(t)
			if err := l.Release(t.Context()); !errors.Is(err, failure.NotHolder) {
				t.Error(err)
			}
		})
	})
}
