package crashtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/cluster/local"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
	"github.com/quern-io/quern/storage/embedded"
	"github.com/quern-io/quern/storage/memory"
)

// faultShards is the number of shards of the nodes in bubbles.
const faultShards = 4

// breaks are ways to break a node from outside, so that the tests that should
// notice can be seen to. A nil one breaks nothing.
type breaks struct {
	store func(actors.Store) actors.Store
	kind  func(actors.Kind) actors.Kind
	// transaction stands in for the kind of transactions.
	transaction actors.Kind
	backend     func(server.Backend) server.Backend
	// inFlight is how many operations the node takes at once; 0 is many.
	inFlight int
}

// streamNode is a node as a program would put it together, but for listeners
// and for the disk, which is in memory.
type streamNode struct {
	store   actors.Store
	runtime *actors.Runtime
	server  *server.Server
	answers *firstAnswers
}

// startNode starts a node on a disk; on none it is one with the memory store.
func startNode(ctx context.Context, disk vfs.FS, b breaks, answers *firstAnswers) (*streamNode, error) {
	n := &streamNode{store: memory.New(faultShards), answers: answers}
	if disk != nil {
		store, err := embedded.Open(ctx, embedded.Options{
			Dir: "data", Shards: faultShards, FS: disk, MinFreeBytes: -1,
			TailBytes: 8 << 10, GrowBytes: 1 << 10, CacheBytes: 1 << 20, // many checkpoints and files
		})
		if err != nil {
			return nil, err
		}
		n.store = store
	}
	if b.store != nil {
		n.store = b.store(n.store)
	}
	var err error
	kinds := []actors.Kind{grains.Counter{}, grains.Lock{}, grains.Map{}}
	if b.kind != nil {
		for i, k := range kinds {
			kinds[i] = b.kind(k)
		}
	}
	kinds = append(kinds, cmp.Or[actors.Kind](b.transaction, grains.Transaction{}))
	n.runtime, err = actors.New(actors.Config{Store: n.store, Kinds: kinds, ResidentLimit: 8 * faultShards})
	if err != nil {
		return nil, err
	}
	if err := n.runtime.Start(ctx); err != nil {
		return nil, err
	}
	var claims []actors.Claim
	for _, c := range local.Claims(faultShards, time.Now()) {
		claims = append(claims, actors.Claim{Shard: c.Shard, Epoch: c.Epoch})
	}
	if err := n.runtime.Activate(ctx, claims); err != nil {
		return nil, err
	}
	var back server.Backend = &faultBackend{runtime: n.runtime, answers: answers}
	if b.backend != nil {
		back = b.backend(back)
	}
	n.server = server.New(server.Config{Backend: back, MaxInFlight: b.inFlight})
	return n, n.server.Start(ctx)
}

// stop ends the node in order.
func (n *streamNode) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(n.server.Stop(ctx), n.runtime.Stop(ctx), n.store.Close(ctx)); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// faultBackend shows a runtime to its server, as quern.Node does.
type faultBackend struct {
	runtime *actors.Runtime
	answers *firstAnswers
}

func (b *faultBackend) SubmitWait(op *handles.Operation, deadline time.Time, done handles.Completer) func(bool) {
	return b.submit(op, deadline, done).Cancel
}

func (b *faultBackend) EndWaits() { b.runtime.EndWaits() }

func (b *faultBackend) Watch(ctx context.Context, w *handles.Watch) error {
	return b.runtime.Watch(ctx, keyspace.Shard(w.Key, faultShards), w.Method.Kind, w.Key, w.Idle, w.Each)
}

func (b *faultBackend) Name() string   { return "node" }
func (b *faultBackend) Shards() uint32 { return faultShards }
func (b *faultBackend) Ready() error   { return nil }

func (b *faultBackend) Status(context.Context) (*quernv1.ClusterServiceStatusResponse, error) {
	return &quernv1.ClusterServiceStatusResponse{}, nil
}

