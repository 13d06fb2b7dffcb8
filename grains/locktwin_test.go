package grains_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// twinLock is a lock done the dumb way: lists that are searched from end to
// end, one entry for each owner. It knows the rules, and neither tokens, timers,
// indexes nor records.
type twinLock struct {
	now            int64
	permits        uint32
	holders, queue []twinEntry
	deaf           map[string]bool
}

type twinEntry struct {
	owner                     string
	ttl, due                  int64
	shared, away, unconfirmed bool
}

func (w *twinLock) admits(shared bool) bool {
	switch {
	case len(w.holders) == 0:
		return true
	case shared || w.holders[0].shared:
		return shared && w.holders[0].shared
	default:
		return len(w.holders) < int(w.permits)
	}
}

func of(list []twinEntry, owner string) int {
	return slices.IndexFunc(list, func(e twinEntry) bool { return e.owner == owner })
}

// acquire returns what the caller hears at first: held, waits, no, or a reason.
func (w *twinLock) acquire(q *quernv1.LockServiceAcquireRequest) string {
	ttl, wait := q.GetTtl().AsDuration().Milliseconds(), q.GetWait().AsDuration().Milliseconds()
	permits := max(1, q.GetPermits())
	i, j := of(w.holders, q.GetOwner()), of(w.queue, q.GetOwner())
	switch {
	case len(w.holders) > 0 && permits != w.permits,
		i >= 0 && w.holders[i].shared != q.GetShared(), j >= 0 && w.queue[j].shared != q.GetShared():
		return failure.InvalidField.String()
	case i >= 0:
		w.holders[i] = twinEntry{owner: q.GetOwner(), ttl: ttl, due: w.now + ttl, shared: q.GetShared()}
		return "held"
	case j < 0 && len(w.queue) == 0 && w.admits(q.GetShared()):
		w.permits = permits
		w.holders = append(w.holders, twinEntry{owner: q.GetOwner(), ttl: ttl, due: w.now + ttl, shared: q.GetShared()})
		return "held"
	case wait == 0:
		return "no"
	case j < 0:
		w.queue = append(w.queue, twinEntry{owner: q.GetOwner(), ttl: ttl, due: w.now + wait, shared: q.GetShared()})
		return "waits"
	default:
		w.queue[j] = twinEntry{owner: q.GetOwner(), ttl: ttl, due: w.now + wait, shared: q.GetShared()}
		return "waits"
	}
}

// drop ends whatever an owner has.
func (w *twinLock) drop(owner string) {
	gone := func(e twinEntry) bool { return e.owner == owner }
	w.holders = slices.DeleteFunc(w.holders, gone)
	w.queue = slices.DeleteFunc(w.queue, gone)
	w.promote()
}

func (w *twinLock) promote() {
	for len(w.queue) > 0 && w.admits(w.queue[0].shared) {
		e := w.queue[0]
		w.queue = w.queue[1:]
		switch {
		case e.away:
			e.unconfirmed = true
		case w.deaf[e.owner]:
			e.unconfirmed, e.due = true, w.now+min(e.ttl, 5000)
		default:
			e.due = w.now + e.ttl
		}
		w.holders = append(w.holders, e)
	}
}

// advance lets time pass, one end after the other; holds end before waits.
func (w *twinLock) advance(until int64) {
	for {
		var first *twinEntry
		for _, list := range [][]twinEntry{w.holders, w.queue} {
			for i := range list {
				if e := &list[i]; e.due <= until && (first == nil || e.due < first.due) {
					first = e
				}
			}
		}
		if first == nil {
			w.now = until
			return
		}
		w.now = max(w.now, first.due)
		w.drop(first.owner)
	}
}

func (w *twinLock) reload() {
	for i := range w.holders {
		e := &w.holders[i]
		e.due = w.now + e.ttl
		if e.unconfirmed {
			e.away, e.due = true, w.now+min(e.ttl, 5000)
		}
	}
	for i := range w.queue {
		w.queue[i].away, w.queue[i].due = true, w.now+min(w.queue[i].ttl, 5000)
	}
}

