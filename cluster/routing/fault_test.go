package routing_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/cluster/routing"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// TestOwnersChangeUnderLoad: clients of all nodes add while shards move; each
// acknowledged addition is there once, and none fails.
func TestOwnersChangeUnderLoad(t *testing.T) {
	t.Parallel()
	w, a, b, c := three(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	stop := make(chan struct{})
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		acked = make(map[string]int64)
	)
	for i, n := range []*node{a, b, c} {
		cl := n.dial(t, client.Options{})
		for j := range 4 {
			all.Go(func() {
				for k := 0; ; k++ {
					select {
					case <-stop:
						return
					default:
					}
					key := keyOf(uint32(k+i+j)%shards, j)
					if _, err := handles.NewCounter(cl, key).Add(ctx, 1); err != nil {
						t.Errorf("%s: %v", key, err)
						return
					}
					mu.Lock()
					acked[key]++
					mu.Unlock()
				}
			})
		}
	}
	names := []string{"a", "b", "c"}
	for range 60 {
		shard := rand.N(uint32(shards))
		w.take(shard) // refused by its owner before anybody is told
		a.breakStreams()
		before := w.applied()
		until(t, func() bool { return w.applied() > before+20 || a.Held()+b.Held()+c.Held() > 0 })
		w.give(names[rand.N(3)], shard)
	}
	close(stop)
	all.Wait()
	total := int64(0)
	for key, n := range acked {
		total += n
		if got := w.value(key); got != n {
			t.Errorf("%s is %d, acknowledged were %d", key, got, n)
		}
	}
	t.Logf("%d additions, %d passed on by a", total, a.Passed())
	if total == 0 || a.Passed() == 0 {
		t.Error("nothing was passed on")
	}
}

// TestOwnerIsLostWithWhatItHas: its connection breaks while it works.
func TestOwnerIsLostWithWhatItHas(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*handles.Operation)
		want   error
	}{
		"a write":                        {func(*handles.Operation) {}, failure.OutcomeUnknown},
		"a write with a key":             {func(op *handles.Operation) { op.IdempotencyKey = "id" }, nil},
		"a numbered write":               {func(op *handles.Operation) { op.Session = handles.Session{ID: "0123456789abcdef", Number: 1} }, nil},
		"a numbered write, session gone": {func(op *handles.Operation) { op.Session = handles.Session{ID: "fedcba9876543210", Number: 1} }, failure.OutcomeUnknown},
		"a read": {func(op *handles.Operation) {
			op.Method, op.Request, op.Reply = handles.CounterGet, &quernv1.CounterServiceGetRequest{Key: op.Key}, &quernv1.CounterServiceGetResponse{}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, a, b, _ := three(t)
			w.mu.Lock()
			w.sessions["0123456789abcdef"] = make(map[uint64]proto.Message)
			w.mu.Unlock()
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			hang := make(chan hung, 1)
			b.local.hang.Store(&hang)
			op := addOf(keyOf(1, 0))
			test.change(op)
			ended := make(chan error, 1)
			go func() { ended <- a.Invoke(ctx, op) }()
			lost := <-hang
			w.give("c", 1)
			a.breakStreams()
			err := <-ended
			if test.want == nil && err != nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if test.want == nil && op.Origin != (handles.Origin{Node: "c", Shard: 1, Epoch: 2}) {
				t.Errorf("the answer is of %v", op.Origin)
			}
			b.local.hang.Store(nil)
			lost.done.Completed(1, failure.New(failure.OutcomeUnknown, "nobody hears it")) // lets b stop
		})
	}
}

func addOf(key string) *handles.Operation {
	return &handles.Operation{
		Method: handles.CounterAdd, Key: key,
		Request: &quernv1.CounterServiceAddRequest{Key: key}, Reply: &quernv1.CounterServiceAddResponse{},
	}
}

