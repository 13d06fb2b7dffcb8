package actors_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func withTransactions(c *actors.Config) {
	c.Kinds = append(c.Kinds, grains.Map{}, grains.Transaction{})
}

func (r *rig) txn(key string) *handles.Txn { return handles.NewTxn(r, key) }

// TestTransactions goes through what conditions and operations do to a counter
// at 5 and an entry. In the second round the store's memory is cut down to what
// is durable before each step.
func TestTransactions(t *testing.T) {
	t.Parallel()
	for _, crash := range []bool{false, true} {
		r := newRig(t, newFaultStore(), withTransactions)
		if _, err := r.counter("{x}n").Set(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		version, err := r.entry("{x}m").Put(t.Context(), []byte("v"), handles.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ten := int64(10)
		for i, step := range []struct {
			fill  func(*handles.Txn)
			fails error
			place string // where it fails
		}{
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.Equal, 5) }, nil, ""},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.Equal, 6) }, failure.ConditionFailed, "conditions[0]: the counter is 5, not == 6"},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.NotEqual, 6) }, nil, ""},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.NotEqual, 5) }, failure.ConditionFailed, "conditions[0]"},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.Less, 6) }, nil, ""},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.Less, 5) }, failure.ConditionFailed, "conditions[0]"},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.LessOrEqual, 5) }, nil, ""},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.LessOrEqual, 4) }, failure.ConditionFailed, "conditions[0]"},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.Greater, 4) }, nil, ""},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.Greater, 5) }, failure.ConditionFailed, "conditions[0]"},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.GreaterOrEqual, 5) }, nil, ""},
			{func(x *handles.Txn) { x.IfCounter("{x}n", handles.GreaterOrEqual, 6) }, failure.ConditionFailed, "conditions[0]"},
			{func(x *handles.Txn) { x.IfCounter("{x}n", 0, 6) }, failure.InvalidField, "conditions[0]"},
			{func(x *handles.Txn) { x.IfCounter("{x}n", 7, 6) }, failure.InvalidField, "conditions[0]"},
			{func(x *handles.Txn) {
				x.IfVersion("{x}m", version).IfPresent("{x}m").IfAbsent("{x}o").IfVersion("{x}o", 0)
			}, nil, ""},
			{func(x *handles.Txn) { x.IfPresent("{x}m").IfVersion("{x}m", version+1) }, failure.ConditionFailed, "conditions[1]"},
			{func(x *handles.Txn) { x.IfAbsent("{x}m") }, failure.ConditionFailed, "conditions[0]"},
			{func(x *handles.Txn) { x.IfPresent("{x}o") }, failure.ConditionFailed, "conditions[0]"},
			{func(x *handles.Txn) { x.IfHeld(under("{x}l", 7)) }, failure.UnknownKind, "conditions[0]"},
			{func(x *handles.Txn) {
				x.CounterAdd("{x}n", 100)
				x.IfCounter("{x}n", handles.Equal, 105) // is checked before
			}, failure.ConditionFailed, "conditions[0]"},
			{func(x *handles.Txn) {
				x.CounterAdd("{x}n", 1)
				x.CounterAddBounded("{x}n", 5, handles.AddOptions{Max: &ten}) // would be 11
			}, failure.Limit, "operations[1]"},
			{func(x *handles.Txn) {
				x.IfCounter("{x}n", handles.Equal, 5)
				x.MapDelete("{x}m")
				x.MapPut("{x}o", []byte("o"), handles.PutOptions{})
				x.CounterSet("{x}new", 7)
				x.MapPut("{x}m", []byte("w"), handles.PutOptions{IfVersion: version}) // was deleted
			}, failure.ConditionFailed, "operations[3]"},
			{func(x *handles.Txn) {
				x.CounterAdd("{x}n", 1)
				x.MapPut("{x}m", make([]byte, 64<<10+1), handles.PutOptions{})
			}, failure.Limit, "operations[1]"},
			{func(x *handles.Txn) { x.CounterAdd("{x}n", 1); x.CounterAdd("{y}n", 1) }, failure.CrossShard, "operations[1]"},
			{func(x *handles.Txn) { x.IfCounter("{y}n", handles.Equal, 0) }, failure.CrossShard, "conditions[0]"},
			{func(x *handles.Txn) { x.CounterAdd("{x}n", 1); x.CounterAdd("", 1) }, failure.InvalidKey, "operations[1]"},
			{func(x *handles.Txn) { x.CounterAdd("{x}n", 1); x.Guarded(under("l", 0)) }, failure.InvalidField, ""},
			{func(*handles.Txn) {}, failure.InvalidField, "empty"},
			{func(x *handles.Txn) {
				for range 1000 {
					x.CounterAdd("{x}n", 1)
				}
			}, failure.InvalidField, "1000 operations are too many, at most 128"},
			{func(x *handles.Txn) {
				for range 129 {
					x.IfCounter("{x}n", handles.Equal, 5)
				}
			}, failure.InvalidField, "129 conditions are too many"},
			{func(x *handles.Txn) {
				for range 20 {
					x.MapPut("{x}m", make([]byte, 60_000), handles.PutOptions{})
				}
			}, failure.Limit, "the transaction has 12"},
		} {
			if crash {
				r.Crash(r.shardOf("x"))
			}
			x := r.txn("x")
			step.fill(x)
			err := x.Commit(t.Context())
			if !errors.Is(err, step.fails) || failure.OutcomeOf(err) != failure.NotDone || err != nil && !strings.Contains(err.Error(), step.place) {
				t.Errorf("crash %v, step %d: %v, want %v at %s", crash, i, err, step.fails, step.place)
			}
			if n, err := r.counter("{x}n").Get(t.Context()); n != 5 || err != nil {
				t.Fatalf("crash %v, step %d: the counter is %d, %v", crash, i, n, err)
			}
			if m, err := r.entry("{x}m").Get(t.Context()); m.Version != version || string(m.Value) != "v" || err != nil {
				t.Fatalf("crash %v, step %d: the entry is %+v, %v", crash, i, m, err)
			}
		}
		for _, key := range []string{"{x}o", "{x}new"} {
			n, _ := r.counter(key).Get(t.Context())
			if m, err := r.entry(key).Get(t.Context()); m.Found() || n != 0 || err != nil {
				t.Errorf("crash %v: %s is there", crash, key)
			}
		}
	}
}

