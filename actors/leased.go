package actors

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/quern-io/quern/failure"
)

// Lease is the right to answer for a shard.
type Lease struct {
	Shard uint32
	// Epoch is the shard's in the store already. It is above every one under
	// which this node has served the shard.
	Epoch uint64
	// Time is the shard's clock in the store's row, in Unix milliseconds.
	Time int64
	// Until is the time by Config.Clock from which on nothing is answered.
	Until time.Duration
}

// Serve makes a shard answer under a lease, from states that it reads anew. It
// returns at once. A tenure that was not revoked ends with it, and what was
// acknowledged there and is not durable is lost: revoke first. Serve, Extend,
// Revoke and Drain of one shard must not be called concurrently, but that the
// others may be called while a Drain waits.
func (r *Runtime) Serve(l Lease) {
	t := newTenure(l)
	s := r.shards[l.Shard]
	if !r.cfg.Leased || r.stopping.Load() {
		return
	}
	s.granted.Store(t)
	s.box.post(func() { s.serve(t, l) })
}

// Extend moves the end of the trust in the shards' leases to a later time.
func (r *Runtime) Extend(shards []uint32, until time.Duration) {
	for _, id := range shards {
		if t := r.shards[id].granted.Load(); t != nil {
			t.extend(until)
		}
	}
}

// Revoke ends the tenure of a shard that serves under the epoch, or under one
// that it has raised from it. Nothing is answered from now on: what was begun
// gets "outcome unknown", but NOT_OWNER where it changed nothing, and so does
// what had no turn. Where the store is not durable, what was acknowledged is
// written to it first; a [Runtime.Raise] waits for that. Revoke itself returns at
// once. A tenure that has ended or began with a higher epoch is left alone.
func (r *Runtime) Revoke(shard uint32, epoch uint64) {
	s := r.shards[shard]
	if t := s.granted.Load(); t != nil && epoch >= t.first {
		t.revoke()
		s.box.post(func() { s.revoke(t) })
	}
}

// Drain ends the tenure of a shard without a loss: from now on calls get MOVING;
// what was begun becomes durable and is answered, while the lease lasts; then
// nothing is answered any more, and Drain returns. Calls get MOVING until the
// shard is revoked. It fails where ctx ends first; the drain goes on then.
func (r *Runtime) Drain(ctx context.Context, shard uint32, epoch uint64) error {
	s := r.shards[shard]
	t := s.granted.Load()
	if t == nil || epoch < t.first {
		return nil
	}
	s.box.post(func() { s.beginDrain(t) })
	select {
	case <-t.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("actors: shard %d still had work to make durable: %w", shard, ctx.Err())
	}
}

// Raise raises epochs at the store, as [Store] says. Where the store is not
// durable it first waits until what the shards have acknowledged in tenures that
// were revoked has been written: it would be fenced.
func (r *Runtime) Raise(ctx context.Context, requests []Raise) ([]Raised, error) {
	for i := range requests {
		if r.gated {
			break
		}
		t := r.shards[requests[i].Shard].granted.Load()
		if t == nil || !t.isRevoked() {
			continue
		}
		select {
		case <-t.over:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return r.store.Raise(ctx, requests) //nolint:wrapcheck // the store's own answer
}

// serve begins a tenure.
func (s *shard) serve(t *tenure, l Lease) {
	switch {
	case t.isRevoked(), s.phase == closed:
		close(t.over)
		return
	case l.Epoch <= s.epoch.Load():
		s.rt.log.Error("lease ignored: its epoch is not above the last one", slog.Any("shard", s.id),
			slog.Uint64("epoch", l.Epoch), slog.Uint64("last", s.epoch.Load()))
		t.revoke()
		close(t.over)
		s.rt.tidings.fenced(s, l.Epoch, s.epoch.Load())
		return
	case s.tenure != nil:
		if s.endTenure(errNotOwner); s.phase == closed {
			close(t.over)
			return
		}
	}
	s.tenure, s.refusal, s.lapsed = t, nil, 0
	s.gate.mark = !s.rt.gated
	s.activate(l.Epoch, l.Time)
}

// revoke takes the end of a tenure.
func (s *shard) revoke(t *tenure) {
	switch {
	case s.tenure == nil && s.phase == idle && s.granted.Load() == t: // drained before
		s.refusal = errNotOwner
	case s.tenure != t:
	case s.rt.gated || s.phase == raising:
		s.endTenure(errNotOwner)
	case s.phase == winding:
		s.refusal = errNotOwner
	default:
		s.wind(errNotOwner)
	}
}

// beginDrain begins a drain.
func (s *shard) beginDrain(t *tenure) {
	if s.tenure != t {
		return
	}
	switch s.phase {
	case serving:
		s.counts.drains.Add(1)
		s.wind(errMoving)
	case raising: // it has begun nothing
		s.endTenure(errMoving)
	default:
	}
}

// wind lets a shard take no more turns. What was begun becomes durable, and is
// answered while the tenure is trusted; then the tenure ends.
func (s *shard) wind(refusal *failure.Error) {
	s.phase, s.refusal = winding, refusal
	s.ready.Store(false)
	s.failParked(refusal)
	s.failAll(&s.gate.stalled, refusal)
	s.failAll(&s.sessions.openers, refusal)
	for _, k := range s.kinds {
		for _, g := range k.grains {
			if g.extra != nil {
				s.failAll(&g.extra.parked, refusal)
			}
		}
	}
	s.rt.committer.hurry()
}

// goOnWinding follows a batch of a shard that is winding.
func (s *shard) goOnWinding() {
	s.tellNoted()
	if s.cut(); s.gate.inFlight {
		s.rt.committer.hurry()
	}
	s.letGo()
	if !s.gate.inFlight && len(s.gate.dirtyGrains) == 0 && !s.gate.mark {
		s.endTenure(s.refusal)
	}
}

// giveBack ends a tenure after a defect. Other nodes do not see the store, and so
// not its epochs either: a new one must come from the owner of the leases.
func (s *shard) giveBack(why error) {
	epoch := s.epoch.Load()
	s.rt.log.Error("shard given back after a defect", slog.Any("shard", s.id), slog.Uint64("epoch", epoch), slog.Any("err", why))
	s.lost(epoch)
}

// endTenure forgets a tenure. What is not answered is withheld; what had no turn,
// and all that comes, gets the refusal.
func (s *shard) endTenure(refusal *failure.Error) {
	s.phase, s.refusal = idle, refusal
	s.owned.Store(false)
	s.ready.Store(false)
	s.endActivation(errUntrusted)
	s.failAll(&s.held, refusal)
	s.overTenure()
	if s.drained != nil {
		s.close()
	}
}

// overTenure lets those go on who wait for the end of the tenure.
func (s *shard) overTenure() {
	if t := s.tenure; t != nil {
		s.tenure, s.lapsed = nil, 0
		t.revoke()
		close(t.over)
	}
}
