package actors_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	storev1 "github.com/quern-io/quern/messages/quern/store/v1"
)

const retrierKeys = 5

// retrier is a client whose adds are numbered in a session at each shard. What
// it has no answer to it repeats after the next cut, under the same number. So
// each add counts once, and the replies on a key are 1, 2, 3 and so on. Some are
// columns of two adds.
type retrier struct {
	fail func(format string, args ...any)
	// renumbers and oversettles break the protocol.
	renumbers, oversettles bool

	mu sync.Mutex
	// frozen: what is answered from now on is lost on the way.
	frozen   bool
	sessions map[uint32]*retrierSession
	replies  [retrierKeys][]int64
}

type retrierSession struct {
	id            string
	next, settled uint64 // next is the last number that was given
	told          uint64 // what the shard knows to be settled
	pending       map[uint64]int
	acked         map[uint64]bool
}

func (*retrier) key(i int) string { return "numbered-" + strconv.Itoa(i) }

func (c *retrier) freeze(frozen bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = frozen
}

// session returns the session at a key's shard, nil where there is none and
// none could be opened. c.mu is held.
func (c *retrier) session(r *rig, key int) *retrierSession {
	shard := r.shardOf(c.key(key))
	if s := c.sessions[shard]; s != nil {
		return s
	}
	c.mu.Unlock()
	id, err := r.open(c.key(key))
	c.mu.Lock()
	if err != nil || c.frozen {
		return nil
	}
	if c.sessions == nil {
		c.sessions = make(map[uint32]*retrierSession)
	}
	if c.sessions[shard] == nil {
		c.sessions[shard] = &retrierSession{id: id, pending: make(map[uint64]int), acked: make(map[uint64]bool)}
	}
	return c.sessions[shard]
}

// add sends one add; some of them twice at once. It returns false once the
// client is frozen.
func (c *retrier) add(r *rig, key int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen {
		return false
	}
	s := c.session(r, key)
	if s == nil {
		return !c.frozen
	}
	s.next++
	number := s.next
	s.pending[number] = key
	c.send(r, s, number, 1+int(number)%2)
	return !c.frozen
}

// send sends a pending add, so many times at once, and takes the answers.
func (c *retrier) send(r *rig, s *retrierSession, number uint64, times int) {
	key := s.pending[number]
	in := actors.Session{ID: s.id, Number: number, Settled: s.settled}
	if c.oversettles {
		in.Settled = number - 1
	}
	c.mu.Unlock()
	got := make([]retrierAnswer, times)
	var all sync.WaitGroup
	for i := range got {
		all.Go(func() { got[i].values, got[i].err = c.run(r, key, in) })
	}
	all.Wait()
	c.mu.Lock()
	if c.frozen {
		return
	}
	for _, a := range got {
		switch {
		case a.err != nil:
			c.fail("number %d, settled up to %d: %w", number, in.Settled, a.err)
		case !s.acked[number]:
			c.replies[key] = append(c.replies[key], a.values...)
			s.acked[number] = true
			s.told = max(s.told, in.Settled)
			delete(s.pending, number)
		case got[0].err == nil && !slices.Equal(a.values, got[0].values):
			c.fail("number %d: answered %d and %d", number, got[0].values, a.values)
		}
	}
	for s.acked[s.settled+1] {
		s.settled++
	}
}

type retrierAnswer struct {
	values []int64
	err    error
}

// run sends a number once. Every third is a column that adds twice.
func (c *retrier) run(r *rig, key int, in actors.Session) ([]int64, error) {
	if in.Number%3 != 0 {
		v, err := r.numbered(c.key(key), in, plus(1))
		return []int64{v}, err
	}
	two := adds(c.key(key), c.key(key))
	if err := r.runColumn(two, in); err != nil {
		return nil, err
	}
	return two.values(), errors.Join(two.errs...)
}

// repeatAll sends what was not answered again. Everything must succeed now.
func (c *retrier) repeatAll(r *rig) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sessions {
		c.duplicate(r, s)
		numbers := make([]uint64, 0, len(s.pending))
		for n := range s.pending {
			numbers = append(numbers, n)
		}
		slices.Sort(numbers)
		slices.Reverse(numbers) // the latest first
		for _, n := range numbers {
			if c.renumbers {
				s.next++
				s.pending[s.next] = s.pending[n]
				delete(s.pending, n)
				s.acked[n] = true
				n = s.next
			}
			c.send(r, s, n, 2)
		}
	}
}