// TestTransactionResults: each operation sees what those before it have left, a
// key may come again, and results stand in the order of the operations.
func TestTransactionResults(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withTransactions)
	x := r.txn("x").IfCounter("{x}n", handles.Equal, 0)
	first := x.CounterAdd("{x}n", 2)
	put := x.MapPut("{x}m", []byte("one"), handles.PutOptions{})
	again := x.CounterAdd("{x}n", 3)
	read, got := x.CounterGet("{x}n"), x.MapGet("{x}m")
	over := x.MapPut("{x}m", []byte("two"), handles.PutOptions{})
	expires := x.CounterExpire("{x}n", time.Hour)
	if _, err := first.Value(); err == nil {
		t.Error("a result before the commit")
	}
	if err := x.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for want, a := range map[int64]handles.CounterAnswer{2: first, 5: again} {
		if n, err := a.Value(); n != want || err != nil {
			t.Errorf("%d, %v, want %d", n, err, want)
		}
	}
	for _, a := range []handles.CounterAnswer{read, expires} {
		if n, err := a.Value(); n != 5 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	one, err := put.Version()
	two, err2 := over.Version()
	if v, err3 := got.Value(); errors.Join(err, err2, err3) != nil || two <= one || v.Version != one || string(v.Value) != "one" {
		t.Errorf("%d, %d, %+v, %v %v %v", one, two, v, err, err2, err3)
	}
	if err := x.Commit(t.Context()); !errors.Is(err, failure.InvalidField) {
		t.Errorf("a second commit: %v", err)
	}
	if m, err := r.entry("{x}m").Get(t.Context()); string(m.Value) != "two" || err != nil {
		t.Error(m, err)
	}
}