// TestMovingShard: what its owner refuses while it gives the shard away goes on at
// the next one, however it came; no client has to try again.
func TestMovingShard(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		at      string
		options client.Options
	}{
		"here, by stream":      {"b", client.Options{Patience: -1}},
		"here, by itself":      {"b", client.Options{Unary: true}},
		"elsewhere, by stream": {"a", client.Options{Patience: -1}},
		"elsewhere, by itself": {"a", client.Options{Unary: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _, b, _ := three(t)
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			at := w.nodes[test.at]
			cl := at.dial(t, test.options)
			key := keyOf(1, 0)
			if _, err := handles.NewCounter(cl, key).Add(ctx, 1); err != nil {
				t.Fatal(err)
			}
			b.local.moving.Store(true)
			calls := b.local.calls.Load()
			ended := make(chan error, 2)
			go func() {
				_, err := handles.NewCounter(cl, key).Add(ctx, 1)
				ended <- err
			}()
			go func() {
				q := &quernv1.LockServiceAcquireRequest{Key: key, Owner: "o"}
				ended <- cl.Invoke(ctx, &handles.Operation{Method: handles.LockAcquire, Key: key, Request: q, Reply: &quernv1.LockServiceAcquireResponse{}})
			}()
			until(t, func() bool { return b.local.calls.Load() >= calls+2 })
			w.give("c", 1)
			for range 2 {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			if got := w.value(key); got != 2 {
				t.Errorf("the counter is %d", got)
			}
			b.local.moving.Store(false)
		})
	}
}

// TestUnreachableOwner: what was never handed over is not done, and goes on when the
// owner can be reached.
func TestUnreachableOwner(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	a.mu.Lock()
	a.cut = true
	a.mu.Unlock()
	a.breakStreams()
	key := keyOf(1, 0)
	until(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.streams) == 0
	})
	ended := make(chan error, 1)
	go func() { ended <- a.Invoke(ctx, addOf(key)) }()
	// A stream that was being opened when the cut came may have carried it.
	until(t, func() bool { return a.Held() == 1 || len(ended) == 1 })
	a.mu.Lock()
	a.cut = false
	a.mu.Unlock()
	if err := <-ended; err != nil || w.value(key) != 1 {
		t.Errorf("%v, the counter is %d", err, w.value(key))
	}
}