// duplicate sends what the shard must know to be settled, before anything else
// tells it so again.
func (c *retrier) duplicate(r *rig, s *retrierSession) {
	for key := range retrierKeys {
		if s.told > 0 && c.sessions[r.shardOf(c.key(key))] == s {
			in := actors.Session{ID: s.id, Number: s.told, Settled: s.told - 1}
			if _, err := r.numbered(c.key(key), in, plus(1)); !errors.Is(err, failure.SessionExpired) {
				c.fail("a late duplicate of number %d: %w", s.told, err)
			}
		}
	}
}

// check holds the replies against each other and against the counters.
func (c *retrier) check(r *rig) {
	for i := range c.replies {
		slices.Sort(c.replies[i])
		for n, v := range c.replies[i] {
			if v != int64(n)+1 {
				c.fail("%s: reply %d of %d is %d", c.key(i), n+1, len(c.replies[i]), v)
				break
			}
		}
		got, err := r.counter(c.key(i)).Get(context.Background())
		if want := int64(len(c.replies[i])); got != want || err != nil {
			c.fail("%s: counts %d, %w; %d adds were answered", c.key(i), got, err, want)
		}
	}
}

// TestBrokenSessionsAreNoticed breaks each thing on which exactly-once rests,
// and must see the test of power cuts fail.
func TestBrokenSessionsAreNoticed(t *testing.T) {
	t.Parallel()
	const seeds = 40
	for name, breaks := range map[string]func(*powerCut){
		"the repeat has another number":         func(p *powerCut) { p.client.renumbers = true },
		"the client settles what it awaits":     func(p *powerCut) { p.client.oversettles = true },
		"results are committed after the state": func(p *powerCut) { p.wrap = p.apart },
		"results are not committed":             func(p *powerCut) { p.wrap = without },
		"what is settled is not committed":      func(p *powerCut) { p.wrap = unsettled },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(seeds) {
				p := newPowerCut(t, seed)
				breaks(p)
				if !p.run() {
					t.Logf("seed %d: %v", seed, p.problem)
					return
				}
			}
			t.Errorf("%d seeds went through", seeds)
		})
	}
}

// splitStore treats the records of sessions apart from the others.
type splitStore struct {
	actors.Store
	commit func(ctx context.Context, to actors.Store, states, sessions []actors.Batch) []actors.Verdict
}

func (s splitStore) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	states, sessions := slices.Clone(batches), slices.Clone(batches)
	prefix := string(actors.StateKey(actors.SessionKindName, ""))
	for i, b := range batches {
		states[i].Records, sessions[i].Records = nil, nil
		for _, rec := range b.Records {
			to := &states[i].Records
			if len(rec.Key) > len(prefix) && string(rec.Key[:len(prefix)]) == prefix {
				to = &sessions[i].Records
			}
			*to = append(*to, rec)
		}
	}
	return s.commit(ctx, s.Store, states, sessions)
}

// apart has the power cut between the two commits.
func (p *powerCut) apart(store actors.Store) actors.Store {
	commits := 0
	return splitStore{store, func(ctx context.Context, to actors.Store, states, sessions []actors.Batch) []actors.Verdict {
		to.Commit(ctx, states)
		if commits++; commits > 20 {
			p.cutNow()
		}
		return to.Commit(ctx, sessions)
	}}
}

func without(store actors.Store) actors.Store {
	return splitStore{store, func(ctx context.Context, to actors.Store, states, sessions []actors.Batch) []actors.Verdict {
		// The first record of a session, which opens it, is let through.
		for i := range sessions {
			for _, rec := range sessions[i].Records {
				var r storev1.SessionRecord
				if proto.Unmarshal(rec.Value, &r) == nil && r.GetDone() == 0 && len(r.GetResults()) == 0 {
					states[i].Records = append(states[i].Records, rec)
				}
			}
		}
		return to.Commit(ctx, states)
	}}
}

func unsettled(store actors.Store) actors.Store {
	return splitStore{store, func(ctx context.Context, to actors.Store, states, sessions []actors.Batch) []actors.Verdict {
		for i := range sessions {
			for _, rec := range sessions[i].Records {
				var r storev1.SessionRecord
				if err := proto.Unmarshal(rec.Value, &r); err != nil {
					continue
				}
				r.Done = 0
				rec.Value, _ = proto.Marshal(&r)
				states[i].Records = append(states[i].Records, rec)
			}
		}
		return to.Commit(ctx, states)
	}}
}
