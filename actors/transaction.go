package actors

import (
	"fmt"
	"log/slog"
	"runtime/debug"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/keyspace"
)

// Transactions. A kind whose commands are made of steps on other grains of the
// shard says so by being a Composer. The shard waits until all those grains are
// resident, as for a column, lets expire what is due of them, and runs the steps
// in one turn. A step that fails undoes those before it. A commit is cut between
// turns and takes all that is dirty, so that it has a transaction as a whole or
// nothing of it; and the answer passes the gate when all that it saw and made is
// durable.

// maxReplyBytes bounds the encoded reply of a transaction: a client reads
// messages of bounded size, and a session keeps it.
const maxReplyBytes = 1 << 20

// Composer is a Kind whose commands are carried out on other grains of the same
// shard, together or not at all. Its own grains have no state; they hold the
// kept answers.
type Composer interface {
	Kind
	// Compose takes a command apart, and puts the replies to its steps into
	// reply, where they are filled in later. It fails with a *failure.Error
	// where the command is not well formed. It keeps nothing, may be called
	// concurrently, and again for the same command with an empty reply.
	Compose(command, reply proto.Message) ([]Step, error)
}

// Step is one part of a command.
type Step struct {
	Kind, Key string
	// Guard is the one under which the step writes; nil for none.
	Guard *Guard
	// Command is run on the grain by its Apply or, where Reply is nil, held
	// against it by its Check. Conditions come before all others.
	Command, Reply proto.Message

	kind  int
	grain *grain // of the turn, or of the last attempt at one
}

// Checker is a State that a condition can be held against.
type Checker interface {
	State
	// Check returns nil where the condition holds, else a *failure.Error: with
	// CONDITION_FAILED where it does not. It changes nothing.
	Check(t *Turn, condition proto.Message) error
}

// undoLog is what the steps of the running transaction have changed.
type undoLog struct {
	steps  []undoStep
	weight int // of the gate, before
}

// undoStep is one grain as it was before a step.
type undoStep struct {
	grain *grain
	state State // nil where only the guards changed
	size  int
	// guarded: the marks were replaced, too.
	guarded, changed bool
	marks            []guardMark
}

// compose takes the command of a Composer apart and checks where it leads. All
// keys must be of the shard of key.
func (r *Runtime) compose(kind Composer, key string, command, reply proto.Message) ([]Step, error) {
	steps, err := kind.Compose(command, reply)
	if err != nil {
		return nil, err //nolint:wrapcheck // a *failure.Error
	}
	count := uint32(len(r.shards)) //nolint:gosec // at most keyspace.MaxShards
	shard := keyspace.Shard(key, count)
	for i := range steps {
		st := &steps[i]
		err := keyspace.Check(st.Key)
		if err == nil && st.Guard != nil {
			err = st.Guard.check()
		}
		st.kind = r.kindOf(st.Kind)
		switch {
		case err != nil:
		case keyspace.Shard(st.Key, count) != shard:
			err = failure.New(failure.CrossShard, "the key %q is of another shard than %q; give them one tag in braces", st.Key, key)
		case st.kind < 0 || r.composers[st.kind] != nil:
			err = failure.New(failure.UnknownKind, "this node serves no kind named %q", st.Kind)
		}
		if err != nil {
			return nil, blame(steps, i, err)
		}
	}
	return steps, nil
}

// blame says which step an error is of.
func blame(steps []Step, i int, err error) error {
	list, first := "conditions", 0
	if steps[i].Reply != nil {
		list = "operations"
		for steps[first].Reply == nil {
			first++
		}
	}
	e, ok := err.(*failure.Error) //nolint:errorlint // handlers return it bare
	if !ok {
		return failure.Wrap(err, failure.HandlerFailed, "%s[%d] cannot be a part of a transaction; nothing was done", list, i-first)
	}
	named := *e
	named.Message = fmt.Sprintf("%s[%d]: %s", list, i-first, e.Message)
	return &named
}

// admitSteps runs a transaction's turn, once all its grains are resident.
func (s *shard) admitSteps(c *call) {
	for i := range c.steps {
		if s.crowds(c.steps[i].kind, c.steps[i].Key) {
			s.refuseCrowding(c)
			return
		}
	}
	s.items = s.items[:0]
	var own, last *grain
	if c.once != "" {
		own = s.find(c.kindIndex, c.key)
		s.items = append(s.items, own)
		if s.lacks(own, true, false) {
			last = own
		}
	}
	for i := range c.steps {
		st := &c.steps[i]
		st.grain = s.find(st.kind, st.Key)
		s.items = append(s.items, st.grain)
		if s.lacks(st.grain, false, st.Guard != nil) {
			last = st.grain // what is wanted last is read last
		}
	}
	if last == nil {
		s.stepsTurn(own, c)
	} else {
		s.parkColumn(c, last)
	}
	clear(s.items)
}

// stepsTurn runs the turn of a transaction; own holds the kept answers, if it
// carries an idempotency key.
func (s *shard) stepsTurn(own *grain, c *call) {
	c.epoch = s.epoch.Load()
	if own != nil && s.onceBefore(own, c) {
		return
	}
	s.undone.weight = s.gate.weight
	for i := range c.steps {
		if err := s.expire(c.steps[i].grain, c); err != nil {
			c.complete(blame(c.steps, i, err))
			return
		}
	}
	err := s.runSteps(c)
	switch {
	case c.client != nil:
		_, err = s.keepResult(nil, c, false, err)
	case own != nil:
		err = s.onceAfter(own, c, err)
	}
	c.wrote = c.once != "" || c.client != nil || len(s.undone.steps) > 0
	flags := s.acceptSteps(c)
	s.answer(own, flags, c, err)
}