// TestTablesThatContradictEachOther do not make an operation go round for ever.
func TestTablesThatContradictEachOther(t *testing.T) {
	t.Parallel()
	w, a, b, c := three(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	w.take(1)
	for n, wrong := range map[*node]string{a: "b", b: "c", c: "a"} {
		n.mu.Lock()
		n.wrong = map[uint32]routing.Owner{1: {Node: wrong, Addr: w.nodes[wrong].srv.GRPCAddr(), Epoch: 5}}
		n.mu.Unlock()
	}
	w.give("a", 0) // a change, which all take with what is wrong
	until(t, func() bool { return a.At(1).Node == "b" && b.At(1).Node == "c" && c.At(1).Node == "a" })
	ended := make(chan error, 1)
	go func() { ended <- a.Invoke(ctx, addOf(keyOf(1, 0))) }()
	until(t, func() bool { return a.Passed() >= 3 })
	if all := a.Passed() + b.Passed() + c.Passed(); all > 40 {
		t.Errorf("it was passed on %d times", all)
	}
	for _, n := range []*node{a, b, c} {
		n.mu.Lock()
		n.wrong = nil
		n.mu.Unlock()
	}
	w.mu.Lock()
	w.owners[1] = routing.Owner{Epoch: 5}
	w.mu.Unlock()
	w.give("b", 1)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestHopLimit: an operation that was passed on as often as it may be is refused by
// the owner's name.
func TestHopLimit(t *testing.T) {
	t.Parallel()
	_, a, b, _ := three(t)
	until(t, func() bool { return a.At(1).Node == "b" })
	for hops, want := range map[uint32]bool{1: true, routing.MaxHops - 1: true, routing.MaxHops: false} {
		op := addOf(keyOf(1, 0))
		op.Passage = &handles.Passage{Hops: hops}
		ended := make(chan error, 1)
		until(t, func() bool { return a.Passed() > 0 || a.connect(t) })
		a.Submit(op, time.Time{}, completer(func(_ uint64, err error) { ended <- err }))
		err := <-ended
		if want {
			if err != nil {
				t.Errorf("%d hops: %v", hops, err)
			}
			continue
		}
		e, ok := errors.AsType[*failure.Error](err)
		if !ok || e.Reason != failure.NotOwner || e.Owner == nil || *e.Owner != (failure.Owner{Shard: 1, Node: "b", Addr: b.srv.GRPCAddr(), Epoch: 1}) {
			t.Errorf("%d hops: %v", hops, err)
		}
	}
}

// connect passes one operation on, so that there is a stream.
func (n *node) connect(t *testing.T) bool {
	t.Helper()
	return n.Invoke(t.Context(), addOf(keyOf(1, 99))) == nil
}

// TestMoreSessionsThanNumbers: one stream speaks for more sessions than it can give
// numbers to.
func TestMoreSessionsThanNumbers(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	const sessions = routing.LinkRefs + 1000
	id := func(i int) string { return fmt.Sprintf("session%09d", i) }
	w.mu.Lock()
	for i := range sessions {
		w.sessions[id(i)] = make(map[uint64]proto.Message)
	}
	w.mu.Unlock()
	a.connect(t)
	key := keyOf(1, 0)
	for from := 0; from < 2*sessions; from += 1000 {
		var all sync.WaitGroup
		for i := from; i < min(from+1000, 2*sessions); i++ {
			op := addOf(key)
			op.Session = handles.Session{ID: id(i % sessions), Number: 1}
			all.Add(1)
			a.Submit(op, time.Time{}, completer(func(_ uint64, err error) {
				defer all.Done()
				if err != nil {
					t.Errorf("%d: %v", i, err)
				}
			}))
		}
		all.Wait()
	}
	if got := w.value(key); got != sessions {
		t.Errorf("%d additions under %d numbers", got, sessions)
	}
}

// TestWatchIsPassedOn and ends when the owner is another.
func TestWatchIsPassedOn(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	key := keyOf(1, 0)
	until(t, func() bool { return a.At(1).Node == "b" })
	seen, ended := make(chan handles.Origin, 16), make(chan error, 1)
	watch := &handles.Watch{Method: handles.CounterWatch, Key: key}
	watch.Each = func(*handles.Event) error {
		seen <- watch.Origin
		return nil
	}
	go func() { ended <- a.Watch(ctx, watch) }()
	if o := <-seen; o != (handles.Origin{Node: "b", Shard: 1, Epoch: 1}) {
		t.Errorf("watched at %v", o)
	}
	if err := a.Invoke(ctx, addOf(key)); err != nil {
		t.Fatal(err)
	}
	<-seen
	a.Heard(failure.Owner{Shard: 1, Node: "c", Addr: w.nodes["c"].srv.GRPCAddr(), Epoch: 2}) // b has not noticed
	if err := <-ended; !errors.Is(err, failure.NotOwner) {
		t.Errorf("ended with %v", err)
	}
	w.give("c", 1)
	values := make(chan int64, 16)
	go func() {
		for e, err := range handles.NewCounter(a.dial(t, client.Options{}), key).Watch(ctx) {
			if err != nil {
				return
			}
			values <- e.Value
		}
	}()
	if got := <-values; got != 1 {
		t.Errorf("a client sees %d", got)
	}
	w.give("a", 1) // the client's watch goes on here
	if _, err := handles.NewCounter(a.dial(t, client.Options{}), key).Add(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for got := range values {
		if got == 2 {
			break
		}
	}
	cancel()
}

// TestPeersAreAskedWhileTheViewIsStale: a node that hears nothing of the authority
// learns owners from the others.
func TestPeersAreAskedWhileTheViewIsStale(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	v, _ := a.view().(*view)
	v.fresh, v.changed = false, make(chan struct{})
	a.mu.Lock()
	a.frozen = v
	a.mu.Unlock()
	w.give("", 1)
	w.give("c", 1)
	until(t, func() bool { return a.At(1) == routing.Owner{Node: "c", Addr: w.nodes["c"].srv.GRPCAddr(), Epoch: 2} })
	if err := a.Invoke(ctx, addOf(keyOf(1, 0))); err != nil {
		t.Error(err)
	}
}

// TestPeerCalls: offers and epochs reach the other node.
func TestPeerCalls(t *testing.T) {
	t.Parallel()
	_, a, b, _ := three(t)
	if err := a.Router.Offer(t.Context(), "b", b.srv.GRPCAddr(), &quernv1.PeerServiceOfferRequest{}); err != nil {
		t.Error(err)
	}
	until(t, func() bool { return b.At(2).Epoch == 1 })
	got, err := a.Router.Highest(t.Context(), "b", b.srv.GRPCAddr(), &quernv1.PeerServiceHighestRequest{Shards: []uint32{2}})
	if err != nil || len(got) != 1 || got[0] != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestEndWaits: what waits at another node is perhaps granted just now, and keeps
// its place.
func TestEndWaits(t *testing.T) {
	t.Parallel()
	w, a, _, _ := three(t)
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	key := keyOf(1, 0)
	w.mu.Lock()
	w.lock(key).held = true
	w.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- a.Invoke(ctx, acquireOf(key)) }()
	until(t, func() bool { return w.waiters(key) == 1 })
	a.EndWaits()
	if err := <-ended; !errors.Is(err, failure.OutcomeUnknown) {
		t.Errorf("ended with %v, although a grant may be on its way", err)
	}
	if err := a.Invoke(ctx, acquireOf(key)); !errors.Is(err, failure.Stopping) {
		t.Errorf("another one: %v", err)
	}
	until(t, func() bool { return w.waiters(key) == 0 })
	if err := a.Invoke(ctx, addOf(key)); err != nil {
		t.Errorf("what does not wait: %v", err)
	}
}

// try is an Acquire that does not wait.
func try(key, owner string) *handles.Operation {
	return &handles.Operation{
		Method: handles.LockAcquire, Key: key,
		Request: &quernv1.LockServiceAcquireRequest{Key: key, Owner: owner, Ttl: durationpb.New(time.Second)},
		Reply:   &quernv1.LockServiceAcquireResponse{},
	}
}

// TestTriesKeepToTheWindow: an Acquire that does not wait counts like any other
// operation. More of them than the owner takes at a time wait here, and do not
// break the stream.
func TestTriesKeepToTheWindow(t *testing.T) {
	t.Parallel()
	const tries, window = 6000, 4096
	_, a, b, _ := three(t)
	begun := make(chan hung, tries)
	b.local.hang.Store(&begun)
	ended := make(chan error, tries)
	for i := range tries {
		a.Submit(try(keyOf(1, i), strconv.Itoa(i)), time.Time{}, completer(func(_ uint64, err error) { ended <- err }))
	}
	var first []hung
	for range window {
		first = append(first, <-begun)
	}
	for _, h := range first {
		h.done.Completed(1, nil)
	}
	for range tries - window {
		h := <-begun
		h.done.Completed(1, nil)
	}
	for range tries {
		if err := <-ended; err != nil {
			t.Fatalf("a stream broke: %v", err)
		}
	}
}

// TestTryAtTheEndOfWaits: it does not wait, so it is answered by its owner also
// where the node that passed it on stops.
func TestTryAtTheEndOfWaits(t *testing.T) {
	t.Parallel()
	_, a, b, _ := three(t)
	begun := make(chan hung, 1)
	b.local.hang.Store(&begun)
	got := make(chan error, 1)
	go func() { got <- a.Invoke(t.Context(), try(keyOf(1, 0), "o")) }()
	h := <-begun
	a.EndWaits()
	h.done.Completed(1, nil)
	if err := <-got; err != nil {
		t.Errorf("answered before the owner has: %v", err)
	}
}