// renewed and forced are the commands by token and by nobody.
func (w *twinLock) renewed(owner string, ttl int64) {
	e := &w.holders[of(w.holders, owner)]
	*e = twinEntry{owner: owner, ttl: ttl, due: w.now + ttl, shared: e.shared}
}

func (w *twinLock) forced() {
	w.holders = nil
	w.promote()
}

// String shows it as a lockSim does, without the tokens.
func (w *twinLock) String() string {
	var b strings.Builder
	for _, e := range w.holders {
		left := e.due - w.now
		if e.unconfirmed {
			left = e.ttl
		}
		fmt.Fprintf(&b, "%s %dms shared=%v unconfirmed=%v, ", e.owner, left, e.shared, e.unconfirmed)
	}
	for _, e := range w.queue {
		fmt.Fprintf(&b, "| %s shared=%v away=%v", e.owner, e.shared, e.away)
	}
	return b.String()
}

func showWithoutTokens(a *quernv1.LockServiceGetResponse) string {
	var b strings.Builder
	for _, h := range a.GetHolders() {
		fmt.Fprintf(&b, "%s %dms shared=%v unconfirmed=%v, ", h.GetOwner(), h.GetTtl().AsDuration().Milliseconds(), h.GetShared(), h.GetUnconfirmed())
	}
	for _, w := range a.GetQueue() {
		fmt.Fprintf(&b, "| %s shared=%v away=%v", w.GetOwner(), w.GetShared(), w.GetAway())
	}
	return b.String()
}

// lockDuel plays random commands on a lock and on its twin.
type lockDuel struct {
	*lockSim
	twin *twinLock
	r    *rand.Rand
	// tokens are those seen, by owner; highest is the highest of them.
	tokens  map[string]uint64
	highest uint64
}

func TestLockAgainstTwin(t *testing.T) {
	t.Parallel()
	for _, owners := range []int{3, 6, 14} { // with and without an index
		t.Run(fmt.Sprintf("%d owners", owners), func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			d := &lockDuel{lockSim: newLockSim(t), r: rand.New(rand.NewPCG(seed, 1)), tokens: map[string]uint64{}}
			d.twin = &twinLock{now: now, deaf: d.deaf}
			for range 20_000 {
				what := d.step(fmt.Sprintf("o%d", d.r.IntN(owners)))
				d.compare(what)
			}
			d.ends()
		})
	}
}

// step plays one command and returns it.
func (d *lockDuel) step(owner string) string {
	d.tb.Helper()
	ttl, wait := time.Duration(1+d.r.IntN(20_000))*time.Millisecond, time.Duration(d.r.IntN(20_000))*time.Millisecond
	switch n := d.r.IntN(100); {
	case n < 45:
		q := acquireBy(owner, ttl, wait*time.Duration(min(1, d.r.IntN(4))))
		q.Shared = d.r.IntN(3) == 0
		q.Permits = uint32(d.r.IntN(3)) * uint32(d.r.IntN(2))
		want := d.twin.acquire(q)
		a := &quernv1.LockServiceAcquireResponse{}
		if got := d.heard(a, d.call(q, a)); got != want {
			d.tb.Fatalf("%v: %s, want %s", q, got, want)
		}
		return q.String()
	case n < 60:
		d.twin.advance(d.twin.now + wait.Milliseconds()/4)
		d.advance(time.Duration(wait.Milliseconds()/4) * time.Millisecond)
		return fmt.Sprintf("%v/4 pass", wait)
	case n < 68:
		d.renew(owner, ttl)
		return "renew of " + owner
	case n < 88:
		d.release(owner)
		return "release of " + owner
	case n < 93:
		if len(d.parked) > 0 {
			owner = d.parked[d.r.IntN(len(d.parked))].GetOwner()
			d.cancels(owner)
		}
		return "cancel of " + owner
	case n < 95:
		d.deaf[owner] = !d.deaf[owner] && of(d.twin.queue, owner) < 0
		if !d.deaf[owner] && of(d.twin.queue, owner) < 0 {
			d.take(owner) // was woken in vain
		}
		return "deaf: " + owner
	case n < 98:
		d.reload()
		d.twin.reload()
		return "reload"
	default:
		d.twin.forced()
		if err := d.call(&quernv1.LockServiceForceReleaseRequest{Reason: "r"}, &quernv1.LockServiceForceReleaseResponse{}); err != nil {
			d.tb.Fatal(err)
		}
		return "force"
	}
}