// runSteps runs all steps, or none.
func (s *shard) runSteps(c *call) error {
	s.undone.weight = s.gate.weight
	for i := range c.steps {
		if err := s.step(c, &c.steps[i]); err != nil {
			s.undoSteps()
			return blame(c.steps, i, err)
		}
	}
	s.counts.turns.Add(uint64(len(c.steps)))
	if n := proto.Size(c.reply); n > maxReplyBytes {
		s.undoSteps()
		return failure.New(failure.Limit, "the reply would have %d bytes, at most %d are sent; nothing was done", n, maxReplyBytes)
	}
	return nil
}

// step runs one step, and notes how it is undone.
func (s *shard) step(c *call, st *Step) error {
	g := st.grain
	if st.Reply == nil {
		return s.check(g, c, st.Command)
	}
	if _, large := g.state.(Undoer); large {
		return failure.New(failure.UnknownMethod, "a %s can be a condition of a transaction, and no more", st.Kind)
	}
	size := g.size()
	// The handler's surroundings are the call's; so the step takes its place.
	reply, guard := c.reply, c.guard
	c.reply, c.guard = st.Reply, st.Guard
	changed, err := s.guarded(g, c, st.Command)
	c.reply, c.guard = reply, guard
	if err != nil {
		return err
	}
	s.wakeUp(g) // in vain where a later step fails: who is woken looks again
	u := undoStep{grain: g, size: size}
	if changed {
		u.state = g.kind.kind.New()
		u.state.Assign(g.kind.undo)
	}
	if st.Guard != nil {
		t := g.guards()
		u.marks, u.changed = t.marks, t.changed
		u.guarded = s.noteGuard(g, st.Guard)
	}
	if changed || u.guarded {
		s.undone.steps = append(s.undone.steps, u)
	}
	return nil
}

// check holds a condition against a grain.
func (s *shard) check(g *grain, c *call, condition proto.Message) (err error) {
	state, ok := g.state.(Checker)
	if !ok {
		return failure.New(failure.UnknownMethod, "a %s cannot be a condition", g.kind.kind.Name())
	}
	returned := false
	defer func() {
		if !returned {
			err = s.panicked(g, c, recover(), debug.Stack())
		}
	}()
	s.turnArg.key = g.key
	err = state.Check(&s.turnArg, condition)
	returned = true
	return err
}

// undoSteps takes back what the steps have changed, the last one first.
func (s *shard) undoSteps() {
	for i := len(s.undone.steps) - 1; i >= 0; i-- {
		u := &s.undone.steps[i]
		if u.state != nil {
			u.grain.state.Assign(u.state)
		}
		if u.guarded {
			s.setGuards(u.grain, u.marks)
			u.grain.guards().changed = u.changed
		}
	}
	s.gate.weight = s.undone.weight
	s.forgetUndo()
}

// undoTurn takes back what the handler of a call has changed.
func (s *shard) undoTurn(g *grain, c *call) {
	if c.steps != nil {
		s.undoSteps()
	} else {
		s.undo(g)
	}
}

func (s *shard) forgetUndo() {
	clear(s.undone.steps)
	s.undone.steps = s.undone.steps[:0]
}

// acceptSteps makes what the steps have changed a part of the next commit, and
// returns the flags of all that they saw and made.
func (s *shard) acceptSteps(c *call) (flags grainFlags) {
	for i := range s.undone.steps {
		u := &s.undone.steps[i]
		s.markChanged(u.grain, u.size)
	}
	s.forgetUndo()
	for i := range c.steps {
		flags |= c.steps[i].grain.flags
	}
	if flags&dirty != 0 { // what it has only seen binds it, too
		s.gate.bound = true
	}
	if c.client != nil {
		flags |= c.client.flags
	}
	return flags
}

// rewind makes a call ready to run again.
func (c *call) rewind(r *Runtime) {
	if c.reply != nil {
		proto.Reset(c.reply)
	}
	if c.steps != nil {
		c.steps, _ = r.compose(r.composers[c.kindIndex], c.key, c.command, c.reply) // went well before
	}
}

// abandonCut forgets everything that is dirty, since a state of it does not
// encode and a transaction has bound it to others: none of them may be written
// without it. It is a defect of the state's kind.
func (s *shard) abandonCut(err error) {
	s.rollback(failure.Wrap(err, failure.HandlerFailed, "a state that had to be committed with this one does not encode; the change was undone"))
}

// panicked answers for a handler that did not return.
func (s *shard) panicked(g *grain, c *call, reason any, stack []byte) error {
	s.counts.panics.Add(1)
	s.rt.log.Error("handler panicked",
		slog.String("kind", g.kind.kind.Name()), slog.String("method", c.method),
		slog.Any("shard", s.id), slog.Any("panic", reason), slog.String("stack", string(stack)))
	err := failure.New(failure.HandlerFailed, "the handler of %s failed; its change was undone", c.method)
	switch {
	case reason != nil:
	case c.column != nil:
		s.current = nil
		s.failColumn(c, failure.New(failure.OutcomeUnknown, "the handler of %s failed between two items; some are perhaps done", c.method))
	default:
		if c.steps != nil {
			s.undoSteps()
		}
		s.current = nil
		c.complete(err)
	}
	return err
}
