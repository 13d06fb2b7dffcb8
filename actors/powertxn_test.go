package actors_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/handles"
)

const bankAccounts = 4

// bank moves money between accounts by transactions, which also count
// themselves. So the accounts always have nothing together. Each carries an
// idempotency key and is repeated after the next cut where it has no answer: at
// the end there are as many moves as were begun.
type bank struct {
	fail func(format string, args ...any)

	mu sync.Mutex
	// frozen: what is answered from now on is lost on the way.
	frozen  bool
	next    int
	pending map[int]bool
	// seen is the highest count that was told.
	seen int64
}

func (*bank) account(i int) string { return "{bank}" + strconv.Itoa(i%bankAccounts) }

func (b *bank) freeze(frozen bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen = frozen
}

// move sends the next transaction.
func (b *bank) move(r *rig) {
	b.mu.Lock()
	if b.frozen {
		b.mu.Unlock()
		return
	}
	b.next++
	n := b.next
	if b.pending == nil {
		b.pending = make(map[int]bool)
	}
	b.pending[n] = true
	b.mu.Unlock()
	_ = b.send(r, n) // is repeated after the cut
}

func (b *bank) send(r *rig, n int) error {
	x := r.txn("bank").Once("move-" + strconv.Itoa(n))
	x.CounterAdd(b.account(n), -int64(n))
	x.CounterAdd(b.account(n+1+n%2), int64(n))
	count := x.CounterAdd("{bank}moves", 1)
	last := x.MapPut("{bank}last", []byte(strconv.Itoa(n)), handles.PutOptions{})
	err := x.Commit(context.Background())
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.frozen || err != nil {
		return err
	}
	delete(b.pending, n)
	value, err := count.Value()
	b.seen = max(b.seen, value)
	if version, broken := last.Version(); err != nil || broken != nil || version == 0 {
		b.fail("move %d: %d, %w, version %d, %w", n, value, err, version, broken)
	}
	return nil
}

// look reads all accounts at once, and how many moves there were.
func (b *bank) look(r *rig) (moves int64) {
	x := r.txn("bank")
	count := x.CounterGet("{bank}moves")
	var all []handles.CounterAnswer
	for i := range bankAccounts {
		all = append(all, x.CounterGet(b.account(i)))
	}
	if x.Commit(context.Background()) != nil {
		return 0
	}
	var sum int64
	var values []int64
	for _, a := range all {
		v, _ := a.Value()
		values, sum = append(values, v), sum+v
	}
	moves, _ = count.Value()
	if sum != 0 {
		b.fail("torn: the accounts %v have %d together after %d moves", values, sum, moves)
	}
	return moves
}

// check finds all that was told, repeats what was not, and counts.
func (b *bank) check(r *rig) {
	if moves := b.look(r); moves < b.seen || moves > int64(b.next) {
		b.fail("%d moves, %d were told of, %d begun", moves, b.seen, b.next)
	}
	var again []int
	for n := range b.pending {
		again = append(again, n)
	}
	slices.Sort(again)
	for _, n := range again {
		for range 2 {
			if err := b.send(r, n); err != nil {
				b.fail("move %d, repeated: %w", n, err)
			}
		}
	}
	if moves := b.look(r); moves != int64(b.next) {
		b.fail("%d moves after all were repeated, %d were begun", moves, b.next)
	}
}

// tornStore commits the records of one account apart, and has the power cut
// between the two.
type tornStore struct {
	actors.Store
	cut func()
}

func (s tornStore) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	first, rest := slices.Clone(batches), slices.Clone(batches)
	apart := false
	for i, b := range batches {
		first[i].Records, rest[i].Records = nil, nil
		for _, rec := range b.Records {
			if to := &first[i].Records; bytes.HasSuffix(rec.Key, []byte("{bank}0")) {
				rest[i].Records, apart = append(rest[i].Records, rec), true
			} else {
				*to = append(*to, rec)
			}
		}
	}
	verdicts := s.Store.Commit(ctx, first)
	if apart {
		s.cut()
		return s.Store.Commit(ctx, rest)
	}
	return verdicts
}

// TestTornTransactionsAreNoticed breaks that a commit is one, and must see the
// test of power cuts fail.
func TestTornTransactionsAreNoticed(t *testing.T) {
	t.Parallel()
	const seeds = 40
	for seed := range uint64(seeds) {
		p := newPowerCut(t, seed)
		commits := 0
		p.wrap = func(store actors.Store) actors.Store {
			return tornStore{store, func() {
				if commits++; commits > 20 {
					p.cutNow()
				}
			}}
		}
		if !p.run() {
			t.Logf("seed %d: %v", seed, p.problem)
			return
		}
	}
	t.Errorf("%d seeds went through", seeds)
}

// TestBankRejects: the checker says no to a store that has a half of a move.
func TestBankRejects(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withTransactions)
	var problem error
	b := &bank{fail: func(format string, args ...any) { problem = fmt.Errorf(format, args...) }}
	for range 5 {
		b.move(r)
	}
	if b.check(r); problem != nil {
		t.Fatal(problem)
	}
	if _, err := r.counter(b.account(1)).Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if b.check(r); problem == nil {
		t.Error("a half of a move went through")
	}
}
