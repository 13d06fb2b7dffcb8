package actors

import (
	"context"
	"crypto/rand"
	"log/slog"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/fastproto"
)

// sessionLimit bounds the sessions of a shard.
const sessionLimit = 8192

// sessionTable counts a shard's sessions. The records are counted when the
// first session of an activation is to be opened; until then nobody asks.
type sessionTable struct {
	open     int // valid where counted
	counted  bool
	counting bool
	// round tells counts apart: one that was begun before a rollback may
	// have missed what that brought back.
	round uint64
	// ended are the sessions that the count under way may still find.
	ended map[string]struct{}
	// openers wait for the count.
	openers callList
}

// recount forgets the count.
func (t *sessionTable) recount() {
	t.counted = false
	t.round++
}

func (r *Runtime) sessionIndex() int { return len(r.kinds) - 1 }

func (s *shard) sessionGrains() *kindGrains { return &s.kinds[s.rt.sessionIndex()] }

// OpenSession opens a session at a shard. done is called as a [Completer] is,
// with the session's id, when it is durable. It fails with OVERLOADED where the
// shard has 8,192 sessions. One that is not used within 5 minutes expires, any
// other about an hour after its last use.
func (r *Runtime) OpenSession(shard uint32, done func(id string, epoch uint64, err error)) {
	o := &opening{done: done}
	if err := r.checkShard(shard); err != nil {
		o.Completed(0, err)
		return
	}
	c := r.calls.get()
	c.task, c.opening = taskOpen, o
	r.shards[shard].submit(c, o)
}

// CloseSession forgets a session and all its results; done is called as a
// [Completer] is, when that is durable. A session that is not known is no error.
func (r *Runtime) CloseSession(shard uint32, id string, done func(epoch uint64, err error)) {
	if err := r.checkShard(shard); err != nil {
		done(0, err)
		return
	}
	if len(id) != sessionIDBytes {
		done(0, failure.New(failure.InvalidField, "the session's id has %d bytes; it is the %d that the shard gave", len(id), sessionIDBytes))
		return
	}
	c := r.calls.get()
	c.task, c.kindIndex, c.key = taskClose, r.sessionIndex(), id
	r.shards[shard].submit(c, closing(done))
}

func (r *Runtime) checkShard(shard uint32) error {
	switch {
	case r.stopping.Load():
		return errStopping
	case uint64(shard) >= uint64(len(r.shards)):
		return failure.New(failure.InvalidField, "there is no shard %d, the last is %d", shard, len(r.shards)-1)
	default:
		return nil
	}
}

// opening takes the end of a call that opens a session.
type opening struct {
	done func(id string, epoch uint64, err error)
	id   string // set by the turn
}

// Completed implements Completer.
func (o *opening) Completed(epoch uint64, err error) {
	if err != nil {
		o.id = ""
	}
	o.done(o.id, epoch, err)
}

type closing func(epoch uint64, err error)

// Completed implements Completer.
func (f closing) Completed(epoch uint64, err error) { f(epoch, err) }

// openSession runs the turn that opens a session. Nobody can know its id, so
// there is no record to look for.
func (s *shard) openSession(c *call) {
	t := &s.sessions
	if !t.counted {
		s.wait(&t.openers, c)
		s.countSessions()
		return
	}
	if t.open >= sessionLimit {
		s.counts.overloaded.Add(1)
		c.complete(errSessionsFull)
		return
	}
	var id [sessionIDBytes]byte
	_, _ = rand.Read(id[:]) // never fails
	g := s.newGrain(s.sessionGrains(), string(id[:]))
	ses := g.session()
	ses.used, ses.expires = s.now(), s.now()+sessionUnused
	t.open++
	s.markDirty(g)
	c.epoch, c.wrote, c.opening.id = s.epoch.Load(), true, g.key
	s.answer(g, 0, c, nil)
}

// closeSession runs the turn that closes a session.
func (s *shard) closeSession(g *grain, c *call) {
	c.wrote = true
	if g.session().open() {
		s.endSession(g)
	}
	s.answer(g, 0, c, nil)
}

// endSession makes a session one that is not open.
func (s *shard) endSession(g *grain) {
	ses, before := g.session(), g.weight()
	*ses = session{}
	s.residents.weight += g.weight() - before
	s.markDirty(g)
	t := &s.sessions
	if t.counted {
		t.open--
	} else if t.counting {
		t.ended[g.key] = struct{}{}
	}
}

// countSessions reads how many sessions there are.
func (s *shard) countSessions() {
	t := &s.sessions
	if t.counting {
		return
	}
	t.counting, t.ended = true, make(map[string]struct{})
	for id, g := range s.sessionGrains().grains {
		if !g.is(loading) && !g.session().open() {
			t.ended[id] = struct{}{}
		}
	}
	activation, round := s.activation, t.round
	s.rt.loader.run(func(ctx context.Context) {
		ids, err := s.rt.readSessions(ctx, s.id)
		s.box.post(func() { s.sessionsCounted(activation, round, ids, err) })
	})
}

// readSessions returns the ids of a shard's sessions.
func (r *Runtime) readSessions(ctx context.Context, shard uint32) (ids []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	prefix := appendStateKey(nil, sessionKindName, "")
	err = r.store.Scan(ctx, shard, prefix, prefixEnd(prefix), func(key, _ []byte) bool {
		ids = append(ids, string(key[len(prefix):]))
		return true
	})
	return ids, err
}

