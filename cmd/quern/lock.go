package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

type lockCommands struct {
	Run          lockRunCommand     `cmd:"" help:"Run a program while holding a lock."`
	Acquire      lockAcquireCommand `cmd:"" help:"Take a lock for an owner and print its fencing token; exits 1 where it was not had."`
	Renew        lockRenewCommand   `cmd:"" help:"Start a lease anew."`
	Release      lockReleaseCommand `cmd:"" help:"Give a lock back, or leave its queue."`
	Get          lockGetCommand     `cmd:"" help:"Print who holds a lock and how many wait."`
	ForceRelease lockForceCommand   `cmd:"" help:"Take a lock away from all who hold it."`
	Watch        lockWatchCommand   `cmd:"" help:"Print who holds a lock and each change of that, until it is interrupted."`
}

// lockState is the result of all lock commands. What is not known, or is not
// there, is empty or 0.
type lockState struct {
	Key string `json:"key"`
	// Held says whether owner and token hold the lock now.
	Held  bool   `json:"held"`
	Owner string `json:"owner"`
	Token uint64 `json:"token,string"` // it passes 2^53
	// TTLMillis is what the lease runs for, or what is left of it.
	TTLMillis int64 `json:"ttl_ms"`
	Waiters   int   `json:"waiters"`
}

// millis rounds up, so that what is left is not 0.
func millis(d time.Duration) int64 { return (d + time.Millisecond - 1).Milliseconds() }

// token is a fencing token, as a flag has it.
type token uint64

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *token) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || n == 0 {
		return usagef("%q is not a token, a decimal number of 64 bits from 1 on", text)
	}
	*v = token(n)
	return nil
}

type lockKey struct {
	remote
	Key string `arg:"" help:"The lock's key, 1 to 512 bytes of UTF-8."`
}

type lockWrite struct {
	lockKey
	guarded
	ID string `name:"id" placeholder:"ID" help:"Idempotency key: the same command under the same id gets the same answer within 24 hours."`
}

// print prints a result: what people want of it alone for them.
func (k *lockKey) print(a *app, text string, result any) {
	if k.JSON {
		a.printJSON(result)
		return
	}
	fmt.Fprintln(a.stdout, text)
}

// lockTerms are the flags that say how a lock is asked for.
type lockTerms struct {
	TTL     time.Duration `name:"ttl" default:"30s" help:"How long the lock stays taken when it is renewed no more; at most 24h."`
	Shared  bool          `help:"Hold it together with other shared owners."`
	Permits uint32        `default:"1" placeholder:"N" help:"How many exclusive owners the lock takes at a time; all must agree."`
}

// options check the flags. A wait of 0 does not wait.
func (k *lockTerms) options(owner string, wait time.Duration) (handles.LockOptions, error) {
	switch {
	case k.TTL <= 0:
		return handles.LockOptions{}, usagef("--ttl %v: must be more than 0", k.TTL)
	case wait < 0:
		return handles.LockOptions{}, usagef("--wait %v: must not be negative", wait)
	case k.Permits == 0:
		return handles.LockOptions{}, usagef("--permits 0: must be at least 1")
	case wait == 0:
		wait = -1
	}
	return handles.LockOptions{TTL: k.TTL, Wait: wait, Shared: k.Shared, Permits: k.Permits, Owner: owner}, nil
}

type lockAcquireCommand struct {
	lockKey
	guarded
	lockTerms
	Owner string        `required:"" placeholder:"ID" help:"Who holds it, 1 to 128 bytes; an owner that has it gets the same token again."`
	Wait  time.Duration `default:"0s" help:"How long to wait for the lock, besides --timeout."`
}

// Run asks for the lock and leaves it held: the lease belongs to owner and
// token.
func (k *lockAcquireCommand) Run(ctx context.Context, a *app) error {
	o, err := k.options(k.Owner, k.Wait)
	if err != nil {
		return err
	}
	// Not unary: a wait is to outlast the loss of a connection.
	return k.within(ctx, a, k.Wait, client.Options{}, func(ctx context.Context, c connection) error {
		g, err := k.guards(handles.NewLock(c, k.Key)).Grant(ctx, o)
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		result := lockState{Key: k.Key, Held: g.Held, Owner: k.Owner, Token: g.Token, Waiters: g.Waiters}
		switch {
		case g.Held:
			result.TTLMillis = millis(g.TTL)
			k.print(a, strconv.FormatUint(g.Token, 10), result)
			return nil
		case k.JSON:
			a.printJSON(result)
		default:
			fmt.Fprintf(a.stderr, "quern: not had: the lock is held by others; %d wait for it\n", g.Waiters)
		}
		return errSaid
	})
}

