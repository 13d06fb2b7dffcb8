package actors_test

import (
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// TestLockGuards goes through what can be said of tokens where a lock is
// written under another one. In the second round the store's memory is cut down
// to what is durable before each step.
func TestLockGuards(t *testing.T) {
	t.Parallel()
	for _, crash := range []bool{false, true} {
		r := newRig(t, newFaultStore(), withLock)
		l := r.lock("k")
		token := r.hold(t, "k", "a", time.Hour)
		acquire := func(owner string, under handles.Guard) error {
			return second(l.Guarded(under).Grant(t.Context(), handles.LockOptions{Owner: owner, TTL: time.Hour, Wait: -1}))
		}
		for i, step := range []struct {
			what  string
			do    func() error
			fails error
		}{
			{"renew", func() error { return l.Guarded(under("l", 5)).Renew(t.Context(), token, time.Hour) }, nil},
			{"renew, the same", func() error { return l.Guarded(under("l", 5)).Renew(t.Context(), token, time.Hour) }, nil},
			{"renew, lower", func() error { return l.Guarded(under("l", 4)).Renew(t.Context(), token, time.Minute) }, failure.FencedToken},
			{"acquire again, lower", func() error { return acquire("a", under("l", 4)) }, failure.FencedToken},
			{"a try, lower", func() error { return acquire("b", under("l", 4)) }, failure.FencedToken},
			{"a try that is in vain", func() error { return acquire("b", under("l", 6)) }, nil},
			{"is noted", func() error { return acquire("b", under("l", 5)) }, failure.FencedToken},
			{"what the handler refuses", func() error { return l.Guarded(under("l", 9)).Release(t.Context(), token+1) }, failure.NotHolder},
			{"is not noted", func() error { return l.Guarded(under("l", 6)).Renew(t.Context(), token, time.Hour) }, nil},
			{"release, lower", func() error { return l.Guarded(under("l", 5)).Release(t.Context(), token) }, failure.FencedToken},
			{"release by name, lower", func() error { return l.Guarded(under("l", 5)).ReleaseOwner(t.Context(), "a") }, failure.FencedToken},
			{"force, lower", func() error { return second(l.Guarded(under("l", 5)).ForceRelease(t.Context(), "why")) }, failure.FencedToken},
			{"another lock's guard", func() error { return l.Guarded(under("m", 1)).Renew(t.Context(), token, time.Hour) }, nil},
			{"no token", func() error { return l.Guarded(under("l", 0)).Release(t.Context(), token) }, failure.InvalidField},
			{"no lock", func() error { return acquire("a", under("", 7)) }, failure.InvalidField},
			{"release", func() error { return l.Guarded(under("l", 7)).Release(t.Context(), token) }, nil},
			{"a free lock remembers", func() error { return acquire("c", under("l", 6)) }, failure.FencedToken},
			{"acquire", func() error { return acquire("c", under("l", 8)) }, nil},
			{"force", func() error { return second(l.Guarded(under("l", 9)).ForceRelease(t.Context(), "why")) }, nil},
			{"keeps others out", func() error { return acquire("d", under("l", 8)) }, failure.FencedToken},
			{"unguarded", func() error { return second(l.Grant(t.Context(), handles.LockOptions{Owner: "e", Wait: -1})) }, nil},
		} {
			if crash {
				r.Crash(r.shardOf("k"))
			}
			before := r.durableLock(t, "k")
			if err := step.do(); !errors.Is(err, step.fails) || failure.OutcomeOf(err) != failure.NotDone {
				t.Errorf("crash %v, step %d, %s: %v, want %v", crash, i, step.what, err, step.fails)
			}
			if after := r.durableLock(t, "k"); step.fails != nil && !reflect.DeepEqual(before, after) {
				t.Errorf("crash %v, step %d, %s: refused, and it went from %+v to %+v", crash, i, step.what, before, after)
			}
		}
	}
}

// durableLock is what a lock says of itself, but for what is left of leases.
func (r *rig) durableLock(t *testing.T, key string) handles.LockInfo {
	t.Helper()
	info, err := r.lock(key).Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range info.Holders {
		info.Holders[i].TTL = 0
	}
	return info
}

// beginGuarded asks for a lock under a guard, on a goroutine of its own.
func (r *rig) beginGuarded(t *testing.T, key, owner string, g handles.Guard) <-chan grant {
	t.Helper()
	got := make(chan grant, 1)
	go func() {
		g, err := r.lock(key).Guarded(g).Grant(t.Context(), handles.LockOptions{Owner: owner, TTL: time.Minute, Wait: time.Hour})
		got <- grant{g, err}
	}()
	return got
}

// TestGuardOfAWait: it is noted when the wait begins, and looked at again when
// it ends. One that is refused then leaves nothing of itself: the lock goes on
// at once.
func TestGuardOfAWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newFaultStore(), withLock)
		l := r.lock("k")
		token := r.hold(t, "k", "holder", time.Hour)
		late := r.beginGuarded(t, "k", "late", under("l", 5))
		r.awaitParked("k", 1)
		if err := l.Guarded(under("l", 4)).Renew(t.Context(), token, time.Hour); !errors.Is(err, failure.FencedToken) {
			t.Errorf("below the token of one who waits: %v", err)
		}
		same := r.beginGuarded(t, "k", "late", under("l", 5))
		r.awaitParked("k", 2)
		next := r.beginGuarded(t, "k", "next", under("l", 6))
		r.awaitParked("k", 3)
		began := time.Now()
		if err := l.Release(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		for _, wait := range []<-chan grant{late, same} {
			if g := <-wait; !errors.Is(g.err, failure.FencedToken) || failure.OutcomeOf(g.err) != failure.NotDone {
				t.Errorf("the lock was given on meanwhile: %+v", g)
			}
		}
		if g := <-next; g.err != nil || !g.Held || time.Since(began) > time.Second {
			t.Errorf("the next one: %+v after %v", g, time.Since(began))
		}
		if info := r.durableLock(t, "k"); info.Holds != 1 || info.Waiters != 0 {
			t.Errorf("%+v", info)
		}
	})
}

// TestGuardOfAWaitSurvivesACrash as a token that was noted with the place in
// the queue.
func TestGuardOfAWaitSurvivesACrash(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withLock)
	token := r.hold(t, "k", "holder", time.Hour)
	wait := r.beginGuarded(t, "k", "waits", under("l", 5))
	r.awaitParked("k", 1)
	r.Crash(r.shardOf("k"))
	r.awaitParked("k", 1)
	l := r.lock("k")
	if err := l.Guarded(under("l", 4)).Renew(t.Context(), token, time.Hour); !errors.Is(err, failure.FencedToken) {
		t.Errorf("below the token of one who waits: %v", err)
	}
	if err := l.Guarded(under("l", 5)).Release(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if g := <-wait; g.err != nil || !g.Held {
		t.Errorf("%+v", g)
	}
}
