package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
)

// watchPlace is what --json adds to each event.
type watchPlace struct {
	Epoch    uint64 `json:"epoch,string"` // it passes 2^53
	Sequence uint64 `json:"sequence"`
}

// watchEvents prints the events of a key, a line each, until SIGINT or SIGTERM.
// The timeout is for the first connection; after it the watch goes on over
// restarts of the node.
func watchEvents[E any](ctx context.Context, r *remote, a *app, events func(context.Context, connection) iter.Seq2[E, error], show func(E)) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := r.lasting(ctx, a, func(c connection) error {
		for e, err := range events(ctx, c) {
			if err != nil {
				return err
			}
			show(e)
		}
		return nil
	})
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// lasting is call for what lasts as long as the user wants it to.
func (r *remote) lasting(ctx context.Context, a *app, f func(connection) error) error {
	if r.Timeout <= 0 {
		return usagef("--timeout %v: must be more than 0", r.Timeout)
	}
	dialing, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	c, err := a.connect(dialing, "--addr", r.Addr, client.Options{Unary: true})
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // what was seen was seen
	return f(c)
}

type counterWatchCommand struct{ counterKey }

// Run prints the counter's value and each change of it.
func (k *counterWatchCommand) Run(ctx context.Context, a *app) error {
	return watchEvents(ctx, &k.remote, a,
		func(ctx context.Context, c connection) iter.Seq2[handles.CounterEvent, error] {
			return handles.NewCounter(c, k.Key).Watch(ctx)
		},
		func(e handles.CounterEvent) {
			k.print(a, e.Value, struct {
				counted
				Found     bool  `json:"found"`
				TTLMillis int64 `json:"ttl_ms"`
				watchPlace
			}{counted{k.Key, e.Value, 0}, e.Found, e.TTL.Milliseconds(), watchPlace(e.Place)})
		})
}

type mapWatchCommand struct{ entryKey }

// Run prints what the entry holds and each change of it.
func (k *mapWatchCommand) Run(ctx context.Context, a *app) error {
	return watchEvents(ctx, &k.remote, a,
		func(ctx context.Context, c connection) iter.Seq2[handles.MapEvent, error] {
			return handles.NewMapEntry(c, k.Key).Watch(ctx)
		},
		func(e handles.MapEvent) {
			k.print(a, watchedText(e.MapValue), struct {
				entry
				TTLMillis int64 `json:"ttl_ms"`
				watchPlace
			}{newEntry(k.Key, e.Value, e.Version, e.Found()), e.TTL.Milliseconds(), watchPlace(e.Place)})
		})
}

// watchedText is a value on one line: quoted where it is not plain text of one,
// since the next line is another event.
func watchedText(v handles.MapValue) string {
	switch text := string(v.Value); {
	case !v.Found():
		return "(absent)"
	case !utf8.ValidString(text), strings.ContainsFunc(text, func(c rune) bool { return !strconv.IsPrint(c) }), text == "(absent)":
		return strconv.Quote(text)
	default:
		return text
	}
}

type lockWatchCommand struct {
	remote
	Key string `arg:"" help:"The lock's key, 1 to 512 bytes of UTF-8."`
}

// Run prints who holds the lock and each change of that.
func (k *lockWatchCommand) Run(ctx context.Context, a *app) error {
	return watchEvents(ctx, &k.remote, a,
		func(ctx context.Context, c connection) iter.Seq2[handles.LockEvent, error] {
			return handles.NewLock(c, k.Key).Watch(ctx)
		},
		func(e handles.LockEvent) { k.print(a, e) })
}

func (k *lockWatchCommand) print(a *app, e handles.LockEvent) {
	first := handles.LockHold{}
	if len(e.Holders) > 0 {
		first = e.Holders[0]
	}
	switch {
	case k.JSON:
		a.printJSON(struct {
			Key       string `json:"key"`
			Held      bool   `json:"held"`
			Owner     string `json:"owner"`
			Token     uint64 `json:"token,string"`
			TTLMillis int64  `json:"ttl_ms"`
			Holds     int    `json:"holds"`
			Waiters   int    `json:"waiters"`
			watchPlace
		}{k.Key, e.Held, first.Owner, first.Token, first.TTL.Milliseconds(), e.Holds, e.Waiters, watchPlace(e.Place)})
	case e.Held:
		fmt.Fprintf(a.stdout, "held by %s, %d in all, token %d, %d waiting\n", first.Owner, e.Holds, first.Token, e.Waiters)
	default:
		fmt.Fprintf(a.stdout, "free, %d waiting\n", e.Waiters)
	}
}