// sessionsCounted takes the count, and lets sessions be opened.
func (s *shard) sessionsCounted(activation, round uint64, ids []string, err error) {
	t := &s.sessions
	if activation != s.activation {
		return
	}
	t.counting = false
	switch {
	case err != nil:
		s.rt.log.Warn("sessions not counted", slog.Any("shard", s.id), slog.Any("err", err))
		s.failAll(&t.openers, unreadable(err))
	case round == t.round:
		t.counted, t.open = true, len(ids)
		for _, id := range ids {
			if _, ended := t.ended[id]; ended {
				t.open--
			}
		}
		fallthrough
	default: // after a rollback the first opener has it counted again
		s.resume(&t.openers)
	}
	t.ended = nil
}

// enter begins the turn of a numbered operation: it finds the session, and
// settles the call where that knows the answer, or where the session must be
// read first. Otherwise the handler is to run.
func (s *shard) enter(c *call) (settled bool) {
	g := s.sessionOf(c)
	if g.is(loading) {
		if c.column == nil && c.steps == nil {
			s.find(c.kindIndex, c.key) // read together
		}
		s.wait(&g.extras().parked, c)
		return true
	}
	c.epoch = s.epoch.Load()
	_ = s.expire(g, c) // of a session never fails
	ses := g.session()
	if !ses.open() {
		s.forsake(c)
		s.answer(g, 0, c, errNoSession)
		return true
	}
	s.use(g, &c.session)
	n, l := c.session.Number, ses.lane(&c.session)
	switch kept := l.find(n); {
	case n <= l.done:
		s.forsake(c)
		s.answer(g, 0, c, errSettled)
	case kept != nil:
		s.forsake(c)
		s.counts.replays.Add(1)
		c.client, c.numbered, c.wrote = g, true, true
		s.answer(g, 0, c, kept.replay(c))
	case n-l.done > sessionWindow:
		s.forsake(c)
		s.counts.overloaded.Add(1)
		c.complete(errWindow)
	case l.bytes >= sessionBytes && n != l.done+1: // the lowest one makes room once it is settled
		s.forsake(c)
		s.counts.overloaded.Add(1)
		c.complete(errSessionFull)
	default:
		c.client = g
		return false
	}
	return true
}

// sessionOf finds the call's session. What the memo has is of an earlier
// activation, or was evicted, where the shard does not know it any more.
func (s *shard) sessionOf(c *call) *grain {
	memo := c.memo
	if memo == nil {
		return s.find(s.rt.sessionIndex(), c.session.ID)
	}
	g, _ := memo.Found.(*grain)
	if g != nil && g.kind == s.sessionGrains() && !g.is(dropped) {
		g.set(touched)
		return g
	}
	g = s.find(s.rt.sessionIndex(), c.session.ID)
	memo.Found = g
	return g
}

// use notes that a session was used, and what its client has settled.
func (s *shard) use(g *grain, in *Session) {
	ses := g.session()
	ses.used = s.now()
	usual, waits := in.Settled, in.SettledOther
	if in.Waits {
		usual, waits = waits, usual
	}
	if usual > ses.usual.done || waits > ses.waits.done {
		before := g.weight()
		ses.usual.settle(usual)
		ses.waits.settle(waits)
		s.residents.weight += g.weight() - before
		s.markDirty(g)
	}
	steps := (ses.used + sessionKept + sessionStep - 1) / sessionStep
	if expires := steps * sessionStep; expires > ses.expires {
		ses.expires = expires
		s.markDirty(g)
	}
}

// keepResult keeps the answer of a handler that has just run in the call's
// session. What was no answer is not kept; a reply that does not encode undoes
// the turn.
func (s *shard) keepResult(g *grain, c *call, changed bool, err error) (bool, error) {
	if isNoAnswer(err) {
		return changed, err
	}
	ses := c.client.session()
	l, weight, bytes := ses.lane(&c.session), c.client.weight(), ses.bytes()
	if refusal, ok := err.(*failure.Error); ok { //nolint:errorlint // isNoAnswer has checked the type
		l.keepRefusal(c.session.Number, refusal)
	} else {
		encoded, broken := fastproto.Append(s.scratch[:0], c.reply)
		if broken != nil {
			s.undoTurn(g, c)
			return false, failure.Wrap(broken, failure.HandlerFailed, "the reply does not encode; the change was undone")
		}
		s.scratch = encoded
		l.keepReply(c.session.Number, encoded)
	}
	s.resultKept(c, weight, bytes)
	return changed, err
}

// resultKept follows what a call has put into its session, which had the given
// weight and so many bytes of results before.
func (s *shard) resultKept(c *call, weight, bytes int) {
	s.residents.weight += c.client.weight() - weight
	s.gate.weight += c.client.session().bytes() - bytes
	s.markDirty(c.client)
	c.numbered = true
}

// forgetResult takes back the result of a call whose turn is undone.
func (s *shard) forgetResult(c *call) {
	weight := c.client.weight()
	c.client.session().lane(&c.session).forget(c.session.Number)
	s.residents.weight += c.client.weight() - weight
}

// kept is the result of the call's number; nil where there is none.
func (c *call) kept() *result { return c.client.session().lane(&c.session).find(c.session.Number) }

// place is where a result is kept.
type place struct {
	client *grain
	waits  bool
	number uint64
}

func (c *call) place() place { return place{c.client, c.session.Waits, c.session.Number} }
