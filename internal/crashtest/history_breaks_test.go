package crashtest

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	storev1 "github.com/quern-io/quern/messages/quern/store/v1"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestHistoriesAreNoticed breaks the node and expects that no order explains
// what its clients are told.
func TestHistoriesAreNoticed(t *testing.T) {
	t.Parallel()
	const enough = 60
	for name, b := range map[string]breaks{
		"replies do not wait for the commit":    {store: func(s actors.Store) actors.Store { return ungated{s} }},
		"tokens and versions start anew":        {kind: func(k actors.Kind) actors.Kind { return brokenKind{Kind: k, next: fromOne} }},
		"a token is given twice":                {kind: func(k actors.Kind) actors.Kind { return brokenKind{Kind: k, next: twice} }},
		"the queue is read in the wrong order":  {kind: func(k actors.Kind) actors.Kind { return brokenKind{Kind: k, reversed: true} }},
		"a lock that is held is granted":        {kind: func(k actors.Kind) actors.Kind { return brokenKind{Kind: k, generous: true} }},
		"a lock is forgotten by who reads it":   {kind: func(k actors.Kind) actors.Kind { return brokenKind{Kind: k, forgetful: true} }},
		"what has been written is undone later": {store: func(s actors.Store) actors.Store { return &lagging{Store: s} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(enough) {
				_, wrong := history(t, seed, b)
				if len(wrong) > 0 {
					t.Logf("noticed after %d seeds, the first of %d signs: %s", seed+1, len(wrong), wrong[0])
					return
				}
			}
			t.Errorf("not noticed in %d seeds", enough)
		})
	}
}

// ungated is a store that says it keeps nothing, so that nobody waits for it.
type ungated struct{ actors.Store }

func (u ungated) Info() actors.StoreInfo {
	info := u.Store.Info()
	info.Durable = false
	return info
}

// lagging answers reads from before the last commit, now and then.
type lagging struct {
	actors.Store

	n int
}

func (l *lagging) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	if l.n++; l.n%20 == 0 { // says done and writes nothing
		return make([]actors.Verdict, len(batches))
	}
	return l.Store.Commit(ctx, batches)
}

// brokenKind is a kind that does something wrong.
type brokenKind struct {
	actors.Kind

	next      func(*uint64) uint64
	reversed  bool
	generous  bool
	forgetful bool
}

// fromOne numbers each state from 1 on, also after it was read again.
func fromOne(n *uint64) uint64 {
	*n++
	return *n
}

// twice gives each number to two.
func twice(n *uint64) uint64 {
	*n++
	return *n / 2
}

func (k brokenKind) New() actors.State {
	s := &brokenState{State: k.Kind.New(), kind: k}
	if _, waits := s.State.(actors.Canceler); waits {
		return &brokenWaiting{s}
	}
	return s
}

type brokenState struct {
	actors.State

	kind   brokenKind
	number uint64
	grants int
}

// brokenWaiting is one of a kind that parks.
type brokenWaiting struct{ *brokenState }

func (s *brokenState) Apply(t *actors.Turn, command, reply proto.Message) (bool, error) {
	if s.kind.next != nil {
		t = t.WithNext(func() uint64 { return s.kind.next(&s.number) })
	}
	if out, ok := reply.(*quernv1.LockServiceAcquireResponse); ok && s.kind.generous {
		changed, err := s.State.Apply(t, command, reply)
		if s.grants++; s.grants%10 == 0 && err == nil && !out.GetHeld() {
			out.Held, out.Token = true, t.Next()
		}
		return changed, err
	}
	return s.State.Apply(t, command, reply)
}

func (s *brokenState) Decode(record []byte) error {
	if s.kind.forgetful && len(record) > 0 {
		if _, waits := s.State.(actors.Canceler); waits {
			return nil
		}
	}
	if s.kind.reversed {
		if _, waits := s.State.(actors.Canceler); waits {
			var lock storev1.LockState
			if err := proto.Unmarshal(record, &lock); err != nil {
				return err
			}
			slices.Reverse(lock.Queue)
			var err error
			if record, err = proto.Marshal(&lock); err != nil {
				return err
			}
		}
	}
	return s.State.Decode(record)
}

func (s *brokenState) Assign(from actors.State) {
	switch f := from.(type) {
	case *brokenState:
		s.State.Assign(f.State)
	case *brokenWaiting:
		s.State.Assign(f.State)
	}
}

func (s *brokenWaiting) Cancel(t *actors.Turn, command proto.Message) bool {
	c, _ := s.State.(actors.Canceler)
	return c.Cancel(t, command)
}

func (s *brokenWaiting) Begin(log actors.State) {
	u, _ := s.State.(actors.Undoer)
	if l, ok := log.(*brokenWaiting); ok {
		u.Begin(l.State)
	}
}

func (s *brokenWaiting) Undo() {
	u, _ := s.State.(actors.Undoer)
	u.Undo()
}

func (s *brokenWaiting) Pinned() bool {
	p, _ := s.State.(actors.Pinner)
	return p.Pinned()
}

func (s *brokenWaiting) Size() int {
	p, _ := s.State.(actors.Sizer)
	return p.Size()
}
