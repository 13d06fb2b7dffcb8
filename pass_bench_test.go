package quern_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/machine"
	"github.com/quern-io/quern/server"
)

// BenchmarkPassedOn is what a numbered addition costs all who take part, the client
// among them, in CPU time: at its owner, and by way of another node.
func BenchmarkPassedOn(b *testing.B) {
	owner, err := quern.Open(b.Context(), quern.Config{Store: quern.StoreMemory, Listen: "127.0.0.1:0", Node: "owner"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = owner.Close(context.Background()) })
	other, err := quern.Open(b.Context(), quern.Config{Store: quern.StoreMemory, Node: "other"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = other.Close(context.Background()) })
	for _, way := range []struct{ name, addr string }{{"direct", owner.GRPCAddr()}, {"passed", passTo(b, other, owner)}} {
		c, err := client.DialWith(b.Context(), way.addr, client.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = c.Close() })
		names := make([]string, 10_000)
		for i := range names {
			names[i] = "k" + strconv.Itoa(i)
		}
		addAll(b, c, names, 0, 100, len(names)*3)
		for _, callers := range []int{1, 16} {
			b.Run(way.name+"/callers="+strconv.Itoa(callers), func(b *testing.B) {
				b.ReportAllocs()
				cpu := machine.CPUTime()
				var all sync.WaitGroup
				for caller := range callers {
					all.Go(func() { addAll(b, c, names, caller, 100, b.N/callers) })
				}
				all.Wait()
				b.ReportMetric(float64(machine.CPUTime()-cpu)/float64(b.N), "cpu-ns/op")
			})
		}
	}
}

// passTo starts a server in front of a node that passes everything on to another
// one, and returns its address.
func passTo(b *testing.B, from, to *quern.Node) string {
	b.Helper()
	p := &passing{Node: from, to: routing.Owner{Node: to.Name(), Addr: to.GRPCAddr(), Epoch: 1}}
	var err error
	if p.router, err = routing.New(routing.Config{Local: p, View: func() routing.View { return p }}); err != nil {
		b.Fatal(err)
	}
	p.router.Start()
	s := server.New(server.Config{Backend: passed{p, p.router}, Listen: "127.0.0.1:0"})
	if err := s.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, _ = s.Stop(ctx), p.router.Stop(ctx)
	})
	return s.GRPCAddr()
}

// passing is a node without shards, and what it knows of who has them.
type passing struct {
	*quern.Node

	router *routing.Router
	to     routing.Owner
}

func (*passing) Serving(uint32) (uint64, bool)        { return 0, false }
func (p *passing) Owner(uint32) (routing.Owner, bool) { return p.to, true }
func (*passing) Members() []routing.Member            { return nil }
func (*passing) Fresh() bool                          { return true }
func (*passing) Changed() <-chan struct{}             { return nil }

// passed shows it to its server.
type passed struct {
	*passing

	router *routing.Router
}

func (p passed) Invoke(ctx context.Context, op *handles.Operation) error {
	return p.router.Invoke(ctx, op) //nolint:wrapcheck // stands in for it
}

func (p passed) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	p.router.Submit(op, deadline, done)
}
func (p passed) SubmitList(first *handles.Submission) { p.router.SubmitList(first) }
func (p passed) OpenSession(shard uint32, done func(string, uint64, error)) {
	p.router.OpenSession(shard, done)
}

func (p passed) CloseSession(shard uint32, id string, done func(uint64, error)) {
	p.router.CloseSession(shard, id, done)
}
func (passed) Ready() error { return nil }
