// Command inventory sells what is in stock, and not more: an order reserves by
// one transaction and is paid for, or given up, by another. What is left in
// stock, reserved and sold is the same in all, whenever anybody looks.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/handles"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// article is one thing that is sold. All its keys have one tag, so that they
// share a shard.
type article struct {
	node *quern.Node
	sku  string
}

func (a article) key(name string) string { return "{" + a.sku + "}" + name }

// errSoldOut says that there is not enough left.
var errSoldOut = errors.New("sold out")

// reserve takes n pieces out of stock for an order. The order's name makes a
// repeat harmless.
func (a article) reserve(ctx context.Context, order string, n int64) error {
	txn := a.node.Txn(a.sku).Once("reserve:" + order)
	txn.IfCounter(a.key("stock"), handles.GreaterOrEqual, n)
	txn.CounterAdd(a.key("stock"), -n)
	txn.CounterAdd(a.key("reserved"), n)
	txn.MapPut(a.key("order:"+order), []byte(strconv.FormatInt(n, 10)), handles.PutOptions{IfAbsent: true})
	err := txn.Commit(ctx)
	if errors.Is(err, quern.ConditionFailed) {
		return errSoldOut
	}
	return err
}

// commit sells what an order has reserved.
func (a article) commit(ctx context.Context, order string, n int64) error {
	return a.settle(ctx, order, n, "sold")
}

// cancel gives back what an order has reserved.
func (a article) cancel(ctx context.Context, order string, n int64) error {
	return a.settle(ctx, order, n, "stock")
}

func (a article) settle(ctx context.Context, order string, n int64, to string) error {
	txn := a.node.Txn(a.sku).Once("settle:" + order).IfPresent(a.key("order:" + order))
	txn.CounterAdd(a.key("reserved"), -n)
	txn.CounterAdd(a.key(to), n)
	txn.MapDelete(a.key("order:" + order))
	return txn.Commit(ctx)
}

// count reads all three at one moment.
func (a article) count(ctx context.Context) (stock, reserved, sold int64, err error) {
	txn := a.node.Txn(a.sku)
	one, two, three := txn.CounterGet(a.key("stock")), txn.CounterGet(a.key("reserved")), txn.CounterGet(a.key("sold"))
	if err := txn.Commit(ctx); err != nil {
		return 0, 0, 0, err
	}
	stock, _ = one.Value()
	reserved, _ = two.Value()
	sold, _ = three.Value()
	return stock, reserved, sold, nil
}

func run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "quern-example-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	node, err := quern.Open(ctx, quern.Config{DataDir: dir})
	if err != nil {
		return err
	}
	defer func() {
		if closing := node.Close(ctx); err == nil {
			err = closing
		}
	}()

	const pieces, customers = 100, 60
	a := article{node, "sku7"}
	if _, err := node.Counter(a.key("stock")).Set(ctx, pieces); err != nil {
		return err
	}
	outcomes := make([]error, customers)
	var all sync.WaitGroup
	for i := range outcomes {
		all.Go(func() { outcomes[i] = a.buy(ctx, strconv.Itoa(i), i%3 == 0) })
	}
	all.Wait()
	for _, err := range outcomes {
		if err != nil && !errors.Is(err, errSoldOut) {
			return err
		}
	}
	stock, reserved, sold, err := a.count(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "reserved %d, stock and sold %d\n", reserved, stock+sold)
	return err
}

// buy orders two pieces; some change their minds.
func (a article) buy(ctx context.Context, order string, regrets bool) error {
	const n = 2
	if err := a.reserve(ctx, order, n); err != nil {
		return err
	}
	if regrets {
		return a.cancel(ctx, order, n)
	}
	return a.commit(ctx, order, n)
}
