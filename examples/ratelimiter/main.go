// Command ratelimiter lets each user do so many things in each window of time.
// Any number of processes can ask: the counter's one writer decides.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/handles"
)

// limiter allows up to limit things in each window. Windows begin at whole
// multiples of their length, so that around such a border twice the limit can
// come in one length.
type limiter struct {
	counter func(key string) quern.Counter // of a node or a client
	limit   int64
	window  time.Duration
}

// allow reports whether user may do one more thing now. Where it does not know,
// the caller decides whether to be strict or kind.
func (l limiter) allow(ctx context.Context, user string, now time.Time) (bool, error) {
	window := now.Truncate(l.window)
	used := l.counter(fmt.Sprintf("limit:{%s}:%d", user, window.Unix()))
	count, err := used.AddBounded(ctx, 1, handles.AddOptions{Max: &l.limit})
	switch {
	case errors.Is(err, quern.Limit):
		return false, nil
	case err != nil:
		return false, err
	case count.Value == 1:
		// The first of a window lets the counter go when the window is over.
		// Were that to fail, an old counter would stay behind, and no more.
		_, err = used.Expire(ctx, 2*l.window)
	}
	return true, err
}

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	// What a limiter counts may be lost with the process.
	node, err := quern.Open(ctx, quern.Config{Store: quern.StoreMemory})
	if err != nil {
		return err
	}
	defer func() {
		if closing := node.Close(ctx); err == nil {
			err = closing
		}
	}()

	l := limiter{counter: node.Counter, limit: 3, window: time.Minute}
	now := time.Now().Truncate(time.Minute)
	for _, asked := range []struct {
		user string
		at   time.Time
	}{{"ann", now}, {"ann", now}, {"ann", now}, {"ann", now}, {"bob", now}, {"ann", now.Add(time.Minute)}} {
		allowed, err := l.allow(ctx, asked.user, asked.at)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s in minute %v: %t\n", asked.user, asked.at.Sub(now).Minutes(), allowed); err != nil {
			return err
		}
	}
	return nil
}
