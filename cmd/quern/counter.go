package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

type counterCommands struct {
	Add    addCommand          `cmd:"" help:"Add to a counter and print its new value."`
	Get    getCommand          `cmd:"" help:"Print a counter's value; an absent one is 0."`
	Set    setCommand          `cmd:"" help:"Replace a counter's value."`
	Cas    casCommand          `cmd:"" help:"Replace a counter's value where it is as expected; exits 1 where it is not."`
	Reset  resetCommand        `cmd:"" help:"Make a counter absent."`
	Expire expireCommand       `cmd:"" help:"Make a counter absent after a while."`
	Watch  counterWatchCommand `cmd:"" help:"Print a counter's value and each change of it, until it is interrupted."`
}

// counted is the result of all counter commands.
type counted struct {
	Key   string `json:"key"`
	Value int64  `json:"value"`
	// Applied is by how much this command changed the value.
	Applied int64 `json:"applied"`
}

type counterKey struct {
	remote
	Key string `arg:"" help:"The counter's key, 1 to 512 bytes of UTF-8."`
}

type writeKey struct {
	counterKey
	guarded
	ID string `name:"id" placeholder:"ID" help:"Idempotency key: the same command under the same id is applied once within 24 hours."`
}

func (k *writeKey) handle(c connection) handles.Counter {
	counter := handles.NewCounter(c, k.Key).Once(k.ID)
	if k.Guard != nil {
		counter = counter.Guarded(handles.Guard(*k.Guard))
	}
	return counter
}

// print prints a result: the value alone for people.
func (k *counterKey) print(a *app, value int64, result any) {
	if k.JSON {
		a.printJSON(result)
		return
	}
	fmt.Fprintln(a.stdout, value)
}

type addCommand struct {
	writeKey
	Delta    integer  `arg:"" optional:"" default:"1" help:"What to add; 1 by default, may be negative."`
	Min      *integer `placeholder:"N" help:"Refuse a result below N."`
	Max      *integer `placeholder:"N" help:"Refuse a result above N."`
	Saturate bool     `help:"Stop at the bound instead of refusing."`
}

// Run adds.
func (k *addCommand) Run(ctx context.Context, a *app) error {
	if k.Min != nil && k.Max != nil && *k.Min > *k.Max {
		return usagef("--min %d: is above --max %d", *k.Min, *k.Max)
	}
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		added, err := k.handle(c).AddBounded(ctx, int64(k.Delta), handles.AddOptions{
			Min: k.Min.pointer(), Max: k.Max.pointer(), Saturate: k.Saturate,
		})
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		k.print(a, added.Value, counted{k.Key, added.Value, added.Applied})
		if !k.JSON && added.Applied != int64(k.Delta) {
			fmt.Fprintf(a.stderr, "quern: added %d instead of %d\n", added.Applied, k.Delta)
		}
		return nil
	})
}

type getCommand struct{ counterKey }

// Run reads.
func (k *getCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		value, ttl, err := handles.NewCounter(c, k.Key).GetTTL(ctx)
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		k.print(a, value, struct {
			counted
			// TTLMillis is what is left until it expires; 0 where it does not.
			TTLMillis int64 `json:"ttl_ms"`
		}{counted{k.Key, value, 0}, (ttl + time.Millisecond - 1).Milliseconds()})
		return nil
	})
}

type setCommand struct {
	writeKey
	Value integer `arg:"" name:"n" help:"The new value."`
}

// Run replaces the value.
func (k *setCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		applied, err := k.handle(c).Set(ctx, int64(k.Value))
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		k.print(a, int64(k.Value), counted{k.Key, int64(k.Value), applied})
		return nil
	})
}

type casCommand struct {
	writeKey
	Old integer `arg:"" help:"The value that it must have."`
	New integer `arg:"" help:"The value that it gets."`
}

// Run replaces the value where it is as expected.
func (k *casCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		value, swapped, err := k.handle(c).CompareAndSet(ctx, int64(k.Old), int64(k.New))
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		result := struct {
			counted
			Swapped bool `json:"swapped"`
		}{counted{k.Key, value, 0}, swapped}
		if swapped {
			result.Applied = int64(k.New) - int64(k.Old)
		}
		k.print(a, value, result)
		if swapped {
			return nil
		}
		if !k.JSON {
			fmt.Fprintf(a.stderr, "quern: not swapped: the value is %d, not %d\n", value, k.Old)
		}
		return errSaid
	})
}

type resetCommand struct{ writeKey }

// Run makes the counter absent.
func (k *resetCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		previous, err := k.handle(c).Reset(ctx)
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		k.print(a, 0, counted{k.Key, 0, -previous})
		return nil
	})
}

type expireCommand struct {
	writeKey
	After time.Duration `arg:"" name:"d" help:"How long it still lives, such as 90s or 1h30m; 0 ends a running expiry."`
}

// Run lets the counter expire. It calls the method itself, since the handle
// does not return the value.
func (k *expireCommand) Run(ctx context.Context, a *app) error {
	if k.After < 0 {
		return usagef("<d> %v: must not be negative", k.After)
	}
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		var reply quernv1.CounterServiceExpireResponse
		err := c.Invoke(ctx, &handles.Operation{
			Method: handles.CounterExpire, Key: k.Key, IdempotencyKey: k.ID, Reply: &reply,
			Request: &quernv1.CounterServiceExpireRequest{
				Key: k.Key, IdempotencyKey: k.ID, Guard: k.message(), Ttl: durationpb.New(k.After),
			},
		})
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		k.print(a, reply.GetValue(), struct {
			counted
			Found bool `json:"found"`
		}{counted{k.Key, reply.GetValue(), 0}, reply.GetFound()})
		if !k.JSON && !reply.GetFound() {
			fmt.Fprintln(a.stderr, "quern: absent: there is nothing to expire")
		}
		return nil
	})
}
