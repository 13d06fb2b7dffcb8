package owner

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/lease"
)

const (
	never = time.Duration(math.MaxInt64)
	// batch is how many locks one call writes, and proofBatch how many one
	// proves: what one transaction of the authority takes, so that one that is
	// slow does not hold up the others.
	batch      = 128
	proofBatch = 64
	// attemptTimeout bounds calls that write, beside the trust that they could
	// give, and raiseTimeout those to the store.
	attemptTimeout = 5 * time.Second
	raiseTimeout   = 5 * time.Second
	// peerTimeout bounds what members are asked before an epoch is raised.
	peerTimeout = 500 * time.Millisecond
	// leaveTimeout bounds the call that takes a node out of the members.
	leaveTimeout = 2 * time.Second
)

// kind is what calls are of; calls of one kind have a bound.
type kind int

const (
	creating kind = iota
	acquiring
	releasing
	raising
	proving
	kinds
)

// lanes bound the calls of each kind that are under way at once. What does not
// fit waits for the next round, at most one request per shard and kind.
var lanes = [kinds]int{creating: 2, acquiring: 4, releasing: 4, raising: 4, proving: 64}

// write is a request for one lock. answer hands it back to the machine.
type write struct {
	session cluster.Session
	lock    cluster.LockWrite
	answer  func(c *core, outcome lease.Outcome, index uint64)
}

// work is what the machine has asked for and nobody was asked for yet, and how
// many calls are under way.
type work struct {
	writes [kinds][]write
	raises []lease.Raise
	proofs []lease.Prove
	calls  [kinds]int
}

// add takes a decision that asks for something.
func (w *work) add(c *core, d lease.Decision) {
	switch d := d.(type) {
	case lease.Create:
		w.writes[creating] = append(w.writes[creating], write{
			lock: cluster.LockWrite{Shard: d.Shard}, answer: func(*core, lease.Outcome, uint64) {},
		})
	case lease.Acquire:
		w.writes[acquiring] = append(w.writes[acquiring], write{
			session: cluster.Session(d.Session), lock: lockWrite(d.Shard, d.Index, d.Value),
			answer: func(c *core, o lease.Outcome, index uint64) { c.do(c.m.Acquired(c.now(), d, o, index)) },
		})
	case lease.Rewrite:
		// A lock that the session holds is rewritten by acquiring it again.
		w.writes[acquiring] = append(w.writes[acquiring], write{
			session: cluster.Session(d.Session), lock: lockWrite(d.Shard, d.Index, d.Value),
			answer: func(c *core, o lease.Outcome, index uint64) { c.do(c.m.Rewritten(c.now(), d, o, index)) },
		})
	case lease.Release:
		c.o.stats.released(d.Value.Clean != lease.Clean{})
		w.writes[releasing] = append(w.writes[releasing], write{
			session: cluster.Session(d.Session), lock: lockWrite(d.Shard, d.Index, d.Value),
			answer: func(c *core, _ lease.Outcome, _ uint64) { c.do(c.m.Released(c.now(), d)) },
		})
	case lease.Raise:
		w.raises = append(w.raises, d)
	case lease.Prove:
		w.proofs = append(w.proofs, d)
	}
}

// send starts calls for what was asked, as far as the lanes allow.
func (c *core) send(ctx context.Context) {
	for _, k := range []kind{creating, acquiring, releasing} {
		for len(c.work.writes[k]) > 0 && c.work.calls[k] < lanes[k] {
			c.sendWrites(ctx, k)
		}
	}
	for len(c.work.raises) > 0 && c.work.calls[raising] < lanes[raising] {
		n := min(len(c.work.raises), batch)
		raises := c.work.raises[:n:n]
		c.work.raises = c.work.raises[n:]
		c.call(ctx, raising, raiseTimeout, func(ctx context.Context) func(*core) { return c.o.raise(ctx, raises) })
	}
	for _, p := range c.work.proofs {
		c.sendProof(ctx, p)
	}
	c.work.proofs = nil
}

// call runs ask in a goroutine with a time of its own. What it returns is
// played by the loop.
func (c *core) call(ctx context.Context, k kind, timeout time.Duration, ask func(context.Context) func(*core)) {
	o := c.o
	c.work.calls[k]++
	o.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		answer := ask(ctx)
		cancel()
		o.mail.post(func(c *core) {
			c.work.calls[k]--
			answer(c)
		})
	})
}

