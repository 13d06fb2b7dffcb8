package quern_test

import (
	"context"
	"errors"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func openMemory(tb testing.TB) *quern.Node {
	tb.Helper()
	node, err := quern.Open(tb.Context(), quern.Config{Store: quern.StoreMemory})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := node.Close(context.Background()); err != nil {
			tb.Error(err)
		}
	})
	return node
}

// ended is a completer that waits.
type ended chan error

func (e ended) Completed(_ uint64, err error) { e <- err }

// addMany is a bulk add in the form in which the server submits it.
func addMany(node *quern.Node, in handles.Session, request *quernv1.CounterServiceAddManyRequest) (*quernv1.CounterServiceAddManyResponse, error) {
	reply := &quernv1.CounterServiceAddManyResponse{}
	done := make(ended, 1)
	node.Submit(&handles.Operation{Method: handles.CounterAddMany, Request: request, Reply: reply, Session: in}, time.Time{}, done)
	return reply, <-done
}

func openSession(t *testing.T, node *quern.Node, key string) handles.Session {
	t.Helper()
	opened := make(chan handles.Session, 1)
	node.OpenSession(keyspace.Shard(key, node.Shards()), func(id string, _ uint64, err error) {
		if err != nil {
			t.Error(err)
		}
		opened <- handles.Session{ID: id, Number: 1}
	})
	return <-opened
}

