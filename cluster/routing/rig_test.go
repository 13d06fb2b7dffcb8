package routing_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testTimeout bounds everything that a test waits for.
const testTimeout = 20 * time.Second

const shards = 16

// inCluster is the id of the cluster that all nodes are of.
var inCluster = [16]byte{1}

// world is what all nodes of a test share: a store that is never wrong, and who
// owns what.
type world struct {
	mu       sync.Mutex // guards what follows
	counters map[string]int64
	locks    map[string]*fakeLock
	sessions map[string]map[uint64]proto.Message
	once     map[string]proto.Message
	owners   map[uint32]routing.Owner
	changed  chan struct{}
	nodes    map[string]*node
	events   map[string]map[chan int64]struct{}
	opened   int
	adds     int64
	cluster  [16]byte
	echo     bool // nodes answer at once, without a state
}

type fakeLock struct {
	held  bool
	queue []*parked
}

type parked struct {
	op   *handles.Operation
	done handles.Completer
	node *node
	over bool
}

func newWorld() *world {
	return &world{
		counters: make(map[string]int64), locks: make(map[string]*fakeLock), sessions: make(map[string]map[uint64]proto.Message),
		once: make(map[string]proto.Message), owners: make(map[uint32]routing.Owner), changed: make(chan struct{}),
		nodes: make(map[string]*node), events: make(map[string]map[chan int64]struct{}), cluster: inCluster,
	}
}

// view is what a node believes.
type view struct {
	owners  map[uint32]routing.Owner
	members []routing.Member
	fresh   bool
	changed <-chan struct{}
}

func (v *view) Owner(shard uint32) (routing.Owner, bool) {
	o, ok := v.owners[shard]
	return o, ok && o.Node != ""
}
func (v *view) Members() []routing.Member { return v.members }
func (v *view) Fresh() bool               { return v.fresh }
func (v *view) Changed() <-chan struct{}  { return v.changed }

// node is a Local and, with its router, a server's backend.
type node struct {
	*routing.Router

	world *world
	name  string
	local *local
	srv   *server.Server

	mu      sync.Mutex // guards what follows
	wrong   map[uint32]routing.Owner
	frozen  *view
	streams []frame.Stream // to other nodes
	cut     bool           // none can be reached
}

// dialPeer opens a stream to another node that the test can break.
func (n *node) dialPeer(ctx context.Context, addr string) (frame.Stream, error) {
	n.mu.Lock()
	cut := n.cut
	n.mu.Unlock()
	if cut {
		return nil, errors.New("cut")
	}
	f, err := routing.DialTCP(ctx, addr)
	if err == nil {
		n.mu.Lock()
		n.streams = append(n.streams, f)
		n.mu.Unlock()
	}
	return f, err //nolint:wrapcheck // a test's
}

// breakStreams breaks all streams to other nodes.
func (n *node) breakStreams() {
	n.mu.Lock()
	all := n.streams
	n.streams = nil
	n.mu.Unlock()
	for _, f := range all {
		f.Close()
	}
}

// local is a node's own runtime.
type local struct {
	node   *node
	epochs [shards]atomic.Uint64 // 0: not served
	calls  atomic.Int64
	moving atomic.Bool // everything is refused with MOVING
	// hang, where not nil, takes operations that are never answered.
	hang atomic.Pointer[chan hung]
}

// hung is an operation that has no answer.
type hung struct {
	op   *handles.Operation
	done handles.Completer
}

func (n *node) view() routing.View {
	w := n.world
	w.mu.Lock()
	defer w.mu.Unlock()
	// What is wrong is read after the change that tells of it can be missed.
	n.mu.Lock()
	frozen, wrong := n.frozen, n.wrong
	n.mu.Unlock()
	if frozen != nil {
		return frozen
	}
	v := &view{owners: make(map[uint32]routing.Owner), fresh: true, changed: w.changed}
	maps.Copy(v.owners, w.owners)
	maps.Copy(v.owners, wrong)
	for _, other := range w.nodes {
		addr := ""
		if other.srv != nil {
			addr = other.srv.GRPCAddr()
		}
		v.members = append(v.members, routing.Member{Node: other.name, Addr: addr, State: "ready"})
	}
	return v
}

