package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

type lockGetCommand struct{ lockKey }

// lockHolder is one hold as --json prints it.
type lockHolder struct {
	Owner     string `json:"owner"`
	Token     uint64 `json:"token,string"`
	Shared    bool   `json:"shared"`
	TTLMillis int64  `json:"ttl_ms"`
}

func holdersOf(all []*quernv1.LockHolder) []lockHolder {
	out := make([]lockHolder, 0, len(all)) // never null
	for _, h := range all {
		out = append(out, lockHolder{h.GetOwner(), h.GetToken(), h.GetShared(), millis(h.GetTtl().AsDuration())})
	}
	return out
}

// lockInfo is the result of "lock get". Owner, token and ttl_ms are those of
// the first who got the lock.
type lockInfo struct {
	lockState
	// Permits is 0 where nobody holds the lock or waits.
	Permits uint32 `json:"permits"`
	Holds   uint32 `json:"holds"`
	// Holders and Queue are the first 1,000 in each case.
	Holders []lockHolder `json:"holders"`
	Queue   []string     `json:"queue"`
}

// Run tells who holds the lock. It calls the method itself, since the handle
// keeps lists that are empty as nil.
func (k *lockGetCommand) Run(ctx context.Context, a *app) error {
	return k.call(ctx, a, func(ctx context.Context, c connection) error {
		var reply quernv1.LockServiceGetResponse
		err := c.Invoke(ctx, &handles.Operation{
			Method: handles.LockGet, Key: k.Key, Reply: &reply, Request: &quernv1.LockServiceGetRequest{Key: k.Key},
		})
		if err != nil {
			return err //nolint:wrapcheck // a *failure.Error says it all
		}
		info := lockInfo{
			lockState: lockState{Key: k.Key, Held: reply.GetHeld(), Waiters: int(reply.GetWaiters())},
			Permits:   reply.GetPermits(), Holds: reply.GetHolds(),
			Holders: holdersOf(reply.GetHolders()), Queue: make([]string, 0, len(reply.GetQueue())),
		}
		for _, w := range reply.GetQueue() {
			info.Queue = append(info.Queue, w.GetOwner())
		}
		if len(info.Holders) > 0 {
			first := info.Holders[0]
			info.Owner, info.Token, info.TTLMillis = first.Owner, first.Token, first.TTLMillis
		}
		k.print(a, info.String(), info)
		return nil
	})
}

// String is for people.
func (i lockInfo) String() string {
	if !i.Held && i.Waiters == 0 {
		return "free"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "holders %d of %d, waiters %d\n\n", i.Holds, i.Permits, i.Waiters)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "OWNER\tTOKEN\tMODE\tLEFT")
	for _, h := range i.Holders {
		mode := "exclusive"
		if h.Shared {
			mode = "shared"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%v\n", h.Owner, h.Token, mode, time.Duration(h.TTLMillis)*time.Millisecond)
	}
	for _, owner := range i.Queue {
		fmt.Fprintf(w, "%s\t\twaits\t\n", owner)
	}
	_ = w.Flush() // into memory
	return strings.TrimSuffix(b.String(), "\n")
}
