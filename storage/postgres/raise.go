package postgres

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/quern-io/quern/actors"
)

// claim is what this process knows of a shard that it has raised.
type claim struct {
	mu    sync.Mutex
	epoch uint64 // the highest that was raised here; 0 where none was
	line  string // of the server on which it was raised
}

func (c *claim) raised(epoch uint64, line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch >= c.epoch {
		c.epoch, c.line = epoch, line
	}
}

// check holds what a server says against what is known: a server of another
// line, or one whose epoch is below our own, has perhaps lost commits that were
// acknowledged.
func (c *claim) check(shard uint32, epoch uint64, line string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.epoch == 0:
		return nil
	case c.line != line:
		return fmt.Errorf("%w: shard %d was raised on %q, the server is on %q: see that it lacks no commits, then restart the node", ErrTimeline, shard, c.line, line)
	case epoch < c.epoch:
		return fmt.Errorf("%w: shard %d has epoch %d, this node raised it to %d: it was restored from a backup or lacks commits; restart the node to go on from there", ErrBackwards, shard, epoch, c.epoch)
	default:
		return nil
	}
}

// row is one of shards.
type row struct {
	epoch       uint64
	incarnation [16]byte
	time        int64
	changed     bool
}

func (r *row) raise(q *actors.Raise) actors.Raised {
	var ok bool
	switch {
	case q.From == 0:
		ok = r.epoch < q.Epoch
	case r.epoch == q.Epoch && r.incarnation == q.Incarnation:
		return actors.Raised{OK: true, Epoch: r.epoch, Time: r.time}
	default:
		ok = r.epoch == q.From && q.Epoch > q.From
	}
	if ok {
		r.epoch, r.incarnation, r.changed = q.Epoch, q.Incarnation, true
	}
	return actors.Raised{OK: ok, Epoch: r.epoch, Time: r.time}
}

// Raise raises epochs in one transaction. It takes each row in a way that waits
// for a commit that has it, so that what an earlier epoch has under way lands
// before the raise or not at all. A lone store that has lost its lock waits for
// it. A shard that was raised on another timeline, or whose epoch went back, is
// not raised by a compare-and-set, nor by a member in any way, and Raised.Err says
// so. It returns
// ErrUnavailable, ErrShard, ErrClosed or the context's error; whether anything
// was raised is then unknown.
func (s *Store) Raise(ctx context.Context, requests []actors.Raise) ([]actors.Raised, error) {
	for i := range requests {
		if err := s.check(requests[i].Shard); err != nil {
			return nil, err
		}
	}
	if s.guard != nil {
		if err := s.guard.wait(ctx); err != nil {
			return nil, err
		}
	}
	var raised []actors.Raised
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) (err error) {
		raised, err = s.raise(ctx, conn, requests)
		return err
	})
	return raised, err
}

func (s *Store) raise(ctx context.Context, conn *pgx.Conn, requests []actors.Raise) ([]actors.Raised, error) {
	raised := make([]actors.Raised, len(requests))
	line := lineOf(conn)
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		rows, err := s.lockRows(ctx, tx, requests)
		if err != nil {
			return err
		}
		for i := range requests {
			q := &requests[i]
			r := rows[q.Shard]
			if err := s.lineage(q, r.epoch, line); err != nil {
				raised[i] = actors.Raised{Epoch: r.epoch, Time: r.time, Err: err}
				continue
			}
			raised[i] = r.raise(q)
		}
		return s.writeRows(ctx, tx, rows)
	})
	if err != nil {
		return nil, err
	}
	for i := range requests {
		if raised[i].OK {
			s.claims[requests[i].Shard].raised(raised[i].Epoch, line)
			s.line.CompareAndSwap(nil, &line)
		}
	}
	return raised, nil
}

// lineage says why an epoch must not be raised on this server. A lone node's claim
// takes the server as it is. A member claims shards all the time, and must not
// pass over by that what would have stopped them.
func (s *Store) lineage(q *actors.Raise, epoch uint64, line string) error {
	if q.From == 0 && s.options.Cluster == "" {
		return nil
	}
	if first := s.line.Load(); s.options.Cluster != "" && first != nil && *first != line {
		return fmt.Errorf("%w: this node raised its first epoch on %q, the server is on %q: see that it lacks no commits, then restart the nodes", ErrTimeline, *first, line)
	}
	return s.claims[q.Shard].check(q.Shard, epoch, line)
}

func (s *Store) lockRows(ctx context.Context, tx pgx.Tx, requests []actors.Raise) (map[uint32]*row, error) {
	shards := make([]int32, len(requests))
	for i := range requests {
		shards[i] = int32(requests[i].Shard)
	}
	found, err := tx.Query(ctx, s.sql.rows, shards)
	if err != nil {
		return nil, err
	}
	rows := make(map[uint32]*row, len(requests))
	var shard int32
	var epoch, time int64
	var incarnation []byte
	_, err = pgx.ForEachRow(found, []any{&shard, &epoch, &incarnation, &time}, func() error {
		r := &row{epoch: uint64(epoch), time: time}
		copy(r.incarnation[:], incarnation)
		rows[uint32(shard)] = r
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range requests {
		if rows[requests[i].Shard] == nil {
			return nil, s.noRow(requests[i].Shard)
		}
	}
	return rows, nil
}

// noRow is a row that somebody has deleted.
func (s *Store) noRow(shard uint32) error {
	return fmt.Errorf("%w: the table %s.shards has lost its row; restore it from a backup: shard %d", ErrShard, s.schema, shard)
}

func (s *Store) writeRows(ctx context.Context, tx pgx.Tx, rows map[uint32]*row) error {
	var shards []int32
	var epochs []int64
	var incarnations [][]byte
	for shard, r := range rows {
		if r.changed {
			shards, epochs = append(shards, int32(shard)), append(epochs, int64(r.epoch))
			incarnations = append(incarnations, r.incarnation[:])
		}
	}
	if len(shards) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, s.sql.raise, shards, epochs, incarnations)
	return err
}