// TestAddManyTouchesEachKeyByItself, on many shards, by Invoke and by Submit.
func TestAddManyTouchesEachKeyByItself(t *testing.T) {
	t.Parallel()
	node := openMemory(t)
	if _, err := node.Counter("full").Set(t.Context(), math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	keys := []string{"full", "", "twice", "other", "twice", "\xff"}
	deltas := []int64{1, 1, 10, 100, 20, 1}
	check := func(how string, values []int64, failed map[int]failure.Reason, want ...int64) {
		t.Helper()
		for i, v := range values {
			if v != want[i] {
				t.Errorf("%s: key %d is %d, want %d", how, i, v, want[i])
			}
		}
		if len(values) != len(want) || len(failed) != 3 || failed[0] != failure.Overflow || failed[1] != failure.InvalidKey || failed[5] != failure.InvalidKey {
			t.Errorf("%s: %d values, failures %v", how, len(values), failed)
		}
	}
	values, err := handles.AddMany(t.Context(), node, keys, deltas)
	many, _ := errors.AsType[*handles.ManyError](err)
	if many == nil {
		t.Fatal(err)
	}
	failed := make(map[int]failure.Reason)
	for _, f := range many.Failed {
		failed[f.Index] = f.Err.Reason
	}
	check("invoke", values, failed, 0, 0, 10, 100, 30, 0)

	reply, err := addMany(node, handles.Session{}, &quernv1.CounterServiceAddManyRequest{Keys: keys, Deltas: deltas})
	if err != nil {
		t.Fatal(err)
	}
	clear(failed)
	for _, f := range reply.GetFailures() {
		failed[int(f.GetIndex())], _ = failure.ParseReason(f.GetReason())
	}
	check("submit", reply.GetValues(), failed, 0, 0, 40, 200, 60, 0)

	for _, once := range []string{"", "id"} {
		reply, err = addMany(node, handles.Session{}, &quernv1.CounterServiceAddManyRequest{IdempotencyKey: once})
		if err != nil || len(reply.GetValues()) != 0 {
			t.Errorf("no keys: %v, %v", reply, err)
		}
		for n := range int64(2) {
			want := n + 1
			if once != "" {
				want = 3
			}
			reply, err = addMany(node, handles.Session{}, &quernv1.CounterServiceAddManyRequest{Keys: []string{"a", "b"}, IdempotencyKey: once})
			if err != nil || reply.GetValues()[0] != want || reply.GetValues()[1] != want {
				t.Errorf("id %q: %v, %v; want %d", once, reply, err, want)
			}
		}
	}
}

// TestAddManyInASession counts as one number, refusals of keys among them.
func TestAddManyInASession(t *testing.T) {
	t.Parallel()
	node := openMemory(t)
	if _, err := node.Counter("{x}full").Set(t.Context(), math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	in := openSession(t, node, "{x}")
	request := &quernv1.CounterServiceAddManyRequest{Keys: []string{"{x}a", "{x}full", "", "{x}b", "{x}a"}}
	for range 3 {
		got, err := addMany(node, in, request)
		if err != nil {
			t.Fatal(err)
		}
		if v := got.GetValues(); len(v) != 5 || v[0] != 1 || v[1] != 0 || v[2] != 0 || v[3] != 1 || v[4] != 2 {
			t.Errorf("values %v", v)
		}
		if f := got.GetFailures(); len(f) != 2 || f[0].GetIndex() != 1 || f[0].GetReason() != "OVERFLOW" || f[1].GetIndex() != 2 || f[1].GetReason() != "INVALID_KEY" {
			t.Errorf("failures %v", f)
		}
		if _, err := node.Counter("{x}full").Set(t.Context(), 0); err != nil { // the refusal is kept
			t.Fatal(err)
		}
	}
	for name, row := range map[string]struct {
		in     handles.Session
		keys   []string
		once   string
		reason failure.Reason
	}{
		"two shards":      {handles.Session{ID: in.ID, Number: 2}, []string{"{x}a", "{y}a"}, "", failure.InvalidField},
		"another shard":   {handles.Session{ID: in.ID, Number: 2}, []string{"{y}a"}, "", failure.SessionExpired},
		"no keys":         {handles.Session{ID: in.ID, Number: 2}, nil, "", failure.InvalidField},
		"other keys":      {in, []string{"{x}a"}, "", failure.Internal},
		"settled":         {handles.Session{ID: in.ID, Number: 1, Settled: 1}, request.GetKeys(), "", failure.SessionExpired},
		"idempotency key": {handles.Session{ID: in.ID, Number: 2}, []string{"{x}a"}, "id", failure.InvalidField},
	} {
		if name == "settled" {
			continue // it ends the others
		}
		if _, err := addMany(node, row.in, &quernv1.CounterServiceAddManyRequest{Keys: row.keys, IdempotencyKey: row.once}); !errors.Is(err, row.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	in.Settled = 1
	if _, err := addMany(node, in, request); !errors.Is(err, failure.SessionExpired) {
		t.Errorf("settled: %v", err)
	}
	if got, err := node.Counter("{x}a").Get(t.Context()); got != 2 || err != nil {
		t.Errorf("%d, %v; want 2", got, err)
	}
}

// TestInvokeAllAnswersEach, and tells those who give up what they left behind.
func TestInvokeAllAnswersEach(t *testing.T) {
	t.Parallel()
	node := openMemory(t)
	ops := func() (all []*handles.Operation) {
		for i := range 100 {
			all = append(all, &handles.Operation{
				Method: handles.CounterAdd, Key: "k" + strconv.Itoa(i%50),
				Request: &quernv1.CounterServiceAddRequest{}, Reply: &quernv1.CounterServiceAddResponse{},
			})
		}
		all[7].Key = ""
		return append(all, &handles.Operation{
			Method: handles.CounterAddMany, Request: &quernv1.CounterServiceAddManyRequest{Keys: []string{"k1"}},
			Reply: &quernv1.CounterServiceAddManyResponse{},
		})
	}
	all := ops()
	node.InvokeAll(t.Context(), all)
	for i, op := range all {
		switch {
		case i == 7:
			if !errors.Is(op.Err, failure.InvalidKey) {
				t.Errorf("bad key: %v", op.Err)
			}
		case op.Err != nil || op.Origin.Node == "" || op.Origin.Epoch == 0:
			t.Errorf("operation %d: %v, %+v", i, op.Err, op.Origin)
		}
	}
	if got, err := node.Counter("k1").Get(t.Context()); got != 3 || err != nil {
		t.Errorf("%d, %v; want 3", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	all = ops()
	node.InvokeAll(ctx, all)
	for i, op := range all {
		if i != 7 && i != 100 && !errors.Is(op.Err, failure.Canceled) {
			t.Errorf("after the end, operation %d: %v", i, op.Err)
		}
	}
}

// TestAddManyUnderLoad: bulk adds and single ones on the same keys add up.
func TestAddManyUnderLoad(t *testing.T) {
	t.Parallel()
	node := openMemory(t)
	const callers, rounds, keys = 8, 30, 500
	names := make([]string, keys)
	for i := range names {
		names[i] = "n" + strconv.Itoa(i)
	}
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for range rounds {
				if caller == 0 {
					if _, err := node.Counter(names[0]).Add(t.Context(), 1); err != nil {
						t.Error(err)
					}
				}
				if _, err := handles.AddMany(t.Context(), node, names, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for i, name := range names {
		want := int64(callers * rounds)
		if i == 0 {
			want += rounds
		}
		if got, err := node.Counter(name).Get(t.Context()); got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", name, got, err, want)
		}
	}
}

func BenchmarkAddMany(b *testing.B) {
	const keys, each = 10_000, 1000
	node := openMemory(b)
	names := make([]string, keys)
	for i := range names {
		names[i] = "counter:" + strconv.Itoa(i)
	}
	for range 2 {
		if _, err := handles.AddMany(b.Context(), node, names, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		from := i * each % keys
		if _, err := handles.AddMany(b.Context(), node, names[from:from+each], nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*each), "ns/add")
}
