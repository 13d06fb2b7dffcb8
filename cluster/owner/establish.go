package owner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/quern-io/quern/cluster"
)

// Establish waits for the authority and returns the cluster's record, which it
// writes from want where there is none: for a node that must know it before it
// can have a store. It says once why it waits. It returns an error that wraps
// cluster.ErrRecord where want does not fit, or the context's.
func Establish(ctx context.Context, a cluster.Authority, want cluster.Record, log *slog.Logger) (cluster.Record, error) {
	return establish(ctx, a, want, log, func(error) {})
}

// establish tells of each attempt.
func establish(ctx context.Context, a cluster.Authority, want cluster.Record, log *slog.Logger, asked func(error)) (cluster.Record, error) {
	want.Base = cluster.BaseEpoch(time.Now(), want.Base)
	said := ""
	for again := (pause{}); ; {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		record, err := a.Establish(attempt, want)
		cancel()
		asked(err)
		switch {
		case err == nil:
			return record, nil
		case errors.Is(err, cluster.ErrRecord):
			return cluster.Record{}, fmt.Errorf("owner: %w", err)
		}
		if ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			log.WarnContext(ctx, "waiting for the authority", slog.Any("err", err))
		}
		if !again.wait(ctx) {
			return cluster.Record{}, fmt.Errorf("owner: waiting for the authority: %w (last: %w)", context.Cause(ctx), err)
		}
	}
}
