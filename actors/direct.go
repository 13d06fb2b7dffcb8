package actors

import "time"

// Direct runs operations that have nothing to wait for: the shard is idle, what
// they need is in memory, and their answers wait for no commit. Each has its
// turn on the caller's goroutine and has ended when Try returns, so that one
// call serves them all and nothing is handed from one to the other. One
// goroutine uses it at a time.
type Direct struct {
	rt   *Runtime
	call *call // nil before the first operation, and after one that was cut off
	// passed is the time of the present operations, since clockOrigin, for so
	// many more of them.
	passed time.Duration
	fresh  int
	// Of the operation under way.
	done    bool
	epoch   uint64
	err     error
	encoded []byte // its reply, where that was encoded
	buffer  []byte
}

// directFresh is how many operations share one look at the clock.
const directFresh = 32

// Begin is called before the first of some operations that follow one another
// at once.
func (d *Direct) Begin() { d.fresh = 0 }

// Reply is the encoded reply of the last operation, nil where it has none or
// was not encoded. It holds until the next one.
func (d *Direct) Reply() []byte { return d.encoded }

// look is the time of an operation.
func (d *Direct) look() time.Duration {
	if d.fresh--; d.fresh < 0 {
		d.passed, d.fresh = time.Since(clockOrigin), directFresh-1
	}
	return d.passed
}

// Direct returns nil where answers wait for commits, or for a look at the end of
// a lease: they need calls of their own meanwhile.
func (r *Runtime) Direct() *Direct {
	if r.gated || r.cfg.Leased {
		return nil
	}
	return &Direct{rt: r}
}

// Try is [Runtime.Invoke] with a key that stands beside the operation and is not
// kept. It returns false, and nothing has happened, where the operation cannot
// have its turn at once, and where all is not as it mostly is.
func (d *Direct) Try(shard uint32, op *Operation, key []byte) (epoch uint64, done bool, err error) {
	r := d.rt
	s, index := r.shards[shard], r.kindOf(op.Kind)
	switch {
	case index < 0, r.composers[index] != nil, r.parks[index]:
		return 0, false, nil
	case op.IdempotencyKey != "", op.Guard != nil, r.stopping.Load():
		return 0, false, nil
	case !s.box.enter():
		return 0, false, nil
	}
	c := d.call
	if c == nil {
		c = r.calls.get()
		c.done, d.call = d, c
	}
	c.kindIndex, c.method, c.command, c.reply = index, op.Method, op.Command, op.Reply
	c.session, c.memo, c.client = op.Session, op.Memo, nil
	d.done, d.err, d.encoded = false, nil, nil
	d.run(s, c, key)
	return d.epoch, d.done, d.err
}

// run is the whole run of a shard that was idle.
func (d *Direct) run(s *shard, c *call, key []byte) {
	finished := false
	defer func() {
		if !finished {
			d.call = nil // it was perhaps completed
			s.box.recover(recover())
		}
	}()
	s.clock.beginAt(d.look())
	if g := s.atHand(c, key); g != nil {
		s.directTurn(d, g, c)
	}
	finished = true
	s.box.leave()
}

// Completed implements Completer: the turn was cut off.
func (d *Direct) Completed(epoch uint64, err error) { d.done, d.epoch, d.err = true, epoch, err }

// atHand returns the grain of an operation that can have its turn now, nil for
// any other one.
func (s *shard) atHand(c *call, key []byte) *grain {
	if s.phase != serving || s.gate.full() || s.waiting >= s.rt.cfg.WaitLimit {
		return nil
	}
	g := s.kinds[c.kindIndex].grains[string(key)]
	if g == nil || g.is(loading) || g.isDue(s) {
		return nil
	}
	if c.session.ID != "" && !s.enterAtHand(c) {
		return nil
	}
	return g
}

// isDue reports whether the state has to expire first.
func (g *grain) isDue(s *shard) bool {
	due := g.state.Due()
	return due != 0 && due <= s.now()
}

// enterAtHand is enter for a number that was never seen, in a session that is
// known from before. It returns false for any other one.
func (s *shard) enterAtHand(c *call) bool {
	if c.memo == nil || c.session.Number == 0 || c.session.Waits {
		return false
	}
	g, _ := c.memo.Found.(*grain)
	if g == nil || g.kind != s.sessionGrains() || g.is(dropped|loading) {
		return false
	}
	ses := g.session()
	if !ses.open() || ses.expires <= s.now() {
		return false
	}
	g.set(touched)
	s.use(g, &c.session)
	n, l := c.session.Number, &ses.usual
	if n <= l.done || n-l.done > sessionWindow || l.find(n) != nil || l.bytes >= sessionBytes && n != l.done+1 {
		return false
	}
	c.client = g
	return true
}

// directTurn is turn and endBatch for an operation to which nothing happens.
func (s *shard) directTurn(d *Direct, g *grain, c *call) {
	g.set(touched)
	c.key, c.epoch = g.key, s.epoch.Load()
	s.current = c
	before := g.size()
	changed, err := s.apply(g, c, c.command)
	if c.client != nil {
		if changed, err = s.keepResult(g, c, changed, err); err == nil {
			d.copyReply(s.scratch)
		}
	}
	if changed {
		s.markChanged(g, before)
	}
	if len(s.woken) > 0 {
		s.wakeUp(g)
	}
	s.current = nil
	d.Completed(c.epoch, err)
	s.counts.turns.Add(1)
	if s.chores {
		s.endBatch()
	}
}

// copyReply takes what the shard has encoded; the next runner encodes over it.
func (d *Direct) copyReply(encoded []byte) {
	d.buffer = append(d.buffer[:0], encoded...)
	d.encoded = d.buffer
}

// enter makes the caller the runner of an idle shard. It returns false where
// the shard is not idle. Who enters must leave.
func (m *mailbox) enter() bool {
	return m.head.Load() == nil && m.head.CompareAndSwap(nil, &m.busy)
}

// leave ends the caller's run, when it has done what came meanwhile.
func (m *mailbox) leave() {
	if m.ready.first != nil || !m.release() {
		m.driveMore()
	}
}