// give makes a node the owner of shards, and takes them from who has them.
func (w *world) give(to string, ids ...uint32) {
	w.mu.Lock()
	for _, shard := range ids {
		old := w.owners[shard]
		if n := w.nodes[old.Node]; n != nil {
			n.local.epochs[shard].Store(0)
		}
		epoch := old.Epoch + 1
		if to == "" {
			w.owners[shard] = routing.Owner{Epoch: old.Epoch}
			continue
		}
		n := w.nodes[to]
		w.owners[shard] = routing.Owner{Node: to, Addr: n.srv.GRPCAddr(), Epoch: epoch}
		n.local.epochs[shard].Store(epoch)
	}
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
}

// take takes shards from their owner; nobody is told.
func (w *world) take(ids ...uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, shard := range ids {
		if n := w.nodes[w.owners[shard].Node]; n != nil {
			n.local.epochs[shard].Store(0)
		}
	}
}

// start starts a node with a server on loopback.
func (w *world) start(tb testing.TB, name string) *node {
	tb.Helper()
	n := &node{world: w, name: name}
	n.local = &local{node: n}
	var to routing.Local = n.local
	if w.echo {
		to = echo{n.local}
	}
	r, err := routing.New(routing.Config{Local: to, ClusterID: w.cluster, View: n.view, Dial: n.dialPeer})
	if err != nil {
		tb.Fatal(err)
	}
	n.Router = r
	n.srv = server.New(server.Config{Backend: n, Listen: "127.0.0.1:0", HTTP: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)})
	if err := n.srv.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	w.mu.Lock()
	w.nodes[name] = n
	w.mu.Unlock()
	r.Start()
	tb.Cleanup(func() { n.stop(tb) })
	return n
}

func (n *node) stop(tb testing.TB) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if err := n.srv.Stop(ctx); err != nil {
		tb.Error(err)
	}
	if err := n.Stop(ctx); err != nil {
		tb.Error(err)
	}
}

