package quern_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/internal/machine"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// BenchmarkStreamNode is the node's part of a pipelined add: streams without a
// network, whose frames were encoded before.
func BenchmarkStreamNode(b *testing.B) {
	for _, tt := range []struct{ streams, batch, ahead int }{
		{1, 1, 64}, {50, 16, 1}, {50, 128, 1}, {1, 128, 50}, {1, 3200, 2},
	} {
		b.Run(fmt.Sprintf("streams=%d/batch=%d/ahead=%d", tt.streams, tt.batch, tt.ahead), func(b *testing.B) {
			n := startLoaded(b)
			all := make([]*loadStream, tt.streams)
			for i := range all {
				all[i] = newLoadStream(n, i, tt.batch, tt.ahead)
				n.serve(all[i])
			}
			b.ReportAllocs()
			var rounds []float64 // CPU per operation
			// The frames are made outside of what is measured.
			for left := b.N; left > 0; {
				b.StopTimer()
				frames := min(max(1, left/tt.batch/tt.streams), max(1, 8_000/tt.batch/tt.streams))
				n.settle()
				for _, s := range all {
					s.prepare(frames)
				}
				left -= frames * tt.batch * tt.streams
				before := int64(machine.CPUTime())
				b.StartTimer()
				var running sync.WaitGroup
				for _, s := range all {
					running.Go(s.run)
				}
				running.Wait()
				b.StopTimer()
				rounds = append(rounds, float64(int64(machine.CPUTime())-before)/float64(frames*tt.batch*tt.streams))
				b.StartTimer()
			}
			// Other programs on the machine disturb most of the rounds.
			slices.Sort(rounds)
			b.ReportMetric(rounds[len(rounds)/2], "cpu-ns/op")
			b.ReportMetric(rounds[len(rounds)/10], "best-cpu-ns/op")
			b.StopTimer()
		})
	}
}

// loaded is a node with a server, but no network.
type loaded struct {
	*quern.Node

	b      *testing.B
	server *server.Server
	names  []string
	// The session that all streams share: naming it, the last number at each
	// shard, and those that are settled.
	sessions         []byte
	numbers, settled []uint64
}

func (*loaded) Ready() error { return nil }

func startLoaded(b *testing.B) *loaded {
	b.Helper()
	node, err := quern.Open(b.Context(), quern.Config{Store: quern.StoreMemory})
	if err != nil {
		b.Fatal(err)
	}
	n := &loaded{Node: node, b: b, names: make([]string, 1000), numbers: make([]uint64, node.Shards())}
	for i := range n.names {
		n.names[i] = "key:" + strconv.Itoa(1_000_000_000+i)
		// What must be loaded first is answered out of order.
		if _, err := n.Counter(n.names[i]).Add(b.Context(), 1); err != nil {
			b.Fatal(err)
		}
	}
	for shard := range n.Shards() {
		opened := make(chan string, 1)
		n.OpenSession(shard, func(id string, _ uint64, err error) {
			if err != nil {
				b.Error(err)
			}
			opened <- id
		})
		n.sessions = frame.AppendSession(n.sessions, shard, <-opened, false)
	}
	n.server = server.New(server.Config{Backend: n})
	if err := n.server.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = n.server.Stop(context.Background())
		_ = node.Close(context.Background())
	})
	return n
}

func (n *loaded) serve(s *loadStream) {
	var serving sync.WaitGroup
	serving.Go(func() { _ = n.server.ServeStream(s) })
	n.b.Cleanup(func() {
		close(s.in)
		serving.Wait()
	})
	s.in <- frame.AppendMethod(slices.Clip(n.sessions), 1, handles.CounterAdd.Procedure)
}

// settle is called while nothing is under way.
func (n *loaded) settle() { n.settled = append(n.settled[:0], n.numbers...) }

// loadStream is a client's stream of adds: so many frames of so many operations
// are sent ahead.
type loadStream struct {
	node         *loaded
	batch, ahead int
	frames       [][]byte
	at           int
	in           chan []byte
	answers      chan int
}

func newLoadStream(n *loaded, place, batch, ahead int) *loadStream {
	return &loadStream{
		node: n, batch: batch, ahead: ahead, at: place * 7919,
		in: make(chan []byte, ahead+1), answers: make(chan int, 1024),
	}
}

func (s *loadStream) prepare(frames int) {
	s.frames = s.frames[:0]
	request := &quernv1.CounterServiceAddRequest{Delta: proto.Int64(1)}
	for range frames {
		b := make([]byte, 0, 64*s.batch)
		for i := range s.batch {
			s.at = (s.at + 7919) % 1_000_003
			request.Key = s.node.names[s.at%len(s.node.names)]
			shard := keyspace.Shard(request.Key, s.node.Shards())
			s.node.numbers[shard]++
			o := frame.Operation{ID: uint64(i + 1), Method: 1, Number: s.node.numbers[shard], Settled: s.node.settled[shard]}
			b, _ = frame.AppendOperation(b, &o, request)
		}
		s.frames = append(s.frames, b)
	}
}

// run sends the frames and counts the answers.
func (s *loadStream) run() {
	owed := 0
	for _, f := range s.frames {
		for owed > (s.ahead-1)*s.batch {
			owed -= <-s.answers
		}
		s.in <- f
		owed += s.batch
	}
	for owed > 0 {
		owed -= <-s.answers
	}
}

func (*loadStream) Context() context.Context { return context.Background() }
func (*loadStream) Close()                   {}

func (s *loadStream) Recv() ([]byte, error) {
	b, ok := <-s.in
	if !ok {
		return nil, io.EOF
	}
	return b, nil
}

// Send counts the replies, which must not be failures.
func (s *loadStream) Send(b []byte) error {
	replies := 0
	for len(b) > 0 {
		field, _, n := protowire.ConsumeTag(b)
		part, m := protowire.ConsumeBytes(b[n:])
		b = b[n+m:]
		if field != 4 {
			continue
		}
		replies++
		if _, id := protowire.ConsumeVarint(part[1:]); part[1+id] != 2<<3|byte(protowire.BytesType) {
			s.node.b.Errorf("a failure: %q", part)
		}
	}
	if replies > 0 {
		s.answers <- replies
	}
	return nil
}
