package client_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/client"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestCallersShareAStream: while a frame gathers on one of several streams,
// callers join it; when it is full they go to the next stream.
func TestCallersShareAStream(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		key  int // its bytes
		more int // callers while every stream is sending
		want []int
	}{
		{name: "small", key: 10, more: 5, want: []int{0, 0, 5}},
		{name: "large", key: 500, more: 21, want: []int{5, 8, 8}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				g := newStage(t)
				c, one := g.dial(client.Options{Connections: 3})
				streams := []*scene{one, <-g.streams, <-g.streams}
				synctest.Wait() // the client has heard their hellos
				hold := make(chan struct{})
				for _, s := range streams {
					s.hold = hold
				}
				key := strings.Repeat("k", tt.key)
				got := make(chan error, 100)
				begin := func() {
					go func() {
						_, err := c.Counter(key).Get(t.Context())
						got <- err
					}()
					synctest.Wait()
				}
				for range len(streams) + tt.more {
					begin()
				}
				close(hold)
				synctest.Wait()
				var joined []int
				for _, s := range streams {
					first := s.next().GetOperations()
					if len(first) != 1 {
						t.Errorf("a stream that was free has sent %d operations first", len(first))
					}
					rest := s.sent()
					joined = append(joined, len(rest))
					s.found(append(first, rest...))
				}
				slices.Sort(joined)
				if !slices.Equal(joined, tt.want) {
					t.Errorf("the streams have sent %v operations more, want %v", joined, tt.want)
				}
				for range len(streams) + tt.more {
					if err := <-got; err != nil {
						t.Error(err)
					}
				}
				_ = c.Close()
			})
		})
	}
}

// sent returns the operations of the frames that have come.
func (s *scene) sent() (all []*quernv1.StreamOperation) {
	for {
		select {
		case m := <-s.in:
			all = append(all, m.GetOperations()...)
		default:
			return all
		}
	}
}

// found answers reads.
func (s *scene) found(all []*quernv1.StreamOperation) {
	b, err := proto.Marshal(&quernv1.CounterServiceGetResponse{Value: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, o := range all {
		s.say(&quernv1.GrainServiceStreamResponse{Replies: []*quernv1.StreamReply{{Id: o.GetId(), Reply: b}}})
	}
}