// TestTransactionAtTheGate: nobody sees a part of it before all of it is durable,
// nor where its commit is refused.
func TestTransactionAtTheGate(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withTransactions)
	move := func(n int64) func() (int64, error) {
		return func() (int64, error) {
			x := r.txn("x")
			x.CounterAdd("{x}a", -n)
			x.CounterAdd("{x}b", n)
			return 0, x.Commit(context.Background())
		}
	}
	snapshot := func() (int64, error) {
		x := r.txn("x")
		a, b := x.CounterGet("{x}a"), x.CounterGet("{x}b")
		if err := x.Commit(context.Background()); err != nil {
			return 0, err
		}
		n, _ := a.Value()
		m, err := b.Value()
		return 1000*m - n, err
	}
	if _, err := move(1)(); err != nil {
		t.Fatal(err)
	}
	for _, status := range []actors.Status{actors.Done, actors.Refused, actors.Unclear} {
		before, err := snapshot()
		if err != nil {
			t.Fatal(err)
		}
		drainSignals(store.began)
		hold := make(chan struct{})
		store.set(func(f *faultStore) { f.hold, f.verdict = hold, func(actors.Batch) actors.Status { return status } })
		wrote := begin(move(10))
		<-store.began
		reads := map[string]<-chan answer{"a": begin(get(r, "{x}a")), "b": begin(get(r, "{x}b")), "both": begin(snapshot)}
		await(r, "x", 4)
		unanswered(t, "the transaction", wrote)
		for name, read := range reads {
			unanswered(t, name, read)
		}
		store.set(func(f *faultStore) { f.hold, f.verdict = nil, nil })
		close(hold)
		after := before
		switch got := <-wrote; status {
		case actors.Done:
			if after += 10_010; got.err != nil {
				t.Error(got.err)
			}
		default:
			if got.err == nil || (failure.OutcomeOf(got.err) == failure.Unknown) != (status == actors.Unclear) {
				t.Errorf("%v: %v", status, got.err)
			}
		}
		for name, read := range reads {
			if got := <-read; name == "both" && got.err == nil && got.value != after {
				t.Errorf("%v: read %d, want %d", status, got.value, after)
			}
		}
		if got, err := snapshot(); got != after || err != nil {
			t.Errorf("%v: %d, %v, want %d", status, got, err, after)
		}
	}
}

// TestTransactionWaitsForItsStates: it is run when all of them are there; what
// came behind it to a state that is read comes behind it.
func TestTransactionWaitsForItsStates(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withTransactions)
	if _, err := r.counter("{x}a").Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	reading, goOn := make(chan struct{}, 100), make(chan struct{})
	store.set(func(f *faultStore) {
		f.read = func(uint32) error {
			reading <- struct{}{}
			<-goOn
			return nil
		}
	})
	x := r.txn("x")
	a, b := x.CounterAdd("{x}a", 10), x.CounterAdd("{x}b", 10)
	commit := begin(func() (int64, error) { return 0, x.Commit(context.Background()) })
	<-reading
	behind := begin(func() (int64, error) { return r.counter("{x}b").Add(context.Background(), 1) })
	await(r, "x", 2)
	if got, err := r.counter("{x}a").Add(t.Context(), 1); got != 2 || err != nil {
		t.Errorf("a state that is there: %d, %v", got, err)
	}
	close(goOn)
	if got := <-commit; got.err != nil {
		t.Fatal(got.err)
	}
	if got := <-behind; got != (answer{11, nil}) {
		t.Errorf("behind it: %+v", got)
	}
	n, _ := a.Value()
	if m, err := b.Value(); n != 12 || m != 10 || err != nil {
		t.Errorf("%d, %d, %v", n, m, err)
	}
	store.set(func(f *faultStore) { f.read = func(uint32) error { return errBroken } })
	x = r.txn("x")
	x.CounterAdd("{x}a", 1)
	x.CounterAdd("{x}c", 1)
	if err := x.Commit(t.Context()); !errors.Is(err, failure.StoreUnavailable) {
		t.Errorf("a state that cannot be read: %v", err)
	}
	store.set(func(f *faultStore) { f.read = nil })
	if got, err := r.counter("{x}a").Get(t.Context()); got != 12 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