// dial connects a client to a node until the test ends.
func (n *node) dial(tb testing.TB, o client.Options) *client.Client {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), testTimeout)
	defer cancel()
	c, err := client.DialWith(ctx, n.srv.GRPCAddr(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// keysOf returns keys of a shard.
func keyOf(shard uint32, i int) string {
	for n := 0; ; n++ {
		key := fmt.Sprintf("k%d:%d", i, n)
		if keyspace.Shard(key, shards) == shard {
			return key
		}
	}
}

func three(tb testing.TB) (w *world, a, b, c *node) {
	tb.Helper()
	w = newWorld()
	a, b, c = w.start(tb, "a"), w.start(tb, "b"), w.start(tb, "c")
	for shard := range uint32(shards) {
		w.give([]string{"a", "b", "c"}[shard%3], shard)
	}
	return w, a, b, c
}

// What the server wants beyond the router.

func (n *node) Status(context.Context) (*quernv1.ClusterServiceStatusResponse, error) {
	return &quernv1.ClusterServiceStatusResponse{ShardsTotal: shards}, nil
}

func (n *node) Where(_ context.Context, key string) (*quernv1.ClusterServiceWhereResponse, error) {
	shard := keyspace.Shard(key, shards)
	o, ok := n.Owner(shard)
	if !ok {
		return nil, failure.New(failure.NotOwner, "nobody")
	}
	return &quernv1.ClusterServiceWhereResponse{Key: key, Shard: shard, Node: o.Node, Addr: o.Addr, Epoch: o.Epoch}, nil
}

func (n *node) Ready() error { return nil }

func (n *node) Offer(context.Context, *quernv1.PeerServiceOfferRequest) (*quernv1.PeerServiceOfferResponse, error) {
	return &quernv1.PeerServiceOfferResponse{}, nil
}

func (n *node) Highest(_ context.Context, in *quernv1.PeerServiceHighestRequest) (*quernv1.PeerServiceHighestResponse, error) {
	out := &quernv1.PeerServiceHighestResponse{}
	for _, shard := range in.GetShards() {
		o, _ := n.Owner(shard)
		out.Epochs = append(out.Epochs, o.Epoch)
	}
	return out, nil
}

var (
	_ server.Backend        = (*node)(nil)
	_ server.Peer           = (*node)(nil)
	_ handles.ListSubmitter = (*node)(nil)
	_ frame.Stream          = nil
)

// The local runtime.

func (l *local) Name() string   { return l.node.name }
func (l *local) Shards() uint32 { return shards }

func (l *local) Serving(shard uint32) (uint64, bool) {
	epoch := l.epochs[shard].Load()
	return epoch, epoch != 0
}

func (l *local) Invoke(ctx context.Context, op *handles.Operation) error {
	done := make(chan error, 1)
	cancel := l.SubmitWait(op, time.Time{}, completer(func(_ uint64, err error) { done <- err }))
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		if cancel != nil {
			cancel(true)
		}
		return ctx.Err()
	}
}

type completer func(uint64, error)

func (f completer) Completed(epoch uint64, err error) { f(epoch, err) }

func (l *local) Submit(op *handles.Operation, deadline time.Time, done handles.Completer) {
	l.SubmitWait(op, deadline, done)
}

func (l *local) SubmitList(first *handles.Submission) {
	for s := first; s != nil; {
		next := s.Next
		s.Next = nil
		l.Submit(&s.Op, s.Deadline, s.Done)
		s = next
	}
}

func (l *local) EndWaits() {}

// over gives up what has ended.
func over(bool) {}

var errNotOwner = failure.New(failure.NotOwner, "not here").After(5 * time.Millisecond)

func (l *local) SubmitWait(op *handles.Operation, _ time.Time, done handles.Completer) func(bool) {
	l.calls.Add(1)
	if hang := l.hang.Load(); hang != nil {
		*hang <- hung{op, done}
		return nil
	}
	key := op.Key
	if in, ok := op.Request.(*quernv1.CounterServiceAddManyRequest); ok && len(in.GetKeys()) > 0 {
		key = in.GetKeys()[0]
	}
	shard := keyspace.Shard(key, shards)
	w := l.node.world
	if l.moving.Load() {
		done.Completed(1, failure.New(failure.Moving, "it moves").After(time.Millisecond))
		return over // as the runtime's, which says how even when it has ended
	}
	w.mu.Lock()
	epoch := l.epochs[shard].Load()
	op.Origin = handles.Origin{Node: l.node.name, Shard: shard, Epoch: epoch}
	if epoch == 0 {
		w.mu.Unlock()
		done.Completed(0, errNotOwner)
		return over
	}
	if op.Method == handles.LockAcquire {
		if k := w.lock(op.Key); k.held && op.MayWait() {
			p := &parked{op: op, done: done, node: l.node}
			k.queue = append(k.queue, p)
			w.mu.Unlock()
			return func(bool) { w.giveUp(p, epoch) }
		}
	}
	err := w.apply(l.node, op)
	w.mu.Unlock()
	if err == nil && op.Method == handles.LockRelease {
		w.grant(op.Key)
	}
	done.Completed(epoch, err)
	return nil
}

func (w *world) lock(key string) *fakeLock {
	k := w.locks[key]
	if k == nil {
		k = new(fakeLock)
		w.locks[key] = k
	}
	return k
}

func (w *world) giveUp(p *parked, epoch uint64) {
	w.mu.Lock()
	over := p.over
	p.over = true
	w.mu.Unlock()
	if !over {
		p.done.Completed(epoch, failure.New(failure.Canceled, "given up"))
	}
}

func (w *world) waiters(key string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.lock(key).queue {
		if !p.over {
			n++
		}
	}
	return n
}

func (w *world) grant(key string) {
	for {
		w.mu.Lock()
		k := w.lock(key)
		if k.held || len(k.queue) == 0 {
			w.mu.Unlock()
			return
		}
		p := k.queue[0]
		k.queue = k.queue[1:]
		if p.over {
			w.mu.Unlock()
			continue
		}
		p.over = true
		err := w.apply(p.node, p.op)
		w.mu.Unlock()
		p.done.Completed(p.op.Origin.Epoch, err)
	}
}

// apply carries out an operation once. It needs mu.
func (w *world) apply(n *node, op *handles.Operation) error {
	if op.IdempotencyKey != "" {
		id := op.Method.Procedure + op.Key + op.IdempotencyKey
		if kept := w.once[id]; kept != nil {
			proto.Reset(op.Reply)
			proto.Merge(op.Reply, kept)
			return nil
		}
		defer func() { w.once[id] = proto.Clone(op.Reply) }()
	}
	if op.Session.ID != "" {
		s := w.sessions[op.Session.ID]
		if s == nil {
			return failure.New(failure.SessionExpired, "no such session")
		}
		at := op.Session.Number << 1
		if op.Session.Waits {
			at++
		}
		if kept := s[at]; kept != nil {
			proto.Reset(op.Reply)
			proto.Merge(op.Reply, kept)
			return nil
		}
		defer func() { s[at] = proto.Clone(op.Reply) }()
	}
	switch in := op.Request.(type) {
	case *quernv1.CounterServiceAddRequest:
		delta := int64(1)
		if in.Delta != nil {
			delta = in.GetDelta()
		}
		w.add(in.GetKey(), delta)
		out := op.Reply.(*quernv1.CounterServiceAddResponse) //nolint:errcheck,forcetypeassert // a panic is what the test wants
		out.Value, out.Applied = w.counters[in.GetKey()], delta
	case *quernv1.CounterServiceGetRequest:
		op.Reply.(*quernv1.CounterServiceGetResponse).Value = w.counters[in.GetKey()] //nolint:errcheck,forcetypeassert // a panic is what the test wants
	case *quernv1.CounterServiceAddManyRequest:
		out := op.Reply.(*quernv1.CounterServiceAddManyResponse) //nolint:errcheck,forcetypeassert // a panic is what the test wants
		for i, key := range in.GetKeys() {
			delta := int64(1)
			if in.GetDeltas() != nil {
				delta = in.GetDeltas()[i]
			}
			if _, ok := n.local.Serving(keyspace.Shard(key, shards)); !ok {
				out.Failures = append(out.Failures, &quernv1.AddManyFailure{Index: uint32(i), Reason: "NOT_OWNER"})
			}
			w.add(key, delta)
			out.Values = append(out.Values, w.counters[key])
		}
	case *quernv1.LockServiceAcquireRequest:
		k := w.lock(in.GetKey())
		if k.held {
			return failure.New(failure.ConditionFailed, "held")
		}
		k.held = true
		op.Reply.(*quernv1.LockServiceAcquireResponse).Token = 7 //nolint:errcheck,forcetypeassert // a panic is what the test wants
	case *quernv1.LockServiceReleaseRequest:
		w.lock(in.GetKey()).held = false
	case *quernv1.MapServicePutRequest:
		op.Reply.(*quernv1.MapServicePutResponse).Version = uint64(len(in.GetValue())) //nolint:errcheck,forcetypeassert // a panic is what the test wants
	case *quernv1.TransactionServiceCommitRequest:
		w.add(in.GetKey(), 100)
	default:
		return failure.New(failure.UnknownMethod, "%T", in)
	}
	return nil
}

// applied is how many additions there were.
func (w *world) applied() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.adds
}

