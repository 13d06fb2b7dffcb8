package bench

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// spoiler is a node whose answers a test changes.
type spoiler struct {
	*quern.Node
	grants, releases atomic.Int64

	// granted changes the nth grant, released decides about the nth release:
	// it is sent unless that answers it.
	granted  func(n int64, out *quernv1.LockServiceAcquireResponse)
	released func(n int64) (answered bool, err error)
}

func (s *spoiler) Invoke(ctx context.Context, op *handles.Operation) error {
	if op.Method == handles.LockRelease && s.released != nil {
		if answered, err := s.released(s.releases.Add(1)); answered {
			return err
		}
	}
	err := s.Node.Invoke(ctx, op)
	if out, ok := op.Reply.(*quernv1.LockServiceAcquireResponse); ok && err == nil && out.GetHeld() && s.granted != nil {
		s.granted(s.grants.Add(1), out)
	}
	return err
}

func lockRun(t *testing.T, workload string, keys int, spoil func(*spoiler)) *Result {
	t.Helper()
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(context.Background())
	s := &spoiler{Node: node}
	spoil(s)
	r, err := Run(t.Context(), Config{Target: s, Workload: workload, Keys: keys, Concurrency: 8, Duration: 150 * time.Millisecond, Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLockWorkloads(t *testing.T) {
	t.Parallel()
	for _, workload := range []string{"lock-cycle", "lock-contended"} {
		r := lockRun(t, workload, 0, func(*spoiler) {})
		if !r.OK() || r.Acked == 0 || r.Acked != r.Ops || r.Applied != r.Acked || r.Errors > 0 {
			t.Errorf("%s: %+v", workload, r)
		}
	}
}

func TestLockCheckFindsWhatATargetDoes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		spoil func(*spoiler)
		check func(r *Result) bool
	}{
		{"answers a lower token", func(s *spoiler) {
			s.granted = func(n int64, out *quernv1.LockServiceAcquireResponse) {
				if n == 100 {
					out.Token = 1
				}
			}
		}, func(r *Result) bool { return r.Violations > 0 }},
		{"grants to two", func(s *spoiler) {
			s.granted = func(n int64, _ *quernv1.LockServiceAcquireResponse) {
				if n == 100 { // the next one gets it while this one holds it
					if _, err := s.Lock("k0").ForceRelease(context.Background(), "spoiled"); err != nil {
						t.Error(err)
					}
					for s.grants.Load() < n+3 { // this reply is slow: others have the lock meanwhile
						runtime.Gosched()
					}
				}
			}
		}, func(r *Result) bool { return r.Violations > 0 }},
		{"acknowledges a release that it does not make", func(s *spoiler) {
			s.released = func(n int64) (bool, error) { return n == 100, nil }
		}, func(r *Result) bool { return r.Lost == 1 && r.Violations == 0 }},
		{"makes a release of which it says nothing", func(s *spoiler) {
			s.released = func(n int64) (bool, error) {
				return n == 100, failure.New(failure.OutcomeUnknown, "lost")
			}
		}, func(r *Result) bool { return r.OK() && r.Unknown == 1 }},
		{"has a stranger in", func(s *spoiler) {
			s.released = func(n int64) (bool, error) {
				if n == 100 {
					go func() {
						_, _ = s.Lock("k0").Grant(context.Background(), handles.LockOptions{Owner: "stranger", TTL: time.Hour, Wait: time.Minute})
					}()
				}
				return false, nil
			}
		}, func(r *Result) bool { return r.Doubled == 1 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory})
			if err != nil {
				t.Fatal(err)
			}
			defer node.Close(context.Background())
			s := &spoiler{Node: node}
			tt.spoil(s)
			r, err := Run(t.Context(), Config{
				Target: s, Workload: "lock-contended", Prefix: "k", Concurrency: 8, Duration: 150 * time.Millisecond, Grace: time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			if !tt.check(r) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestLocksInUse(t *testing.T) {
	t.Parallel()
	node, err := quern.Open(t.Context(), quern.Config{Store: quern.StoreMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close(context.Background())
	if _, err := node.Lock("k0").Grant(t.Context(), handles.LockOptions{Owner: "o", TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), Config{Target: node, Workload: "lock-contended", Prefix: "k"}); !errors.Is(err, ErrKeysUsed) {
		t.Errorf("got %v", err)
	}
	if _, err := Run(t.Context(), Config{Target: node, Workload: "lock-cycle", Pipeline: 2}); !errors.Is(err, ErrConfig) {
		t.Errorf("got %v", err)
	}
}