// TestTransactionOnce: repeats under an idempotency key or a session's number
// get the first answer, a refusal too, over crashes; another transaction under
// the key is ID_REUSED.
func TestTransactionOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withTransactions)
	session := r.mustOpen(t, "x")
	numbered := func(number uint64, fill func(*quernv1.TransactionServiceCommitRequest)) (int64, error) {
		delta := int64(5)
		q := &quernv1.TransactionServiceCommitRequest{Key: "x", Operations: []*quernv1.TransactionOperation{{
			Operation: &quernv1.TransactionOperation_CounterAdd{CounterAdd: &quernv1.CounterServiceAddRequest{Key: "{x}b", Delta: &delta}},
		}}}
		fill(q)
		var a quernv1.TransactionServiceCommitResponse
		_, err := r.Runtime.Invoke(t.Context(), r.shardOf("x"), &actors.Operation{
			Kind: "transaction", Key: "x", Session: actors.Session{ID: session, Number: number}, Command: q, Reply: &a,
		})
		if err != nil {
			return 0, err
		}
		return a.GetResults()[0].GetCounterAdd().GetValue(), nil
	}
	plain := func(*quernv1.TransactionServiceCommitRequest) {}
	never := func(q *quernv1.TransactionServiceCommitRequest) {
		q.Conditions = []*quernv1.TransactionCondition{{Condition: &quernv1.TransactionCondition_Map{
			Map: &quernv1.MapCondition{Key: "{x}m", Expected: &quernv1.MapCondition_Present{Present: true}},
		}}}
	}
	for round := range 3 {
		x := r.txn("x").Once("id")
		n := x.CounterAdd("{x}a", 5)
		if err := x.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, err := n.Value(); got != 5 || err != nil {
			t.Errorf("round %d: %d, %v", round, got, err)
		}
		x = r.txn("x").Once("id")
		x.CounterAdd("{x}a", 6)
		if err := x.Commit(t.Context()); !errors.Is(err, failure.IDReused) {
			t.Error(err)
		}
		x = r.txn("x").Once("refused").IfPresent("{x}m")
		x.CounterAdd("{x}a", 1)
		if err := x.Commit(t.Context()); !errors.Is(err, failure.ConditionFailed) {
			t.Errorf("round %d: %v", round, err)
		}
		if got, err := numbered(1, plain); got != 5 || err != nil {
			t.Errorf("round %d: numbered: %d, %v", round, got, err)
		}
		if _, err := numbered(2, never); !errors.Is(err, failure.ConditionFailed) {
			t.Errorf("round %d: %v", round, err)
		}
		if round == 0 { // the refusals stay, although the condition would hold
			if _, err := r.entry("{x}m").Put(t.Context(), nil, handles.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		r.Crash(r.shardOf("x"))
	}
	if got, err := r.counter("{x}a").Get(t.Context()); got != 5 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

// TestTransactionExpiry: what is due has gone before the conditions are checked,
// and stays gone where the transaction is refused.
func TestTransactionExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newFaultStore(), withTransactions)
		x := r.txn("x")
		x.CounterSet("{x}n", 7)
		x.CounterExpire("{x}n", time.Minute)
		x.MapPut("{x}m", nil, handles.PutOptions{TTL: time.Minute})
		if err := x.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
		x = r.txn("x").IfCounter("{x}n", handles.Equal, 0).IfAbsent("{x}m").IfPresent("{x}m")
		if err := x.Commit(t.Context()); !errors.Is(err, failure.ConditionFailed) || !strings.Contains(err.Error(), "conditions[2]") {
			t.Error(err)
		}
		x = r.txn("x").IfCounter("{x}n", handles.Equal, 0).IfAbsent("{x}m")
		n := x.CounterAdd("{x}n", 1)
		if err := x.Commit(t.Context()); err != nil {
			t.Error(err)
		}
		if got, err := n.Value(); got != 1 || err != nil {
			t.Error(got, err)
		}
	})
}