func (d *lockDuel) heard(a *quernv1.LockServiceAcquireResponse, err error) string {
	var e *failure.Error
	switch {
	case errors.As(err, new(*actors.Parked)):
		return "waits"
	case errors.As(err, &e):
		return e.Reason.String()
	case a.GetHeld():
		return "held"
	default:
		return "no"
	}
}

// tokenOf returns an owner's present token, else one that was.
func (d *lockDuel) tokenOf(owner string) (token uint64, holds bool) {
	for _, h := range d.get().GetHolders() {
		if h.GetOwner() == owner {
			return h.GetToken(), true
		}
	}
	return d.r.Uint64N(d.highest + 1), false
}

func (d *lockDuel) renew(owner string, ttl time.Duration) {
	d.tb.Helper()
	token, holds := d.tokenOf(owner)
	a := &quernv1.LockServiceRenewResponse{}
	err := d.call(&quernv1.LockServiceRenewRequest{Token: token, Ttl: seconds(ttl)}, a)
	switch {
	case err == nil:
		d.twin.renewed(a.GetOwner(), ttl.Milliseconds())
	case holds || !errors.Is(err, failure.NotHolder):
		d.tb.Fatalf("renew of %s: %v", owner, err)
	}
}

func (d *lockDuel) release(owner string) {
	d.tb.Helper()
	q := &quernv1.LockServiceReleaseRequest{Owner: owner}
	token, holds := d.tokenOf(owner)
	if holds {
		q = &quernv1.LockServiceReleaseRequest{Token: token}
	}
	has := holds || of(d.twin.queue, owner) >= 0
	err := d.call(q, &quernv1.LockServiceReleaseResponse{})
	if (err == nil) != has || err != nil && !errors.Is(err, failure.NotHolder) {
		d.tb.Fatalf("release of %s: %v", owner, err)
	}
	if has {
		d.twin.drop(owner)
	}
}

func (d *lockDuel) cancels(owner string) {
	d.tb.Helper()
	d.cancel(owner)
	i := of(d.twin.holders, owner)
	if of(d.twin.queue, owner) >= 0 || i >= 0 && d.twin.holders[i].unconfirmed {
		d.twin.drop(owner)
	}
}

// compare holds the lock to its twin and to what must be true of any lock.
func (d *lockDuel) compare(what string) {
	d.tb.Helper()
	a := d.get()
	if got, want := showWithoutTokens(a), d.twin.String(); got != want {
		d.tb.Fatalf("after %s:\n%s, want\n%s", what, got, want)
	}
	seen := map[string]uint64{}
	for _, h := range a.GetHolders() {
		if h.GetToken() != d.tokens[h.GetOwner()] && h.GetToken() <= d.highest {
			d.tb.Fatalf("after %s: %v holds by an old token, %d was granted", what, h, d.highest)
		}
		if h.GetShared() != a.GetHolders()[0].GetShared() || !h.GetShared() && len(a.GetHolders()) > int(a.GetPermits()) {
			d.tb.Fatalf("after %s: held together: %v", what, a)
		}
		seen[h.GetOwner()] = h.GetToken()
	}
	for _, token := range seen {
		d.highest = max(d.highest, token)
	}
	d.tokens = seen
	for _, q := range d.parked {
		place := slices.IndexFunc(a.GetQueue(), func(w *quernv1.LockWaiter) bool { return w.GetOwner() == q.GetOwner() })
		if place < 0 && !d.deaf[q.GetOwner()] {
			d.tb.Fatalf("after %s: %s waits and was forgotten", what, q.GetOwner())
		}
	}
}

// ends lets everything come to its end.
func (d *lockDuel) ends() {
	d.tb.Helper()
	d.advance(48 * time.Hour)
	if a := d.get(); a.GetHeld() || a.GetWaiters() > 0 || len(d.record()) > 0 {
		d.tb.Errorf("two days later: %v", a)
	}
	for _, q := range d.parked {
		if !d.deaf[q.GetOwner()] {
			d.tb.Errorf("%s was forgotten", q.GetOwner())
		}
	}
}
