// Command counter embeds a node, counts from several goroutines, and shows what
// an idempotency key is for.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/quern-io/quern"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
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

	views := node.Counter("page:42")
	var visitors sync.WaitGroup
	for range 100 {
		visitors.Go(func() { _, _ = views.Add(ctx, 1) })
	}
	visitors.Wait()

	// The answer to this order got lost, so it is sent again.
	for range 2 {
		if _, err := node.Counter("stock:7").Once("order-1").Add(ctx, -1); err != nil {
			return err
		}
	}

	seen, err := views.Get(ctx)
	if err != nil {
		return err
	}
	stock, err := node.Counter("stock:7").Get(ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "views %d, stock %d\n", seen, stock)
	return err
}