func (b *faultBackend) Where(context.Context, string) (*quernv1.ClusterServiceWhereResponse, error) {
	return &quernv1.ClusterServiceWhereResponse{}, nil
}

func (b *faultBackend) Routes(context.Context, uint64) (*quernv1.ClusterServiceRoutesResponse, error) {
	return &quernv1.ClusterServiceRoutesResponse{}, nil
}

func (b *faultBackend) Invoke(context.Context, *handles.Operation) error {
	return failure.New(failure.UnknownMethod, "only streams are served here")
}

func (b *faultBackend) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	if op.Method.Many {
		b.submitMany(op, deadline, done)
		return
	}
	b.submit(op, deadline, done)
}

func (b *faultBackend) submit(op *handles.Operation, deadline time.Time, done handles.Completer) *actors.Ticket {
	shard := keyspace.Shard(op.Key, faultShards)
	op.Origin = handles.Origin{Node: b.Name(), Shard: shard}
	return b.runtime.Submit(shard, b.operation(op), deadline, &recording{b.answers, op, op.Session, done})
}

func (*faultBackend) operation(op *handles.Operation) *actors.Operation {
	return &actors.Operation{
		Kind: op.Method.Kind, Key: op.Key, Method: op.Method.Procedure,
		IdempotencyKey: op.IdempotencyKey, Session: actors.Session(op.Session), Memo: op.Memo, Guard: (*actors.Guard)(op.Guard()),
		Command: op.Request, Reply: op.Reply,
	}
}

// SubmitList submits what it can together, as the node does.
func (b *faultBackend) SubmitList(first *handles.Submission) {
	var list actors.Bundle
	shard := first.Op.Origin.Shard
	for s := first; s != nil; {
		op, next := &s.Op, s.Next
		s.Next = nil
		if op.Method.Many {
			b.addMany(&list, op, s.Deadline, s.Done)
		} else {
			op.Origin = handles.Origin{Node: b.Name(), Shard: shard}
			b.runtime.Add(&list, b.operation(op), s.Deadline, &recording{b.answers, op, op.Session, s.Done})
		}
		s = next
	}
	b.runtime.SubmitBundle(shard, &list)
}

func (b *faultBackend) OpenSession(shard uint32, done func(string, uint64, error)) {
	b.runtime.OpenSession(shard, done)
}

func (b *faultBackend) CloseSession(shard uint32, id string, done func(uint64, error)) {
	b.runtime.CloseSession(shard, id, done)
}

// firstAnswers remembers the first answer to each number of each session, over
// all lives of a node, and what was answered otherwise later.
type firstAnswers struct {
	mu      sync.Mutex // guards what follows
	first   map[handles.Session]string
	repeats int
	wrong   []string
	// deaf: the node is dead, and what it still says reaches nobody.
	deaf bool
}

func newFirstAnswers() *firstAnswers { return &firstAnswers{first: make(map[handles.Session]string)} }

func (f *firstAnswers) setDeaf(deaf bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deaf = deaf
}

// recording takes the end of an operation on its way to the server.
type recording struct {
	to    *firstAnswers
	op    *handles.Operation
	place handles.Session
	done  handles.Completer
}

func (r *recording) Completed(epoch uint64, err error) {
	if r.place.ID != "" && err == nil {
		r.to.note(r.place, r.op.Reply)
	}
	r.done.Completed(epoch, err)
}

func (f *firstAnswers) note(place handles.Session, reply proto.Message) {
	place.Settled, place.SettledOther = 0, 0
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(reply)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deaf {
		return
	}
	first, again := f.first[place]
	switch {
	case err != nil:
		f.wrong = append(f.wrong, err.Error())
	case !again:
		f.first[place] = string(b)
	default:
		f.repeats++
		if first != string(b) {
			f.wrong = append(f.wrong, fmt.Sprintf("number %d of session %x was answered %x, then %x", place.Number, place.ID, first, b))
		}
	}
}
