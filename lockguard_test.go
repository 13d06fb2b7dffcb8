package quern_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// seenLock is a lock as its Get tells, but for what is left of leases.
func seenLock(t *testing.T, l quern.Lock) handles.LockInfo {
	t.Helper()
	info, err := l.Get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range info.Holders {
		info.Holders[i].TTL = 0
	}
	return info
}

// TestLockGuardsOnEveryWay: a token that came one way counts on all of them, for
// each method of a lock that writes. What is refused changes nothing.
func TestLockGuardsOnEveryWay(t *testing.T) {
	t.Parallel()
	node, ways := fronts(t)
	const outer = "lock:of:another"
	guard := uint64(0)
	for name, to := range ways {
		var held quernv1.LockServiceAcquireResponse
		for _, method := range []struct {
			name  string
			write func(*quernv1.Guard) error
		}{
			{"acquire", func(g *quernv1.Guard) error {
				return ask(t.Context(), to, handles.LockAcquire, &quernv1.LockServiceAcquireRequest{Key: "k", Guard: g, Owner: "a", Ttl: durationpb.New(time.Hour)}, &held)
			}},
			{"acquire in vain", func(g *quernv1.Guard) error {
				return ask(t.Context(), to, handles.LockAcquire, &quernv1.LockServiceAcquireRequest{Key: "k", Guard: g, Owner: "b", Ttl: durationpb.New(time.Hour)}, &quernv1.LockServiceAcquireResponse{})
			}},
			{"renew", func(g *quernv1.Guard) error {
				return ask(t.Context(), to, handles.LockRenew, &quernv1.LockServiceRenewRequest{Key: "k", Guard: g, Token: held.GetToken(), Ttl: durationpb.New(time.Hour)}, &quernv1.LockServiceRenewResponse{})
			}},
			{"release", func(g *quernv1.Guard) error {
				return ask(t.Context(), to, handles.LockRelease, &quernv1.LockServiceReleaseRequest{Key: "k", Guard: g, Token: held.GetToken()}, &quernv1.LockServiceReleaseResponse{})
			}},
			{"acquire anew", func(g *quernv1.Guard) error {
				return ask(t.Context(), to, handles.LockAcquire, &quernv1.LockServiceAcquireRequest{Key: "k", Guard: g, Owner: "a", Ttl: durationpb.New(time.Hour)}, &held)
			}},
			{"force release", func(g *quernv1.Guard) error {
				return ask(t.Context(), to, handles.LockForceRelease, &quernv1.LockServiceForceReleaseRequest{Key: "k", Guard: g, Reason: "why"}, &quernv1.LockServiceForceReleaseResponse{})
			}},
		} {
			if method.name != "acquire" {
				before := seenLock(t, node.Lock("k"))
				for what, row := range map[string]struct {
					guard *quernv1.Guard
					want  failure.Reason
				}{
					"lower":    {&quernv1.Guard{Lock: outer, Token: guard - 1}, failure.FencedToken},
					"no token": {&quernv1.Guard{Lock: outer}, failure.InvalidField},
					"no lock":  {&quernv1.Guard{Token: guard}, failure.InvalidField},
				} {
					if err := method.write(row.guard); !errors.Is(err, row.want) || failure.OutcomeOf(err) != failure.NotDone {
						t.Errorf("%s, %s, %s: %v", name, method.name, what, err)
					}
				}
				if after := seenLock(t, node.Lock("k")); !reflect.DeepEqual(before, after) {
					t.Errorf("%s, %s: refused, and it went from %+v to %+v", name, method.name, before, after)
				}
			}
			if method.name == "renew" { // an equal one is as good
				guard -= 2
			}
			guard += 2
			if err := method.write(&quernv1.Guard{Lock: outer, Token: guard}); err != nil {
				t.Errorf("%s, %s: %v", name, method.name, err)
			}
		}
	}
}

// TestGuardedLease is lost as soon as its guard is refused, and gives its lock
// back all the same.
func TestGuardedLease(t *testing.T) {
	t.Parallel()
	node, ways := allWays(t)
	for name, to := range ways {
		lock := handles.NewLock(to, "k:"+name)
		lease, err := lock.Guarded(handles.Guard{Lock: "outer", Token: 5}).Acquire(t.Context(), quern.LockOptions{TTL: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lock.Guarded(handles.Guard{Lock: "outer", Token: 6}).Grant(t.Context(), quern.LockOptions{Owner: "other", Wait: -1}); err != nil {
			t.Fatal(err)
		}
		<-lease.Lost()
		if err := lease.Err(); !errors.Is(err, failure.FencedToken) {
			t.Errorf("%s: lost by %v", name, err)
		}
		if info := seenLock(t, node.Lock("k:"+name)); info.Holds != 1 {
			t.Errorf("%s: %+v before the release", name, info)
		}
		if err := lease.Release(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if info := seenLock(t, node.Lock("k:"+name)); info.Holds != 0 {
			t.Errorf("%s: %+v after the release", name, info)
		}
	}
}

// TestGuardedHold ends with FENCED_TOKEN, when it begins and later.
func TestGuardedHold(t *testing.T) {
	t.Parallel()
	node, _ := lockNode(t, quern.Config{Store: quern.StoreMemory})
	locks := holder(t, node)
	hold := func(token uint64) quernv1.LockService_HoldClient {
		stream, err := locks.Hold(t.Context(), &quernv1.LockServiceHoldRequest{
			Key: "k", Guard: &quernv1.Guard{Lock: "outer", Token: token}, Ttl: durationpb.New(time.Second), Wait: durationpb.New(0),
		})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	first := hold(5)
	if _, err := first.Recv(); err != nil {
		t.Fatal(err)
	}
	fenced := func(what string, err error) {
		for _, d := range status.Convert(err).Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == "FENCED_TOKEN" {
				return
			}
		}
		t.Errorf("%s: %v", what, err)
	}
	_, err := hold(4).Recv()
	fenced("a lower one", err)
	if _, err := node.Lock("k").Guarded(handles.Guard{Lock: "outer", Token: 6}).Grant(t.Context(), quern.LockOptions{Owner: "o", Wait: -1}); err != nil {
		t.Fatal(err)
	}
	_, err = first.Recv()
	fenced("later", err)
	queued(t, node.Lock("k"), 0)
	for seenLock(t, node.Lock("k")).Holds > 0 { //nolint:revive // the node gives it back
	}
}
