package quern_test

import (
	"context"
	"fmt"
	"os"

	"github.com/quern-io/quern"
)

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "quern-example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	node, err := quern.Open(ctx, quern.Config{DataDir: dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer node.Close(ctx)

	counter := node.Counter("page:42")
	for range 3 {
		if _, err := counter.Add(ctx, 1); err != nil {
			fmt.Println(err)
			return
		}
	}
	// A repeat under the same idempotency key does not count again.
	for range 2 {
		value, err := counter.Once("order-17").Add(ctx, 10)
		fmt.Println(value, err)
	}
	// Output:
	// 13 <nil>
	// 13 <nil>
}
