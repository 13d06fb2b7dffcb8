package actors

import (
	"log/slog"
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
	if c.due != 0 {
		if t := g.once(); t != nil && c.once == onceSweep {
			s.pruneOnce(g)
			t.timer = c.due
			s.markDirty(g)
			if left := t.due(); left != 0 && left <= s.now() {
				s.timers.cut(left)
			}
		}
		c.complete(nil)
		return
	}
	if c.once != "" {
		if settled := s.onceBefore(g, c); settled {
			return
		}
	}
	changed, err := s.apply(g, c, c.command)
	c.wrote = changed || c.once != ""
	if changed {
		s.markDirty(g)
	}
	if c.once != "" {
		err = s.onceAfter(g, c, err)
	}
	s.answer(g, c, err)
}

// apply runs the handler. Whatever it changed is undone where it fails. A nil
// command is the due turn of the grain, on the way to the call's own.
func (s *shard) apply(g *grain, c *call, command proto.Message) (changed bool, err error) {
	g.kind.undo.Assign(g.state)
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
	if err != nil {
		g.state.Assign(g.kind.undo)
		changed = false
	}
	return changed, err
}

// handlerFailed undoes a turn that panicked. reason is nil after a
// runtime.Goexit, which ends the runner's goroutine; then the call is answered
// on the way out.
func (s *shard) handlerFailed(g *grain, c *call, reason any) error {
	g.state.Assign(g.kind.undo)
	s.counts.panics.Add(1)
	s.rt.log.Error("handler panicked",
		slog.String("kind", g.kind.kind.Name()), slog.String("method", c.method),
		slog.Any("shard", s.id), slog.Any("panic", reason), slog.String("stack", string(debug.Stack())))
	err := failure.New(failure.HandlerFailed, "the handler of %s failed; its change was undone", c.method)
	if reason == nil {
		s.current = nil
		c.complete(err)
	}
	return err
}

// expire gives a state whose time has come its turn, before anybody else sees
// it. Where that fails the call is not run: it would see what is past its time.
func (s *shard) expire(g *grain, c *call) error {
	due := g.state.Due()
	if due == 0 || due > s.now() {
		return nil
	}
	changed, err := s.apply(g, c, nil)
	if changed {
		s.markDirty(g)
	}
	if err != nil && !isNoAnswer(err) {
		err = failure.Wrap(err, failure.HandlerFailed, "the grain's due turn failed: %v", err)
	}
	return err
}

func (s *shard) markDirty(g *grain) {
	if !g.is(dirty) {
		g.set(dirty)
		s.gate.dirtyGrains = append(s.gate.dirtyGrains, g)
	}
}

// answer lets a reply go, or holds it at the gate until the state that it made
// or saw is durable. What the shard itself refuses passes at once.
func (s *shard) answer(g *grain, c *call, err error) {
	switch {
	case !s.rt.gated || g.flags&(dirty|flying) == 0 || isNoAnswer(err):
		c.complete(err)
		return
	case g.is(dirty):
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
