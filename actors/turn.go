package actors

import (
	"runtime/debug"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
)

// turn runs one call on a loaded grain.
func (s *shard) turn(g *grain, c *call) {
	c.epoch = s.epoch.Load()
	err := s.expire(g, c)
	if err != nil {
		c.complete(err)
		return
	}
	resumed, last := false, false
	if c.parking != nil {
		var ended bool
		if resumed, last, ended = s.comeBack(g, c); ended {
			return
		}
	}
	switch {
	case c.task == taskDue:
		s.dueTurn(g, c)
		return
	case c.task == taskClose:
		s.closeSession(g, c)
		return
	case c.task == taskWatch:
		s.watchTurn(g, c)
		return
	case c.once != "":
		if settled := s.onceBefore(g, c); settled {
			return
		}
	}
	before := g.size()
	s.turnArg.resumed = resumed
	changed, err := s.guarded(g, c, c.command)
	s.turnArg.resumed = false
	if parked, ok := err.(*Parked); ok { //nolint:errorlint // handlers return it bare
		s.parkedTurn(g, c, parked.Waiter, before, changed, resumed)
		return
	}
	if last && err != nil {
		s.cancel(g, c) // nobody comes for what it has asked for
	}
	flags := grainFlags(0)
	switch {
	case c.client != nil:
		changed, err = s.keepResult(g, c, changed, err)
		flags = c.client.flags
	case c.once != "":
		err = s.onceAfter(g, c, err)
	}
	if c.guard != nil && err == nil {
		changed = s.noteGuard(g, c.guard) || changed
	}
	c.wrote = changed || c.once != "" || c.client != nil
	if changed {
		s.markChanged(g, before)
	}
	if len(s.woken) > 0 {
		s.wakeUp(g)
	}
	s.answer(g, flags, c, err)
}

// plainTurn is turn for a plain call.
func (s *shard) plainTurn(g *grain, c *call) {
	c.epoch = s.epoch.Load()
	if err := s.expire(g, c); err != nil {
		c.complete(err)
		return
	}
	before := g.size()
	s.turnArg.resumed = false
	changed, err := s.apply(g, c, c.command)
	if parked, ok := err.(*Parked); ok { //nolint:errorlint // handlers return it bare
		s.parkedTurn(g, c, parked.Waiter, before, changed, false)
		return
	}
	c.wrote = changed
	if changed {
		s.markChanged(g, before)
	}
	if len(s.woken) > 0 {
		s.wakeUp(g)
	}
	s.answer(g, 0, c, err)
}

// dueTurn ends the turn of a timer; what was due of the state is done already.
func (s *shard) dueTurn(g *grain, c *call) {
	if t := g.once(); t != nil && c.once == onceSweep {
		s.pruneOnce(g)
		t.timer = c.due
		s.markDirty(g)
		if left := t.due(); left != 0 && left <= s.now() {
			s.timers.cut(left)
		}
	}
	c.complete(nil)
}

// guarded runs the handler, unless the call's guard is refused.
func (s *shard) guarded(g *grain, c *call, command proto.Message) (changed bool, err error) {
	if c.guard != nil {
		if err := s.checkGuard(g, c.guard); err != nil {
			return false, err
		}
	}
	return s.apply(g, c, command)
}

// apply runs the handler. Whatever it changed is undone where it fails. A nil
// command is the due turn of the grain, on the way to the call's own.
func (s *shard) apply(g *grain, c *call, command proto.Message) (changed bool, err error) {
	g.begin()
	returned := false
	defer func() {
		if !returned {
			err = s.handlerFailed(g, c, recover())
			changed = false
		}
	}()
	s.turnArg.key = g.key
	changed, err = g.state.Apply(&s.turnArg, command, c.reply)
	returned = true
	if err != nil && !s.mayPark(g, c, command, err) {
		s.undo(g)
		changed = false
	}
	return changed, err
}

