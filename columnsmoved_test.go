package quern_test

import (
	"errors"
	"strconv"
	"testing"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestBulkOfAShardThatMoves ends as any other operation that the router takes back;
// what only some of its keys met is told of those.
func TestBulkOfAShardThatMoves(t *testing.T) {
	t.Parallel()
	const shards = 8
	one, two := []string{"k"}, []string{"k"}
	for i := 0; len(one) < 2 || len(two) < 2; i++ {
		key := strconv.Itoa(i)
		if keyspace.Shard(key, shards) == keyspace.Shard("k", shards) {
			one = append(one[:1], key)
		} else {
			two = append(two[:1], key)
		}
	}
	for name, test := range map[string]struct {
		keys   []string
		member bool
		reason failure.Reason
		taken  bool // the error is the operation's
	}{
		"it moves":                {one, true, failure.Moving, true},
		"it is another's":         {one, true, failure.NotOwner, true},
		"of several shards":       {two, true, failure.Moving, false},
		"it has no place":         {one, true, failure.Overloaded, false},
		"nobody takes it back":    {one, false, failure.Moving, false},
		"one of its keys is none": {append([]string{""}, one...), true, failure.Moving, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := &quernv1.CounterServiceAddManyResponse{}
			op := &handles.Operation{Method: handles.CounterAddMany, Request: &quernv1.CounterServiceAddManyRequest{Keys: test.keys}, Reply: out}
			done := make(ended, 1)
			quern.EndOfBulk(shards, test.member, op, failure.New(test.reason, "no"), done)
			err := <-done
			if taken := errors.Is(err, test.reason); taken != test.taken || err != nil && !taken {
				t.Errorf("ended with %v", err)
			}
			if want := len(test.keys); !test.taken && len(out.GetFailures()) != want || test.taken && len(out.GetFailures()) != 0 {
				t.Errorf("failures %v", out.GetFailures())
			}
		})
	}
}
