package handles_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func TestAcquire(t *testing.T) {
	t.Parallel()
	held := func(a *quernv1.LockServiceAcquireResponse) error {
		a.Held, a.Token, a.Ttl = true, 7, durationpb.New(leaseTTL)
		return nil
	}
	type attempt struct {
		at, wait time.Duration
		owner    string
	}
	for _, tt := range []struct {
		name    string
		options handles.LockOptions
		timeout time.Duration // of the context; 0 is none
		// answer is of the n-th attempt, from 1 on.
		answer   func(ctx context.Context, n int, a *quernv1.LockServiceAcquireResponse) error
		refused  failure.Reason
		attempts int           // negative is at most
		after    time.Duration // at the latest
		given    int           // releases by owner afterwards
	}{
		{
			name: "at once", attempts: 1,
			answer: func(_ context.Context, _ int, a *quernv1.LockServiceAcquireResponse) error { return held(a) },
		},
		{
			name: "try", options: handles.LockOptions{Wait: -1}, attempts: 1, refused: failure.ConditionFailed,
			answer: func(context.Context, int, *quernv1.LockServiceAcquireResponse) error { return nil },
		},
		{
			name: "a try with an unknown outcome gives back", options: handles.LockOptions{Wait: -1}, attempts: 1, refused: failure.OutcomeUnknown, given: 1,
			answer: func(context.Context, int, *quernv1.LockServiceAcquireResponse) error {
				return failure.New(failure.OutcomeUnknown, "perhaps")
			},
		},
		{
			name: "a granted wait that took long is asked again", attempts: 2, after: 6 * time.Second,
			answer: func(_ context.Context, n int, a *quernv1.LockServiceAcquireResponse) error {
				if n == 1 {
					time.Sleep(6 * time.Second) //nolint:forbidigo // in a bubble
				}
				return held(a)
			},
		},
		{
			name: "waits through moves and lost answers", attempts: 4, after: 3 * time.Second,
			answer: func(_ context.Context, n int, a *quernv1.LockServiceAcquireResponse) error {
				switch n {
				case 1:
					return failure.New(failure.NotOwner, "moved")
				case 2:
					return failure.New(failure.OutcomeUnknown, "perhaps")
				case 3:
					return failure.New(failure.Moving, "moves").After(time.Second)
				default:
					return held(a)
				}
			},
		},
		{
			name: "wait is over", options: handles.LockOptions{Wait: 5 * time.Second}, attempts: 1, refused: failure.ConditionFailed, after: 5 * time.Second,
			answer: func(context.Context, int, *quernv1.LockServiceAcquireResponse) error {
				time.Sleep(5 * time.Second) //nolint:forbidigo // in a bubble
				return nil
			},
		},
		{
			name: "a wait that was ended early goes on", options: handles.LockOptions{Wait: 5 * time.Second}, attempts: 2, after: 4 * time.Second,
			answer: func(_ context.Context, n int, a *quernv1.LockServiceAcquireResponse) error {
				if n == 1 {
					time.Sleep(3 * time.Second) //nolint:forbidigo // in a bubble
					return nil
				}
				return held(a)
			},
		},
		{
			name: "the context ends", timeout: 5 * time.Second, attempts: 1, refused: failure.Canceled, given: 1, after: 5 * time.Second,
			answer: func(ctx context.Context, _ int, _ *quernv1.LockServiceAcquireResponse) error {
				return failure.Wrap(hang(ctx), failure.Canceled, "gone")
			},
		},
		{
			name: "the context ends for a named owner", options: handles.LockOptions{Owner: "me"}, timeout: 5 * time.Second, attempts: 1, refused: failure.Canceled, after: 5 * time.Second,
			answer: func(ctx context.Context, _ int, _ *quernv1.LockServiceAcquireResponse) error {
				return failure.Wrap(hang(ctx), failure.Canceled, "gone")
			},
		},
		{
			name: "no end of refusals", options: handles.LockOptions{Wait: 5 * time.Second}, attempts: -12, refused: failure.NotOwner, after: 5 * time.Second,
			answer: func(context.Context, int, *quernv1.LockServiceAcquireResponse) error {
				return failure.New(failure.NotOwner, "moved")
			},
		},
		{
			name: "what is wrong is not asked again", attempts: 1, refused: failure.InvalidField,
			answer: func(context.Context, int, *quernv1.LockServiceAcquireResponse) error {
				return failure.New(failure.InvalidField, "permits")
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var attempts []attempt
				began := time.Now()
				s := &lockScript{renew: func(context.Context) error { return nil }}
				s.acquire = func(ctx context.Context, q *quernv1.LockServiceAcquireRequest, a *quernv1.LockServiceAcquireResponse) error {
					attempts = append(attempts, attempt{time.Since(began), q.GetWait().AsDuration(), q.GetOwner()})
					return tt.answer(ctx, len(attempts), a)
				}
				ctx := t.Context()
				if tt.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.timeout)
					defer cancel()
				}
				tt.options.TTL = leaseTTL
				l, err := handles.NewLock(s, "k").Acquire(ctx, tt.options)
				if took := time.Since(began); took > tt.after || len(attempts) != tt.attempts && len(attempts) > -tt.attempts {
					t.Errorf("took %v, %d attempts: %v", took, len(attempts), attempts)
				}
				if tt.refused != 0 && !errors.Is(err, tt.refused) || tt.refused == 0 && err != nil {
					t.Fatalf("got %v, want %v", err, tt.refused)
				}
				for _, a := range attempts {
					if a.owner != attempts[0].owner || a.owner == "" || tt.options.Wait > 0 && a.at+a.wait > tt.options.Wait || (a.wait == 0) != (tt.options.Wait < 0) {
						t.Errorf("attempts %v", attempts)
					}
				}
				synctest.Wait()
				if err == nil {
					if l.Token() != 7 || l.Owner() != attempts[0].owner {
						t.Errorf("token %d, owner %q", l.Token(), l.Owner())
					}
					if err := l.Release(t.Context()); err != nil {
						t.Error(err)
					}
				} else if len(s.released()) != tt.given || tt.given > 0 && s.released()[0].GetOwner() != attempts[0].owner {
					t.Errorf("given back: %v", s.released())
				}
			})
		})
	}
}