// begin keeps what undo needs.
func (g *grain) begin() {
	if g.kind.undoes {
		if u, ok := g.state.(Undoer); ok {
			u.Begin(g.kind.undo)
			return
		}
	}
	g.kind.undo.Assign(g.state)
}

// undo takes back what the last turn has changed, and whom it has woken.
func (s *shard) undo(g *grain) {
	clear(s.woken)
	s.woken = s.woken[:0]
	if g.kind.undoes {
		if u, ok := g.state.(Undoer); ok {
			u.Undo()
			return
		}
	}
	g.state.Assign(g.kind.undo)
}

// handlerFailed undoes a turn that panicked. reason is nil after a
// runtime.Goexit, which ends the runner's goroutine; then the call is answered
// on the way out.
func (s *shard) handlerFailed(g *grain, c *call, reason any) error {
	s.undo(g)
	return s.panicked(g, c, reason, debug.Stack())
}

// expire gives a state whose time has come its turn, before anybody else sees
// it. Where that fails the call is not run: it would see what is past its time.
func (s *shard) expire(g *grain, c *call) error {
	due := g.state.Due()
	if due == 0 || due > s.now() {
		return nil
	}
	if ses := g.session(); ses != nil {
		waits := c.parking != nil && c.session.ID == g.key
		if waits || g.extra != nil && g.extra.released > 0 { // calls of it wait, or did just now
			ses.expires = s.now() + sessionKept
			s.markDirty(g)
			return nil
		}
		s.endSession(g)
		return nil
	}
	before := g.size()
	changed, err := s.apply(g, c, nil)
	if changed {
		s.markChanged(g, before)
	}
	s.wakeUp(g)
	if err != nil && !isNoAnswer(err) {
		err = failure.Wrap(err, failure.HandlerFailed, "the grain's due turn failed: %v", err)
	}
	return err
}

// size is what a Sizer says of itself; 0 for all others.
func (g *grain) size() int {
	if !g.kind.sized {
		return 0
	}
	if sizer, ok := g.state.(Sizer); ok {
		return sizer.Size()
	}
	return 0
}

// markDirty puts a grain into the next flight.
func (s *shard) markDirty(g *grain) {
	if !g.is(dirty) {
		g.set(dirty)
		s.chores = true
		s.gate.dirtyGrains = append(s.gate.dirtyGrains, g)
		s.gate.weight += recordOverhead + 2*len(g.key) + g.size()
	}
}

// markChanged marks a grain dirty whose state had the given size before.
func (s *shard) markChanged(g *grain, before int) {
	if g.is(watched) {
		s.note(g)
		s.chores = true
	}
	if g.is(dirty) {
		s.gate.weight += max(0, g.size()-before)
		return
	}
	s.markDirty(g)
}

// answer lets a reply go, or holds it at the gate until the state that it made
// or saw is durable, and what else has the given flags. A column's has no grain.
// What the shard itself refuses passes at once.
func (s *shard) answer(g *grain, flags grainFlags, c *call, err error) {
	if g != nil {
		flags |= g.flags
	}
	switch {
	case !s.rt.gated || flags&(dirty|flying) == 0 || isNoAnswer(err):
		s.say(c, err)
		return
	case flags&dirty != 0:
		s.wait(&s.gate.dirtyCalls, c)
	default:
		s.wait(&s.gate.flyingCalls, c)
	}
	c.err, c.grain = err, g
}

// isNoAnswer tells a failure of the machinery from an answer of the kind: it
// reveals nothing of the state and is not kept.
func isNoAnswer(err error) bool {
	e, ok := err.(*failure.Error) //nolint:errorlint // handlers return it bare
	if !ok {
		return err != nil
	}
	switch e.Reason {
	case failure.HandlerFailed, failure.Overloaded, failure.NotOwner, failure.Moving,
		failure.Stopping, failure.UnknownMethod, failure.StoreUnavailable:
		return true
	default:
		return false
	}
}