// useful is for how long an answer about locks is of use: trust counts from
// when it was asked for.
func (c *core) useful() time.Duration { return min(c.delay()*9/10, attemptTimeout) }

func (c *core) sendWrites(ctx context.Context, k kind) {
	waiting := c.work.writes[k]
	n := 1
	for n < min(len(waiting), batch) && waiting[n].session == waiting[0].session {
		n++
	}
	writes := waiting[:n:n]
	c.work.writes[k] = waiting[n:]
	o := c.o
	c.call(ctx, k, c.useful(), func(ctx context.Context) func(*core) {
		session, locks := writes[0].session, make([]cluster.LockWrite, len(writes))
		for i := range writes {
			locks[i] = writes[i].lock
		}
		var (
			results []cluster.Result
			err     error
		)
		switch k {
		case creating:
			results, err = o.cfg.Authority.Create(ctx, locks)
			o.asked("create", err)
		case acquiring:
			results, err = o.cfg.Authority.Acquire(ctx, session, locks)
			o.asked("acquire", err)
		default:
			results, err = o.cfg.Authority.Release(ctx, session, locks)
			o.asked("release", err)
		}
		return func(c *core) { c.written(session, writes, results, err) }
	})
}

// written hands each request back. A session that is found to be gone ends
// after that, so that answers are to what was asked.
func (c *core) written(session cluster.Session, writes []write, results []cluster.Result, err error) {
	for i := range writes {
		outcome, index := lease.Unclear, uint64(0)
		if i < len(results) {
			outcome, index = outcomeOf(results[i].Verdict), results[i].Index
		}
		writes[i].answer(c, outcome, index)
	}
	if errors.Is(err, cluster.ErrSessionLost) {
		c.sessionGone(session)
	}
}

func outcomeOf(v cluster.Verdict) lease.Outcome {
	switch v {
	case cluster.Done:
		return lease.Done
	case cluster.Unknown:
		return lease.Unclear
	default:
		return lease.Refused
	}
}

// sendProof asks for a proof in parts, each answered for itself.
func (c *core) sendProof(ctx context.Context, p lease.Prove) {
	o := c.o
	for from := 0; from < len(p.Holds); from += proofBatch {
		part := p
		part.Holds = p.Holds[from:min(len(p.Holds), from+proofBatch)]
		if c.work.calls[proving] >= lanes[proving] {
			// So many hang that one more would tell nothing: the next is due soon.
			o.stats.proofFailed.Inc()
			continue
		}
		c.call(ctx, proving, c.useful(), func(ctx context.Context) func(*core) {
			shards := make([]uint32, len(part.Holds))
			for i, h := range part.Holds {
				shards[i] = h.Shard
			}
			results, err := o.cfg.Authority.Prove(ctx, cluster.Session(p.Session), shards)
			o.asked("prove", err)
			return func(c *core) { c.proved(part, results) }
		})
	}
}

// proved hands a part of a proof back, without those of which it says nothing.
func (c *core) proved(p lease.Prove, results []cluster.Result) {
	var (
		holds   []lease.Hold
		missing []uint32
	)
	for i, r := range results {
		if r.Verdict == cluster.Done || r.Verdict == cluster.Gone {
			holds = append(holds, p.Holds[i])
		}
		if r.Verdict == cluster.Gone {
			missing = append(missing, r.Shard)
		}
	}
	if len(holds) == 0 {
		c.o.stats.proofFailed.Inc()
		return
	}
	c.o.stats.proofOK.Inc()
	p.Holds = holds
	held := c.m.Holding()
	c.do(c.m.Proved(c.now(), p, missing))
	if len(missing) > 0 {
		c.readAnew()
	}
	// Where nothing is held any more the session is the likely reason, which its
	// renewal may not notice for some seconds. A new one costs little. It is not
	// where the last locks were released while the proof was under way.
	session := cluster.Session(p.Session)
	if held > 1 && len(missing) == len(holds) && len(missing) > 1 && session == c.session && c.m.Holding() == 0 {
		c.sessionGone(session)
	}
}