// add needs mu.
func (w *world) add(key string, delta int64) {
	w.adds++
	w.counters[key] += delta
	for c := range w.events[key] {
		select {
		case c <- w.counters[key]:
		default:
		}
	}
}

func (w *world) value(key string) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counters[key]
}

func (l *local) Watch(ctx context.Context, w *handles.Watch) error {
	world, shard := l.node.world, keyspace.Shard(w.Key, shards)
	c := make(chan int64, 16)
	world.mu.Lock()
	if world.events[w.Key] == nil {
		world.events[w.Key] = make(map[chan int64]struct{})
	}
	world.events[w.Key][c] = struct{}{}
	c <- world.counters[w.Key]
	world.mu.Unlock()
	defer func() {
		world.mu.Lock()
		delete(world.events[w.Key], c)
		world.mu.Unlock()
	}()
	for n := uint64(1); ; n++ {
		world.mu.Lock()
		changed := world.changed
		world.mu.Unlock()
		epoch, ok := l.Serving(shard)
		if !ok {
			return errNotOwner
		}
		w.Origin = handles.Origin{Node: l.node.name, Shard: shard, Epoch: epoch}
		select {
		case value := <-c:
			err := w.Each(handles.NewEvent(&quernv1.CounterServiceWatchResponse{
				Epoch: epoch, Sequence: n, Event: &quernv1.CounterEvent{Value: value, Found: true},
			}))
			if err != nil {
				return err
			}
		case <-changed:
		case <-ctx.Done():
			return handles.WatchEnded(ctx)
		}
	}
}

func (l *local) OpenSession(shard uint32, done func(string, uint64, error)) {
	w := l.node.world
	w.mu.Lock()
	epoch := l.epochs[shard].Load()
	w.opened++
	id := fmt.Sprintf("%016d", w.opened)
	if epoch != 0 {
		w.sessions[id] = make(map[uint64]proto.Message)
	}
	w.mu.Unlock()
	if epoch == 0 {
		done("", 0, errNotOwner)
		return
	}
	done(id, epoch, nil)
}

func (l *local) CloseSession(shard uint32, id string, done func(uint64, error)) {
	w := l.node.world
	w.mu.Lock()
	epoch := l.epochs[shard].Load()
	if epoch != 0 {
		delete(w.sessions, id)
	}
	w.mu.Unlock()
	if epoch == 0 {
		done(0, errNotOwner)
		return
	}
	done(epoch, nil)
}