type lockRenewCommand struct {
	lockWrite
	Token token         `required:"" placeholder:"N" help:"The fencing token of the hold."`
	TTL   time.Duration `name:"ttl" default:"30s" help:"How long the lease runs from now on; at most 24h."`
}

// Run renews. It calls the method itself, since the handle does not return who
// holds the lock.
func (k *lockRenewCommand) Run(ctx context.Context, a *app) error {
	if k.TTL <= 0 {
		return usagef("--ttl %v: must be more than 0", k.TTL)
	}
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		var reply quernv1.LockServiceRenewResponse
		err := c.Invoke(ctx, &handles.Operation{
			Method: handles.LockRenew, Key: k.Key, IdempotencyKey: k.ID, Reply: &reply,
			Request: &quernv1.LockServiceRenewRequest{
				Key: k.Key, IdempotencyKey: k.ID, Guard: k.message(), Token: uint64(k.Token), Ttl: durationpb.New(k.TTL),
			},
		})
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		ttl := reply.GetTtl().AsDuration()
		k.print(a, "renewed for "+ttl.String(), lockState{
			k.Key, true, reply.GetOwner(), reply.GetToken(), millis(ttl), int(reply.GetWaiters()),
		})
		return nil
	})
}

type lockReleaseCommand struct {
	lockWrite
	Token *token  `xor:"whose" required:"" placeholder:"N" help:"The fencing token of the hold."`
	Owner *string `xor:"whose" required:"" placeholder:"ID" help:"Whatever this owner has: its hold or its place in the queue."`
}

// Run releases. It calls the method itself, since the handle does not return
// who held the lock.
func (k *lockReleaseCommand) Run(ctx context.Context, a *app) error {
	q := &quernv1.LockServiceReleaseRequest{Key: k.Key, IdempotencyKey: k.ID, Guard: k.message()}
	if k.Token != nil {
		q.Token = uint64(*k.Token)
	}
	if k.Owner != nil {
		q.Owner = *k.Owner
	}
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		var reply quernv1.LockServiceReleaseResponse
		err := c.Invoke(ctx, &handles.Operation{
			Method: handles.LockRelease, Key: k.Key, IdempotencyKey: k.ID, Request: q, Reply: &reply,
		})
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		k.print(a, "released", lockState{
			Key: k.Key, Owner: reply.GetOwner(), Token: q.GetToken(), Waiters: int(reply.GetWaiters()),
		})
		return nil
	})
}

type lockForceCommand struct {
	lockWrite
	Reason string `required:"" placeholder:"TEXT" help:"Why, for the operator's log, 1 to 512 bytes."`
}

// Run takes the lock away. It calls the method itself, since the handle does
// not return who held the lock.
func (k *lockForceCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		var reply quernv1.LockServiceForceReleaseResponse
		err := c.Invoke(ctx, &handles.Operation{
			Method: handles.LockForceRelease, Key: k.Key, IdempotencyKey: k.ID, Reply: &reply,
			Request: &quernv1.LockServiceForceReleaseRequest{Key: k.Key, IdempotencyKey: k.ID, Guard: k.message(), Reason: k.Reason},
		})
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		result := struct {
			lockState
			// Released is how many holds were ended; owner and token are of the
			// first.
			Released uint32       `json:"released"`
			Holders  []lockHolder `json:"holders"`
		}{lockState{Key: k.Key, Waiters: int(reply.GetWaiters())}, reply.GetReleased(), holdersOf(reply.GetHolders())}
		if len(result.Holders) > 0 {
			result.Owner, result.Token = result.Holders[0].Owner, result.Holders[0].Token
		}
		k.print(a, fmt.Sprintf("released from %d", result.Released), result)
		return nil
	})
}
