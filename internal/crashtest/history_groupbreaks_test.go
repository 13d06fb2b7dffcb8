package crashtest

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/grains"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestGroupHistoriesAreNoticed breaks what makes a transaction one, and expects
// that no order explains what the clients are told.
func TestGroupHistoriesAreNoticed(t *testing.T) {
	t.Parallel()
	const enough = 60
	for name, b := range map[string]breaks{
		"the second half is lost":      {transaction: brokenTransaction{change: loseHalf}},
		"a condition is not checked":   {transaction: brokenTransaction{change: uncheck}},
		"the commit is split over two": {store: func(s actors.Store) actors.Store { return splitting{s} }},
		"a part of a commit is lost":   {store: func(s actors.Store) actors.Store { return &halving{Store: s} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(enough) {
				_, wrong := groupHistory(t, seed, b)
				if len(wrong) > 0 {
					t.Logf("noticed after %d seeds, the first of %d signs: %s", seed+1, len(wrong), wrong[0])
					return
				}
			}
			t.Errorf("not noticed in %d seeds", enough)
		})
	}
}

// brokenTransaction is the kind of transactions with other steps than were
// asked for.
type brokenTransaction struct {
	grains.Transaction

	change func([]actors.Step) []actors.Step
}

func (k brokenTransaction) Compose(command, reply proto.Message) ([]actors.Step, error) {
	steps, err := k.Transaction.Compose(command, reply)
	if err == nil {
		steps = k.change(steps)
	}
	return steps, err
}

// uncheck leaves out the conditions of what also does something.
func uncheck(steps []actors.Step) []actors.Step {
	return slices.DeleteFunc(steps, func(s actors.Step) bool { return s.Reply == nil })
}

// loseHalf lets puts and sets of the second half go to where nobody reads. What
// they answer does not show it.
func loseHalf(steps []actors.Step) []actors.Step {
	for i := len(steps) / 2; i < len(steps); i++ {
		switch steps[i].Command.(type) {
		case *quernv1.MapServicePutRequest, *quernv1.CounterServiceSetRequest:
			steps[i].Key += "lost"
		}
	}
	return steps
}

// apart tells the records of one half of a group from those of the other.
func apart(batches []actors.Batch) (first, rest []actors.Batch, both bool) {
	first, rest = slices.Clone(batches), slices.Clone(batches)
	for i, b := range batches {
		first[i].Records, rest[i].Records = nil, nil
		for _, r := range b.Records {
			to := &first[i].Records
			if bytes.HasSuffix(r.Key, []byte("}counter1")) || bytes.HasSuffix(r.Key, []byte("}map1")) {
				to = &rest[i].Records
			}
			*to = append(*to, r)
		}
		both = both || len(first[i].Records) > 0 && len(rest[i].Records) > 0
	}
	return first, rest, both
}

// splitting writes one half of a commit after the other, with time for the power
// to be cut in between.
type splitting struct{ actors.Store }

func (s splitting) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	first, rest, both := apart(batches)
	if !both {
		return s.Store.Commit(ctx, batches)
	}
	verdicts := s.Store.Commit(ctx, first)
	for _, v := range verdicts {
		if v.Status != actors.Done {
			return verdicts
		}
	}
	pauseFor(100 * time.Millisecond)
	return s.Store.Commit(ctx, rest)
}

// halving loses one half of a commit, now and then, and says that all is
// done. It shows where the state is read again.
type halving struct {
	actors.Store

	n int
}

func (s *halving) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	first, _, both := apart(batches)
	if !both {
		return s.Store.Commit(ctx, batches)
	}
	if s.n++; s.n%10 != 0 {
		return s.Store.Commit(ctx, batches)
	}
	return s.Store.Commit(ctx, first)
}

// TestGroupModel decides short histories by hand.
func TestGroupModel(t *testing.T) {
	t.Parallel()
	get := func(key int, value int64) groupOperation {
		return groupOperation{kind: ofCounter, key: key, step: step{name: "get", value: value}}
	}
	set := func(key int, value int64) groupOperation {
		return groupOperation{kind: ofCounter, key: key, step: step{name: "set", value: value}}
	}
	one := func(o ...groupOperation) groupStep { return groupStep{operations: o} }
	if0 := []groupCondition{{kind: ofCounter, key: 0, is: 1}} // it is 0
	for name, row := range map[string]struct {
		steps []groupStep
		fits  bool
	}{
		"as a whole":                      {[]groupStep{one(set(0, 1), set(1, 2)), one(get(0, 1), get(1, 2))}, true},
		"its second half alone":           {[]groupStep{one(set(0, 1), set(1, 2)), one(get(0, 0), get(1, 2))}, false},
		"its first half alone":            {[]groupStep{one(set(0, 1), set(1, 2)), one(get(0, 1)), one(get(1, 0))}, false},
		"perhaps, as a whole":             {[]groupStep{{unknown: true, operations: []groupOperation{set(0, 1), set(1, 2)}}, one(get(0, 1), get(1, 2))}, true},
		"perhaps, the half":               {[]groupStep{{unknown: true, operations: []groupOperation{set(0, 1), set(1, 2)}}, one(get(0, 1), get(1, 0))}, false},
		"a condition holds":               {[]groupStep{{conditions: if0, operations: []groupOperation{set(1, 1)}}, one(get(1, 1))}, true},
		"a condition was not looked at":   {[]groupStep{one(set(0, 1)), {conditions: if0, operations: []groupOperation{set(1, 1)}}}, false},
		"a condition was refused":         {[]groupStep{one(set(0, 1)), {condition: 1, conditions: if0, operations: []groupOperation{set(1, 1)}}, one(get(1, 0))}, true},
		"a condition that was not to be":  {[]groupStep{{condition: 1, conditions: if0, operations: []groupOperation{set(1, 1)}}}, false},
		"refused, and done nevertheless":  {[]groupStep{one(set(0, 1)), {condition: 1, conditions: if0, operations: []groupOperation{set(1, 1)}}, one(get(1, 1))}, false},
		"refused by what does not exist":  {[]groupStep{{condition: 3, conditions: if0, operations: []groupOperation{set(1, 1)}}}, false},
		"an unknown one whose time is up": {[]groupStep{one(set(0, 1)), {unknown: true, conditions: if0, operations: []groupOperation{set(1, 1)}}, one(get(1, 0))}, true},
	} {
		state, fits := groupState{}, true
		for _, s := range row.steps {
			if fits {
				state, fits = groupModel(state, s)
			}
		}
		if fits != row.fits {
			t.Errorf("%s: %v", name, fits)
		}
	}
}
