package quern_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// unguarded is a request that panics when its guard is asked for.
type unguarded struct {
	*quernv1.CounterServiceAddRequest
}

func (unguarded) GetGuard() *quernv1.Guard {
	panic("no guard") //nolint:forbidigo // the point of it
}

// unreadable is a request that panics when it is encoded.
type unreadable struct {
	*quernv1.CounterServiceAddRequest
}

func (unreadable) ProtoReflect() protoreflect.Message {
	panic("no message") //nolint:forbidigo // the point of it
}

// submission is an add that is placed.
func submission(shard uint32, done handles.Completer) *handles.Submission {
	request := &quernv1.CounterServiceAddRequest{Key: "{l}"}
	return &handles.Submission{
		Op: handles.Operation{
			Method: handles.CounterAdd, Key: "{l}", Request: request, Reply: &quernv1.CounterServiceAddResponse{},
			Placed: true, Origin: handles.Origin{Shard: shard},
		},
		Done: done,
	}
}

// TestListThatIsCutOff: where the list of a stream panics, each of its operations
// has an end.
func TestListThatIsCutOff(t *testing.T) {
	t.Parallel()
	node := openMemory(t)
	shard := keyspace.Shard("{l}", node.Shards())
	for bad := range 4 {
		var first *handles.Submission
		ends := make([]ended, 4)
		for i := len(ends) - 1; i >= 0; i-- {
			ends[i] = make(ended, 2)
			s := submission(shard, ends[i])
			if i == 2 {
				s.Op.Method, s.Op.Key = handles.CounterAddMany, ""
				s.Op.Request = &quernv1.CounterServiceAddManyRequest{Keys: []string{"{l}a", "{l}b"}, IdempotencyKey: "id"}
				s.Op.Reply = &quernv1.CounterServiceAddManyResponse{}
			}
			if i == bad {
				s.Op.Method, s.Op.Request = handles.CounterAdd, unguarded{}
			}
			s.Next, first = first, s
		}
		if !panics(func() { node.SubmitList(first) }) {
			t.Fatal("it does not panic")
		}
		for i, end := range ends {
			if bad == 3 && i < bad { // begun, since a bulk add lets nothing wait for others
				if err := <-end; err != nil {
					t.Errorf("operation %d, which was begun: %v", i, err)
				}
				continue
			}
			if len(end) != 1 {
				t.Fatalf("operation %d of a list whose operation %d panics has %d ends", i, bad, len(end))
			}
			if err := <-end; !errors.Is(err, failure.Internal) {
				t.Errorf("operation %d of a list whose operation %d panics: %v", i, bad, err)
			}
		}
	}
}

// TestRequestThatPanics fails alone.
func TestRequestThatPanics(t *testing.T) {
	t.Parallel()
	node := openMemory(t)
	shard := keyspace.Shard("{l}", node.Shards())
	ends := [3]ended{make(ended, 1), make(ended, 1), make(ended, 1)}
	first, bad, last := submission(shard, ends[0]), submission(shard, ends[1]), submission(shard, ends[2])
	bad.Op.IdempotencyKey, bad.Op.Request = "id", unreadable{&quernv1.CounterServiceAddRequest{Key: "{l}"}}
	again := bad.Op
	first.Next, bad.Next = bad, last
	node.SubmitList(first)
	one, failed, other := <-ends[0], <-ends[1], <-ends[2]
	if one != nil || !errors.Is(failed, failure.HandlerFailed) || other != nil {
		t.Errorf("%v, %v, %v", one, failed, other)
	}
	if node.Submit(&again, time.Time{}, ends[1]); !errors.Is(<-ends[1], failure.HandlerFailed) {
		t.Error("submitted alone, it has another end")
	}
	if n, err := node.Counter("{l}").Get(t.Context()); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}
