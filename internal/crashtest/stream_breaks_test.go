package crashtest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/server"
)

// sickStore is a store that sometimes does not know whether it has written, or
// refuses. A node must live with it.
type sickStore struct {
	actors.Store

	mu   sync.Mutex
	rand *rand.Rand // guarded by mu
}

var errSick = errors.New("the store is sick by the test's wish")

// verdict returns what is said of a batch, and whether it is written.
func (s *sickStore) verdict() (status actors.Status, written bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch n := s.rand.IntN(16); {
	case n == 0:
		return actors.Refused, false
	case n <= 2:
		return actors.Unclear, s.rand.IntN(2) == 0
	default:
		return actors.Done, true
	}
}

func (s *sickStore) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	verdicts := make([]actors.Verdict, len(batches))
	var (
		healthy []actors.Batch
		places  []int
	)
	for i, b := range batches {
		status, written := s.verdict()
		if verdicts[i] = (actors.Verdict{Status: status}); status != actors.Done {
			verdicts[i].Err = errSick
		}
		if written {
			healthy, places = append(healthy, b), append(places, i)
		}
	}
	for i, v := range s.Store.Commit(ctx, healthy) {
		if verdicts[places[i]].Status == actors.Done {
			verdicts[places[i]] = v
		}
	}
	return verdicts
}

// The rest are defects, to see that the tests would notice them.

// renumbering gives each repeat a number of its own.
type renumbering struct {
	server.Backend

	mu   sync.Mutex
	sent map[handles.Session]bool // guarded by mu
}

func newRenumbering(b server.Backend) server.Backend {
	return &renumbering{Backend: b, sent: make(map[handles.Session]bool)}
}

func (r *renumbering) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	if s := op.Session; s.ID != "" {
		s.Settled = 0
		r.mu.Lock()
		again := r.sent[s]
		r.sent[s] = true
		r.mu.Unlock()
		if again {
			op.Session.Number += 400
		}
	}
	r.Backend.Submit(op, deadline, done)
}

// forgetting keeps no result: it takes numbered operations for others.
type forgetting struct{ server.Backend }

func (f forgetting) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	op.Session = handles.Session{}
	f.Backend.Submit(op, deadline, done)
}

// hasty settles one number too many, now and then.
type hasty struct{ server.Backend }

func (h hasty) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	if op.Session.Number%4 == 2 {
		op.Session.Settled++
	}
	h.Backend.Submit(op, deadline, done)
}

// parting drops, or writes with the shard's next commit, the session records
// of every other commit: state and result part.
type parting struct {
	actors.Store

	delay bool

	mu      sync.Mutex // guards what follows
	commits int
	late    map[uint32][]actors.Record
}

func (p *parting) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	mine := make([]actors.Batch, len(batches))
	for i, b := range batches {
		mine[i] = p.part(b)
	}
	return p.Store.Commit(ctx, mine)
}

func (p *parting) part(b actors.Batch) actors.Batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.commits++; p.late == nil {
		p.late = make(map[uint32][]actors.Record)
	}
	records := p.late[b.Shard]
	p.late[b.Shard] = nil
	for _, r := range b.Records {
		isSession := bytes.Contains(r.Key, []byte("$session")) && !r.Delete
		switch {
		case !isSession || p.commits%2 == 0:
			records = append(records, r)
		case p.delay:
			p.late[b.Shard] = append(p.late[b.Shard], actors.Record{Key: bytes.Clone(r.Key), Value: bytes.Clone(r.Value)})
		}
	}
	b.Records = records
	return b
}

// withoutColumns is a backend of which a server takes no columns.
type withoutColumns struct{ server.Backend }

// renumberingAdds is renumbering for the parts of columns alone.
type renumberingAdds struct {
	*renumbering
}

func newRenumberingAdds(b server.Backend) server.Backend {
	r, _ := newRenumbering(b).(*renumbering)
	return renumberingAdds{r}
}

func (r renumberingAdds) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	r.Backend.Submit(op, deadline, done)
}

func (r renumberingAdds) SubmitAdds(a *handles.Adds) {
	s := a.Session
	s.Settled, s.SettledOther = 0, 0
	r.mu.Lock()
	again := r.sent[s]
	r.sent[s] = true
	r.mu.Unlock()
	if again {
		a.Session.Number += 400
	}
	submitAdds(r.Backend, a)
}

func submitAdds(to server.Backend, a *handles.Adds) {
	if b, ok := to.(handles.AddsSubmitter); ok {
		b.SubmitAdds(a)
	}
}

// forgettingAdds is forgetting for the parts of columns alone.
type forgettingAdds struct{ server.Backend }

func (f forgettingAdds) SubmitAdds(a *handles.Adds) {
	a.Session = handles.Session{}
	submitAdds(f.Backend, a)
}
