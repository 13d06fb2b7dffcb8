package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Read looks up keys of one shard. It returns ErrUnavailable, ErrShard,
// ErrClosed or the context's error, and ErrTimeline or ErrBackwards for a shard
// whose store has perhaps lost what was acknowledged. No connection is held
// while found runs.
func (s *Store) Read(ctx context.Context, shard uint32, keys [][]byte, found func(i int, value []byte)) error {
	if err := s.check(shard); err != nil {
		return err
	}
	var values []indexed
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		values, err = s.read(ctx, conn, shard, keys)
		return err
	})
	if err != nil {
		return err
	}
	for _, v := range values {
		found(int(v.i)-1, v.value)
	}
	return nil
}

// indexed is a value and the ordinal of its key, from 1.
type indexed struct {
	i     int64
	value []byte
}

func (s *Store) read(ctx context.Context, conn *pgx.Conn, shard uint32, keys [][]byte) ([]indexed, error) {
	var values []indexed
	var b pgx.Batch
	if len(keys) > 0 {
		b.Queue(s.sql.read, int32(shard), keys).Query(func(rows pgx.Rows) error {
			var v indexed
			_, err := pgx.ForEachRow(rows, []any{&v.i, &v.value}, func() error {
				values = append(values, v)
				v.value = nil
				return nil
			})
			return err
		})
	}
	s.queueEpoch(&b, conn, shard)
	return values, conn.SendBatch(ctx, &b).Close()
}

// queueEpoch adds a look at the shard's row, see claim.check.
func (s *Store) queueEpoch(b *pgx.Batch, conn *pgx.Conn, shard uint32) {
	b.Queue(s.sql.epoch, int32(shard)).QueryRow(func(r pgx.Row) error {
		var epoch int64
		if err := r.Scan(&epoch); err != nil {
			return err
		}
		return s.claims[shard].check(shard, uint64(epoch), lineOf(conn))
	})
}

// A scan reads pages of so many records, more from page to page, so that one
// that stops early reads little.
const (
	firstPage = 32
	lastPage  = 512
	pageBytes = 4 << 20
)

// Scan calls yield in key order, page by page; each page is a snapshot of its
// own. It returns what Read returns. No connection is held while yield runs.
func (s *Store) Scan(ctx context.Context, shard uint32, from, to []byte, yield func(key, value []byte) bool) error {
	if err := s.check(shard); err != nil {
		return err
	}
	from = append([]byte{}, from...) // nil would be null
	for limit := firstPage; ; {
		var page []record
		err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
			page, err = s.page(ctx, conn, shard, from, to, limit)
			return err
		})
		if err != nil {
			return err
		}
		size := 0
		for _, r := range page {
			if !yield(r.key, r.value) {
				return nil
			}
			size += len(r.key) + len(r.value)
		}
		if len(page) < limit {
			return nil
		}
		from = append(append([]byte{}, page[limit-1].key...), 0)
		limit = min(4*limit, lastPage, max(1, pageBytes*limit/max(size, 1)))
	}
}

type record struct{ key, value []byte }

func (s *Store) page(ctx context.Context, conn *pgx.Conn, shard uint32, from, to []byte, limit int) ([]record, error) {
	query, args := s.sql.scanAll, []any{int32(shard), from, limit}
	if len(to) > 0 {
		query, args = s.sql.scanBefore, append(args, to)
	}
	page := make([]record, 0, limit)
	var b pgx.Batch
	b.Queue(query, args...).Query(func(rows pgx.Rows) error {
		var r record
		_, err := pgx.ForEachRow(rows, []any{&r.key, &r.value}, func() error {
			page = append(page, r)
			r = record{}
			return nil
		})
		return err
	})
	s.queueEpoch(&b, conn, shard)
	return page, conn.SendBatch(ctx, &b).Close()
}