// TestTransactionGuards: those of a transaction that is refused are not noted;
// a step's own goes before the transaction's.
func TestTransactionGuards(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withTransactions)
	add := func(token uint64, fail bool) error {
		x := r.txn("x").Guarded(under("l", token))
		x.CounterAdd("{x}a", 1)
		x.CounterAdd("{x}b", 1)
		if fail {
			x.CounterGet("{x}c")
			one := int64(-1)
			x.CounterAddBounded("{x}c", 1, handles.AddOptions{Max: &one})
		}
		return x.Commit(t.Context())
	}
	for i, step := range []struct {
		token uint64
		fail  bool
		want  error
	}{
		{5, false, nil},
		{9, true, failure.Limit},
		{6, false, nil},
		{5, false, failure.FencedToken},
		{1 << 40, true, failure.Limit},
		{6, false, nil},
	} {
		if err := add(step.token, step.fail); !errors.Is(err, step.want) {
			t.Errorf("step %d: %v, want %v", i, err, step.want)
		}
		if i%2 == 1 {
			r.Crash(r.shardOf("x"))
		}
	}
	if err := second(r.counter("{x}b").Guarded(under("l", 5)).Add(t.Context(), 1)); !errors.Is(err, failure.FencedToken) {
		t.Error(err)
	}
	if got, err := r.counter("{x}a").Get(t.Context()); got != 3 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

// script is a Composer whose command is a list of "kind key command"; one that
// begins with ! has a reply that does not encode.
type script struct{ stateless }

func (script) Name() string        { return "script" }
func (s script) New() actors.State { return s.stateless }

func (script) Compose(command, reply proto.Message) (steps []actors.Step, err error) {
	q, ok := command.(*wrapperspb.StringValue)
	a, okay := reply.(*wrapperspb.StringValue)
	if !ok || !okay {
		return nil, failure.New(failure.UnknownMethod, "%T, %T", command, reply)
	}
	text := q.GetValue()
	if bad, ok := strings.CutPrefix(text, "!"); ok {
		a.Value, text = "\xff", bad
	}
	for line := range strings.SplitSeq(text, ";") {
		f := strings.Fields(line)
		step := actors.Step{Kind: f[0], Key: f[1], Command: wrapperspb.String(f[2]), Reply: &wrapperspb.StringValue{}}
		if f[0] == "probe" {
			step.Reply = &wrapperspb.UInt64Value{}
		}
		steps = append(steps, step)
	}
	return steps, nil
}

type stateless struct{}

func (stateless) Apply(*actors.Turn, proto.Message, proto.Message) (bool, error) { return false, nil }
func (stateless) Assign(actors.State)                                            {}
func (stateless) Due() int64                                                     { return 0 }
func (stateless) Append(b []byte) ([]byte, error)                                { return b, nil }
func (stateless) Decode([]byte) error                                            { return nil }

