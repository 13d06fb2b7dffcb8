package actors

import (
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/failure"
)

// tenure is one ownership of a shard: from a Serve to its end. The owner of the
// leases and the shard's turns share what is atomic.
type tenure struct {
	first uint64 // the epoch with which it began
	// until is the end of the trust, in nanoseconds by Config.Clock; revoked
	// for ever once the owner said so.
	until atomic.Int64
	// over is closed when nothing of it is answered or written any more.
	over chan struct{}
}

const revoked = math.MinInt64

func newTenure(l Lease) *tenure {
	t := &tenure{first: l.Epoch, over: make(chan struct{})}
	t.until.Store(int64(l.Until))
	return t
}

// extend moves the end of the trust to a later time. What was revoked stays so.
func (t *tenure) extend(until time.Duration) {
	for {
		old := t.until.Load()
		if old == revoked || old >= int64(until) || t.until.CompareAndSwap(old, int64(until)) {
			return
		}
	}
}

// revoke ends the trust for good.
func (t *tenure) revoke() { t.until.Store(revoked) }

func (t *tenure) isRevoked() bool { return t.until.Load() == revoked }

// trusts reads the clock, and reports whether a tenure may be answered for. A
// runtime that is not leased has none and needs none.
func (r *Runtime) trusts(t *tenure) bool {
	if t == nil || r.blindTrust {
		return true
	}
	return int64(r.cfg.Clock()) < t.until.Load()
}

// say lets an answer go that needs the gate no longer. In a leased shard it
// leaves at the end of the batch, if the shard is trusted then.
func (s *shard) say(c *call, err error) {
	if s.tenure == nil || isNoAnswer(err) {
		c.complete(err)
		return
	}
	c.err = err
	s.leaving.push(c)
}

// letGo lets what was said in a batch leave, after one look at the clock: the
// shard was this node's until then, so what the turns have read was current.
func (s *shard) letGo() {
	if s.leaving.n == 0 && len(s.watches.untold) == 0 {
		return
	}
	if !s.rt.trusts(s.tenure) {
		s.lapse()
		return
	}
	for c := s.leaving.pop(); c != nil; c = s.leaving.pop() {
		c.complete(c.err)
	}
	for i, e := range s.watches.untold {
		s.tell(e.topic, e.event)
		s.watches.untold[i] = flyingEvent{}
	}
	s.watches.untold = s.watches.untold[:0]
}

// lapse withholds what was to leave, and bars the turns until the trust was
// extended: a proof may be late. Watchers are sent away, since their topics lack
// an event now.
func (s *shard) lapse() {
	s.lapsed = s.tenure.until.Load()
	if s.lapsed != revoked {
		s.rt.log.Warn("replies withheld: the node's trust in its lease has run out",
			slog.Any("shard", s.id), slog.Uint64("epoch", s.epoch.Load()))
	}
	s.withhold(&s.leaving)
	s.endWatches()
}

// barred reports whether the shard was found without trust and that has not
// changed.
func (s *shard) barred() bool {
	if s.lapsed == 0 {
		return false
	}
	if s.lapsed == s.tenure.until.Load() {
		return true
	}
	s.lapsed = 0
	return false
}

// withhold answers the calls of a list, whose turns were run, without telling
// what they saw. Those that changed something have perhaps happened.
func (s *shard) withhold(l *callList) {
	calls := l.take()
	s.counts.withheld.Add(uint64(calls.n)) //nolint:gosec // not negative
	for c := calls.pop(); c != nil; c = calls.pop() {
		if c.wrote {
			c.complete(errUntrusted)
		} else {
			c.complete(errNotOwner)
		}
	}
}

// withholdGate does so with the calls that wait for a commit.
func (s *shard) withholdGate() {
	for _, l := range []*callList{&s.gate.flyingCalls, &s.gate.dirtyCalls} {
		s.waiting -= l.n
		s.withhold(l)
	}
}

const movingRetryAfter = 50 * time.Millisecond

var (
	errMoving    = failure.New(failure.Moving, "the key's shard is on its way to another node; nothing was done").After(movingRetryAfter)
	errUntrusted = failure.New(failure.OutcomeUnknown, "this node perhaps lost the key's shard before it could answer; the operation perhaps happened")
)
