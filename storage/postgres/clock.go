package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Clock returns what the server's clock showed at some time between call and
// return. It tries once, so that they are not far apart, and returns the errors
// that [Store.Read] does.
func (s *Store) Clock(ctx context.Context) (time.Time, error) {
	if err := s.begin(ctx); err != nil {
		return time.Time{}, err
	}
	defer s.working.done()
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var at time.Time
	err := s.attempt(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&at)
	})
	if err != nil {
		return time.Time{}, s.failed(ctx, err)
	}
	return at, nil
}