// TestTransactionOfBadKinds: whatever a kind does wrong, its transaction is
// undone as a whole, and nothing else.
func TestTransactionOfBadKinds(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store, withProbe(probe{}), func(c *actors.Config) { c.Kinds = append(c.Kinds, blob{}, script{}) })
	session := r.mustOpen(t, "x")
	number := uint64(0)
	run := func(text string, numbered bool) error {
		op := actors.Operation{Kind: "script", Key: "x", Method: "script", Command: wrapperspb.String(text), Reply: &wrapperspb.StringValue{}}
		if numbered {
			number++
			op.Session = actors.Session{ID: session, Number: number}
		}
		done := make(end, 1)
		go r.Submit(r.shardOf("x"), &op, time.Time{}, done) // a handler may end the goroutine
		return <-done
	}
	if err := run("blob {x}b one; probe {x}p add", false); err != nil {
		t.Fatal(err)
	}
	for _, numbered := range []bool{false, true} {
		for text, want := range map[string]failure.Reason{
			"probe {x}p add; blob {x}b two; probe {x}p refuse":  failure.ConditionFailed,
			"probe {x}p add; blob {x}b two; probe {x}p panic":   failure.HandlerFailed,
			"blob {x}b two; blob {x}b three; probe {x}p goexit": failure.HandlerFailed,
			"probe {x}p add; blob {x}b two; blob {x}c bad":      failure.HandlerFailed,
			"blob {x}c bad; blob {x}b two; probe {x}p add":      failure.HandlerFailed,
			"blob {x}b two; script {x}s loop":                   failure.UnknownKind,
			"blob {x}b two; nothing {x}s loop":                  failure.UnknownKind,
			"blob {x}b two; blob elsewhere three":               failure.CrossShard,
			"!probe {x}p add; blob {x}b two":                    failure.HandlerFailed,
		} {
			if text[0] == '!' && !numbered {
				continue // nobody encodes it
			}
			if err := run(text, numbered); !errors.Is(err, want) || failure.OutcomeOf(err) != failure.NotDone {
				t.Errorf("numbered %v, %s: %v, want %v", numbered, text, err, want)
			}
			if got := r.blobOf(t, "{x}b"); got != "one" {
				t.Errorf("numbered %v, %s: the blob is %q", numbered, text, got)
			}
			if n, err := r.probe(t.Context(), "{x}p", "refuse", ""); err == nil || !strings.Contains(err.Error(), "refused at 2") {
				t.Errorf("numbered %v, %s: the probe: %d, %v", numbered, text, n, err)
			}
		}
	}
	if err := run("blob {x}b two; probe {x}p add", true); err != nil {
		t.Fatal(err)
	}
	if got := r.blobOf(t, "{x}b"); got != "two" {
		t.Errorf("%q", got)
	}
}

// blobOf reads the blob's record: nothing but a write tells its value.
func (r *rig) blobOf(t *testing.T, key string) (value string) {
	t.Helper()
	r.Barrier(r.shardOf(key))
	err := r.store.Read(t.Context(), r.shardOf(key), [][]byte{actors.StateKey("blob", key)}, func(_ int, b []byte) { value = string(b) })
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestTransactionReplyIsBounded: beyond a megabyte it is refused, and undone.
func TestTransactionReplyIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withTransactions)
	for i := range 17 {
		if _, err := r.entry("{x}"+strconv.Itoa(i)).Put(t.Context(), make([]byte, 64<<10), handles.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for n, want := range map[int]error{15: nil, 17: failure.Limit} {
		x := r.txn("x")
		x.CounterAdd("{x}n", int64(n))
		for i := range n {
			x.MapGet("{x}" + strconv.Itoa(i))
		}
		if err := x.Commit(t.Context()); !errors.Is(err, want) {
			t.Errorf("%d entries: %v", n, err)
		}
	}
	if got, err := r.counter("{x}n").Get(t.Context()); got != 15 || err != nil {
		t.Errorf("%d, %v", got, err)
	}
}

// TestKeptRepliesAreBounded: large ones under idempotency keys of one key are
// refused beyond 16 MiB, until the first are old.
func TestKeptRepliesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newFaultStore(), withTransactions)
		for i := range 15 {
			if _, err := r.entry("{x}"+strconv.Itoa(i)).Put(t.Context(), make([]byte, 64<<10), handles.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		commit := func(id int) error {
			x := r.txn("x").Once(strconv.Itoa(id))
			x.CounterAdd("{x}n", 1)
			for i := range 15 {
				x.MapGet("{x}" + strconv.Itoa(i))
			}
			return x.Commit(t.Context())
		}
		const fit = 18 // times 15 * 64 KiB are above 16 MiB
		for id := range fit {
			if err := commit(id); err != nil {
				t.Fatalf("id %d: %v", id, err)
			}
		}
		r.Crash(r.shardOf("x"))
		if err := commit(fit); !errors.Is(err, failure.Overloaded) {
			t.Errorf("beyond the bound: %v", err)
		}
		if err := commit(3); err != nil {
			t.Errorf("a kept one: %v", err)
		}
		time.Sleep(11 * time.Minute) //nolint:forbidigo // in a bubble
		if err := commit(fit); err != nil {
			t.Errorf("when the first are old: %v", err)
		}
		if got, err := r.counter("{x}n").Get(t.Context()); got != fit+1 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
	})
}
