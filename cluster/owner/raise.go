package owner

import (
	"context"
	"log/slog"
	"sync"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/lease"
)

// raise raises epochs at the store. Where that is not shared the members are
// asked first: one that knows a later owner refuses.
func (o *Owner) raise(ctx context.Context, raises []lease.Raise) func(*core) {
	known := make([]uint64, len(raises))
	if !o.cfg.Shared {
		known = o.askPeers(ctx, raises)
	}
	answers := make([]raised, len(raises))
	requests, at := make([]EpochRaise, 0, len(raises)), make([]int, 0, len(raises))
	for i, r := range raises {
		if known[i] >= r.Epoch || r.From != 0 && known[i] > r.From {
			answers[i] = raised{outcome: lease.Refused, row: known[i]}
			continue
		}
		requests = append(requests, EpochRaise{Shard: r.Shard, Epoch: r.Epoch, From: r.From, Incarnation: o.cfg.Member.Incarnation})
		at = append(at, i)
	}
	for _, i := range at {
		answers[i] = raised{outcome: lease.Unclear}
	}
	if len(requests) > 0 {
		results, err := o.cfg.Store.Raise(ctx, requests)
		if err != nil {
			o.cfg.Logger.WarnContext(ctx, "epochs could not be raised at the store", slog.Any("err", err))
			results = nil
		}
		for n, result := range results {
			answers[at[n]] = verdict(requests[n], result, known[at[n]])
			if result.Err != nil {
				o.cfg.Logger.ErrorContext(ctx, "the store refuses an epoch", slog.Any("shard", requests[n].Shard), slog.Any("epoch", requests[n].Epoch), slog.Any("err", result.Err))
			}
		}
	}
	return func(c *core) {
		for i, r := range raises {
			c.raised(r, answers[i])
		}
	}
}

type raised struct {
	outcome lease.Outcome
	row     uint64
	time    int64
}

// verdict reads what a store says of one epoch. One that it refuses for its own
// reasons is not raised from the present one again; where that was not asked,
// it is tried again after a pause.
func verdict(q EpochRaise, r EpochRaised, known uint64) raised {
	switch {
	case r.OK:
		return raised{lease.Done, known, r.Time}
	case r.Err != nil && q.From == 0:
		return raised{outcome: lease.Unclear}
	default:
		return raised{outcome: lease.Refused, row: max(r.Epoch, known)}
	}
}

func (c *core) raised(r lease.Raise, answer raised) {
	if c.o.cfg.Shared {
		c.o.known.note(r.Shard, answer.row, cluster.Incarnation{})
	}
	if answer.outcome == lease.Done {
		c.times[r.Shard] = answer.time
		c.o.stats.raised.Inc()
	}
	c.do(c.m.Raised(c.now(), r, answer.outcome, answer.row))
}

// askPeers returns the highest epochs that this node and the members who answer
// know, but for those that this incarnation wrote.
func (o *Owner) askPeers(ctx context.Context, raises []lease.Raise) []uint64 {
	shards := make([]uint32, len(raises))
	for i := range raises {
		shards[i] = raises[i].Shard
	}
	highest := o.known.besides(o.cfg.Member.Incarnation, shards)
	if o.cfg.Peers == nil {
		return highest
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	var (
		mu sync.Mutex
		wg sync.WaitGroup
	)
	for _, m := range o.View().Members {
		if !m.Passing || m.Incarnation == o.cfg.Member.Incarnation {
			continue
		}
		wg.Go(func() {
			epochs, err := o.cfg.Peers.Highest(ctx, m, o.cfg.Member.Incarnation, shards)
			if err != nil || len(epochs) != len(shards) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i, epoch := range epochs {
				if epoch <= lease.MaxEpoch {
					highest[i] = max(highest[i], epoch)
				}
			}
		})
	}
	wg.Wait()
	for i, shard := range shards {
		o.known.note(shard, highest[i], cluster.Incarnation{})
	}
	return highest
}
