package crashtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// transferAccounts are the accounts of each bank; there is nothing in all of
// them together, ever.
const (
	transferAccounts = 8
	transferBanks    = 3
	transferWorkers  = 4
	readers          = 2
)

func account(bank, i int) string {
	return "{bank:" + strconv.Itoa(bank) + "}" + strconv.Itoa(i%transferAccounts)
}

// transfers moves money between the accounts of a bank by transactions, while
// readers look at all of them at once.
type transfers struct {
	client *client.Client
	done   chan struct{}
	group  sync.WaitGroup

	acked, unknown [transferBanks]atomic.Int64
	reads          atomic.Int64

	mu      sync.Mutex
	problem error // guarded by mu
}

func (w *transfers) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problem == nil {
		w.problem = fmt.Errorf(format, args...)
	}
}

func startTransfers(c *client.Client, chance *rand.Rand) *transfers {
	w := &transfers{client: c, done: make(chan struct{})}
	for i := range transferWorkers + readers {
		own := rand.New(rand.NewPCG(chance.Uint64(), 0))
		w.group.Go(func() {
			for {
				select {
				case <-w.done:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				if bank := own.IntN(transferBanks); i < transferWorkers {
					w.move(ctx, bank, own)
				} else {
					w.look(ctx, bank)
				}
				cancel()
			}
		})
	}
	return w
}

// move takes from one account and gives to two others, and counts itself.
func (w *transfers) move(ctx context.Context, bank int, chance *rand.Rand) {
	from, amount := chance.IntN(transferAccounts), 2*chance.Int64N(50)
	x := w.client.Txn("bank:" + strconv.Itoa(bank))
	x.CounterAdd(account(bank, from), -amount)
	x.CounterAdd(account(bank, from+1), amount/2)
	x.CounterAdd(account(bank, from+2), amount/2)
	x.CounterAdd(account(bank, 0)+":moves", 1)
	x.MapPut(account(bank, 0)+":last", []byte(strconv.Itoa(from)), handles.PutOptions{})
	switch err := x.Commit(ctx); {
	case err == nil:
		w.acked[bank].Add(1)
	case failure.OutcomeOf(err) == failure.Unknown:
		w.unknown[bank].Add(1)
	default:
		pause(ctx)
	}
}

// look reads a bank; it returns how many moves there were, -1 where the node did
// not answer.
func (w *transfers) look(ctx context.Context, bank int) int64 {
	acked := w.acked[bank].Load()
	x := w.client.Txn("bank:" + strconv.Itoa(bank))
	moves := x.CounterGet(account(bank, 0) + ":moves")
	var all []handles.CounterAnswer
	for i := range transferAccounts {
		all = append(all, x.CounterGet(account(bank, i)))
	}
	if x.Commit(ctx) != nil {
		pause(ctx)
		return -1
	}
	sum := int64(0)
	for _, a := range all {
		v, _ := a.Value()
		sum += v
	}
	n, _ := moves.Value()
	if sum != 0 {
		w.fail("TORN: bank %d has %d after %d moves", bank, sum, n)
	}
	if n < acked {
		w.fail("LOST: bank %d had %d moves, %d were acknowledged before", bank, n, acked)
	}
	w.reads.Add(1)
	return n
}

// TestKillAmongTransactions kills the node again and again under transfers. Who
// looks at all accounts of a bank always sees the same sum, every acknowledged
// transfer is there, and none twice.
func TestKillAmongTransactions(t *testing.T) {
	t.Parallel()
	kills := 16
	if testing.Short() {
		kills = 4
	}
	chance := chance(t)
	data, listen := dataFolder(t), addr(t, chance)
	node := serve(t, data, "--listen", listen)
	ready(t, node)
	w := startTransfers(dial(t, listen), chance)
	for range kills {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for due := w.reads.Load() + 1 + chance.Int64N(200); w.reads.Load() < due && ctx.Err() == nil; {
			pause(ctx)
		}
		if ctx.Err() != nil {
			t.Error("the readers got no answers")
		}
		cancel()
		node.Kill()
		node = serve(t, data, "--listen", listen)
		ready(t, node)
	}
	close(w.done)
	w.group.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for bank := range transferBanks {
		n := w.look(ctx, bank)
		for n < 0 && ctx.Err() == nil {
			n = w.look(ctx, bank)
		}
		acked, unknown := w.acked[bank].Load(), w.unknown[bank].Load()
		if n < acked || n > acked+unknown || acked == 0 {
			t.Errorf("bank %d: %d moves, %d acknowledged, %d unknown", bank, n, acked, unknown)
		}
		t.Logf("bank %d: %d moves acknowledged, %d unknown", bank, acked, unknown)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problem != nil {
		t.Error(w.problem)
	}
	t.Logf("%d kills, %d looks", kills, w.reads.Load())
	stop(t, node)
}
